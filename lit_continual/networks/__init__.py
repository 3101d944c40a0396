"""Networks that MONAI does not have."""

from lit_continual.networks.vgg16_features import VGG16Features

__all__ = ["VGG16Features"]
