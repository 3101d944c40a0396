"""Segmentation: the module, heads that grow, losses, scores of volumes."""
