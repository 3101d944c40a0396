"""The old network beside the new one: what it is, what it is asked, and what of its answers is compared."""
