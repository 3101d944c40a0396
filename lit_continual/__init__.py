"""Continual learning for medical images as PyTorch Lightning callbacks.

``import lit_continual as lc`` imports nothing else; ``lc.Distillation`` and the other names of ``__init__.pyi`` are
imported when they are first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
