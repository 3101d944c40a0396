"""Shoulder MR in two contrasts."""
