"""The methods for a Lightning project: ``from lit_continual.callbacks import Distillation``."""

from lit_continual.methods.der.callback import DarkExperienceReplay
from lit_continual.methods.distillation.callback import Distillation
from lit_continual.methods.fusion.callback import WeightFusion
from lit_continual.methods.l2sp.callback import L2SP
from lit_continual.methods.lora.callback import LoRA
from lit_continual.methods.loss_term import LossTerm
from lit_continual.methods.meta.callback import MetaTune
from lit_continual.methods.partial_training import PartialTraining
from lit_continual.methods.pretrained.callback import Pretrained
from lit_continual.methods.tgd.callback import TargetedGradientDescent
from lit_continual.methods.train_only.callback import TrainOnly

__all__ = [
    "L2SP",
    "DarkExperienceReplay",
    "Distillation",
    "LoRA",
    "LossTerm",
    "MetaTune",
    "PartialTraining",
    "Pretrained",
    "TargetedGradientDescent",
    "TrainOnly",
    "WeightFusion",
]
