"""LightningModules, and the heads that grow on them."""

from lit_continual.modules.meta_strategies import ANIL, FOMAML, MAML, MetaStrategy, Reptile
from lit_continual.modules.meta_tune import MetaTune

__all__ = ["ANIL", "FOMAML", "MAML", "MetaStrategy", "MetaTune", "Reptile"]
