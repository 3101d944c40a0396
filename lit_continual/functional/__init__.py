"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.inner_loop import adapt
from lit_continual.functional.meta_gradient import meta_gradient, task_gradient

__all__ = ["adapt", "meta_gradient", "task_gradient"]
