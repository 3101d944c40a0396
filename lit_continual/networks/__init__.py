"""Networks that MONAI does not have."""

from lit_continual.networks.pretrained import LoadReport, load_pretrained, match_names, read_weights

__all__ = ["LoadReport", "load_pretrained", "match_names", "read_weights"]
