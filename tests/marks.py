"""Which of many parameters `make test` tries."""

import pytest


def slow_but(values, *fast):
    """Parameters, or tuples of several, of which all but a few are slow: further examples of what the few show."""
    values, found = [*values], []
    assert {*fast} <= {*values}
    for value in values:
        several = value if isinstance(value, tuple) else (value,)
        slow = [] if value in fast else [pytest.mark.slow]
        found.append(pytest.param(*several, marks=slow, id="-".join(map(str, several))))
    return found
