"""Continual-learning methods, one callback a file."""

from lit_continual.callbacks.distillation import Distillation
from lit_continual.callbacks.loss_term import LossTerm
from lit_continual.callbacks.targeted_gradient_descent import TargetedGradientDescent

__all__ = ["Distillation", "LossTerm", "TargetedGradientDescent"]
