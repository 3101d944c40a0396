"""The methods for a Lightning project: ``from lit_continual.callbacks import Distillation``."""

from lit_continual.methods.agem.callback import AGEM
from lit_continual.methods.der.callback import DarkExperienceReplay
from lit_continual.methods.distillation.callback import Distillation
from lit_continual.methods.ewc.callback import EWC
from lit_continual.methods.fusion.callback import WeightFusion
from lit_continual.methods.ilt.callback import ILT
from lit_continual.methods.l2sp.callback import L2SP
from lit_continual.methods.lora.callback import LoRA
from lit_continual.methods.loss_term import LossTerm
from lit_continual.methods.mas.callback import MAS
from lit_continual.methods.meta.callback import MetaTune
from lit_continual.methods.mib.callback import MiB
from lit_continual.methods.partial_training import PartialTraining
from lit_continual.methods.patient_tuning.callback import PatientTuning
from lit_continual.methods.plop.callback import PLOP
from lit_continual.methods.pretrained.callback import Pretrained
from lit_continual.methods.rwalk.callback import RWalk
from lit_continual.methods.si.callback import SI
from lit_continual.methods.speed.channels_last import ChannelsLast
from lit_continual.methods.speed.compiled_network import CompiledNetwork
from lit_continual.methods.tgd.callback import TargetedGradientDescent
from lit_continual.methods.train_only.callback import TrainOnly

__all__ = [
    "AGEM",
    "EWC",
    "ILT",
    "L2SP",
    "MAS",
    "PLOP",
    "SI",
    "ChannelsLast",
    "CompiledNetwork",
    "DarkExperienceReplay",
    "Distillation",
    "LoRA",
    "LossTerm",
    "MetaTune",
    "MiB",
    "PartialTraining",
    "PatientTuning",
    "Pretrained",
    "RWalk",
    "TargetedGradientDescent",
    "TrainOnly",
    "WeightFusion",
]
