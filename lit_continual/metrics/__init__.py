"""Torchmetrics of a case, and formulas over a run: overlap, surface distances, continual scores, paired tests."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
