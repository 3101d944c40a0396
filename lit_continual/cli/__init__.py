"""The command line."""

from lit_continual.cli.dispatch import main

__all__ = ["main"]
