"""The methods for a Lightning project: ``from lit_continual.callbacks import Distillation``.

A Trainer takes one or several of them: ``Trainer(callbacks=[Distillation(alpha=0.5)])``.
"""

from lit_continual.methods.agem.callback import AGEM as AGEM
from lit_continual.methods.bases.loss_term import LossTerm as LossTerm
from lit_continual.methods.bases.partial_training import PartialTraining as PartialTraining
from lit_continual.methods.der.callback import DarkExperienceReplay as DarkExperienceReplay
from lit_continual.methods.distillation.callback import Distillation as Distillation
from lit_continual.methods.ewc.callback import EWC as EWC
from lit_continual.methods.fusion.callback import WeightFusion as WeightFusion
from lit_continual.methods.ilt.callback import ILT as ILT
from lit_continual.methods.l2sp.callback import L2SP as L2SP
from lit_continual.methods.lora.callback import LoRA as LoRA
from lit_continual.methods.mas.callback import MAS as MAS
from lit_continual.methods.meta.callback import MetaTune as MetaTune
from lit_continual.methods.mib.callback import MiB as MiB
from lit_continual.methods.patient_tuning.callback import PatientTuning as PatientTuning
from lit_continual.methods.plop.callback import PLOP as PLOP
from lit_continual.methods.pretrained.callback import Pretrained as Pretrained
from lit_continual.methods.rwalk.callback import RWalk as RWalk
from lit_continual.methods.si.callback import SI as SI
from lit_continual.methods.speed.channels_last import ChannelsLast as ChannelsLast
from lit_continual.methods.speed.compiled_network import CompiledNetwork as CompiledNetwork
from lit_continual.methods.tgd.callback import TargetedGradientDescent as TargetedGradientDescent
from lit_continual.methods.train_only.callback import TrainOnly as TrainOnly
