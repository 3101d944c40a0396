"""Packages whose classes a file may name: those that its caller trusts, and while it is opened."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TRUSTED: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(packages: Collection[str]) -> Iterator[None]:
    """Within the block, let what a file describes name classes of packages that the caller trusts.

    Example:
        >>> with trusting(["my_package"]):
        ...     trusted()
        ('my_package',)
        >>> trusted()
        ()
    """
    token = _TRUSTED.set((*_TRUSTED.get(), *packages))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def trusted() -> tuple[str, ...]:
    """Return the packages of the :func:`trusting` blocks around the caller."""
    return _TRUSTED.get()
