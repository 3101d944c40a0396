"""Continual-learning methods, one callback a file."""

from lit_continual.callbacks.distillation import Distillation
from lit_continual.callbacks.loss_term import LossTerm

__all__ = ["Distillation", "LossTerm"]
