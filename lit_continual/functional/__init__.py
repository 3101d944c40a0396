"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.kernel_sparsity_entropy import kernel_sparsity_entropy

__all__ = ["kernel_sparsity_entropy"]
