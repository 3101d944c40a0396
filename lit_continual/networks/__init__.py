"""Networks that MONAI does not have."""

from lit_continual.networks.dense_net_121_unet import DenseNet121UNet
from lit_continual.networks.fcn8s import FCN8s
from lit_continual.networks.pretrained import LoadReport, load_pretrained, match_names, read_weights

__all__ = [
    "DenseNet121UNet",
    "FCN8s",
    "LoadReport",
    "load_pretrained",
    "match_names",
    "read_weights",
]
