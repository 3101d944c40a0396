"""Continual-learning methods, one callback a file."""
