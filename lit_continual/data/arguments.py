"""Checks of numbers that a config gives."""

MOST = 2**32 - 1  # a seed of NumPy, and more than anybody has of anything else
MOST_WORKERS = 1024  # processes


def require_at_least(least: int, most: int = MOST, **given: int | None) -> None:
    """Check that each number that is given is ``least`` or more, and not one that nobody means.

    Raises:
        ValueError: If one is less, or more than ``most``.

    Example:
        >>> require_at_least(1, batch_size=4, samples_per_epoch=None)
    """
    for name, value in given.items():
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be {least} or more, got {value}.")
        if value is not None and value > most:
            raise ValueError(f"`{name}` must be at most {most}, got {value}.")
