"""Many fits, each a process and a folder: tables of methods, and sweeps over options, here or on a cluster."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
