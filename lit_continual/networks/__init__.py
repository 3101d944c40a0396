"""Networks that MONAI does not have."""

from lit_continual.networks.dense_net_121_unet import DenseNet121UNet
from lit_continual.networks.dncnn import DnCNN
from lit_continual.networks.fcn8s import FCN8s
from lit_continual.networks.pretrained import LoadReport, load_pretrained, match_names, read_weights
from lit_continual.networks.producers import find_producers
from lit_continual.networks.redundancy import (
    drop_kernels,
    free_share,
    kernel_scores,
    learnt_values,
    threshold_for_share,
)
from lit_continual.networks.vgg16_features import VGG16Features

__all__ = [
    "DenseNet121UNet",
    "DnCNN",
    "FCN8s",
    "LoadReport",
    "VGG16Features",
    "drop_kernels",
    "find_producers",
    "free_share",
    "kernel_scores",
    "learnt_values",
    "load_pretrained",
    "match_names",
    "read_weights",
    "threshold_for_share",
]
