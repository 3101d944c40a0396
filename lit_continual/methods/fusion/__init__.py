"""Weight fusion: the old network and the new one are averaged."""
