"""Continual learning for medical images as PyTorch Lightning callbacks."""

__version__ = "0.1.0"
