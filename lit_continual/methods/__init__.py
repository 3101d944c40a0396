"""Continual-learning methods, one folder each, and the bases that they share."""
