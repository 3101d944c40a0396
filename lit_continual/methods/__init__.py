"""Continual-learning methods, one folder each, and what several share, in `bases`."""
