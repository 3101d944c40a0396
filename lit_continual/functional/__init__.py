"""The mathematics of each paper: tensors in, tensors out, torch only."""

from lit_continual.functional.l2_sp import l2_sp, l2_sp_gradient, l2_sp_proximal_

__all__ = ["l2_sp", "l2_sp_gradient", "l2_sp_proximal_"]
