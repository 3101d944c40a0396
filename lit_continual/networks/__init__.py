"""Networks that MONAI does not have."""

from lit_continual.networks.fcn8s import FCN8s

__all__ = ["FCN8s"]
