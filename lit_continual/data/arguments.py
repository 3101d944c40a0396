"""Checks of numbers that a config gives."""


def require_at_least(least: int, **given: int | None) -> None:
    """Check that each number that is given is ``least`` or more.

    Raises:
        ValueError: If one is less.

    Example:
        >>> require_at_least(1, batch_size=4, samples_per_epoch=None)
    """
    for name, value in given.items():
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be {least} or more, got {value}.")
