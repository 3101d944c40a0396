"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.continual_scores import continual_scores

__all__ = ["continual_scores"]
