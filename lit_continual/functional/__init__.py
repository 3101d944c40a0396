"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.distillation_loss import distillation_loss

__all__ = ["distillation_loss"]
