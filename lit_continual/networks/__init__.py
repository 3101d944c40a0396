"""Networks that MONAI does not have."""

from lit_continual.networks.dense_net_121_unet import DenseNet121UNet as DenseNet121UNet
from lit_continual.networks.dncnn import DnCNN as DnCNN
from lit_continual.networks.fcn8s import FCN8s as FCN8s
from lit_continual.networks.vgg16_features import VGG16Features as VGG16Features
from lit_continual.runs.checkpoints.classes import NETWORKS as NETWORKS
