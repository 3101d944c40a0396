"""Continual-learning methods, one callback a file."""

from lit_continual.callbacks.distillation import Distillation
from lit_continual.callbacks.l2sp import L2SP
from lit_continual.callbacks.loss_term import LossTerm
from lit_continual.callbacks.partial_training import PartialTraining
from lit_continual.callbacks.pretrained import Pretrained
from lit_continual.callbacks.targeted_gradient_descent import TargetedGradientDescent
from lit_continual.callbacks.train_only import TrainOnly

__all__ = [
    "L2SP",
    "Distillation",
    "LossTerm",
    "PartialTraining",
    "Pretrained",
    "TargetedGradientDescent",
    "TrainOnly",
]
