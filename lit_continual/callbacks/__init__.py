"""Continual-learning methods, one callback a file."""

from lit_continual.callbacks.l2sp import L2SP

__all__ = ["L2SP"]
