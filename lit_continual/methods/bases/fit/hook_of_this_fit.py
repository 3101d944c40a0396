"""Hooks on layers that live as long as a fit."""

from functools import partial
from typing import Any

from lit_continual.methods.bases.fit.forward_calls import plain


class HookOfThisFit(partial[Any]):
    """A hook that does nothing in a copy or a pickle of the module.

    Example:
        >>> import copy
        >>> hook = HookOfThisFit(print, "called with")
        >>> hook(1)
        called with 1
        >>> copy.deepcopy(hook)(1)
    """

    def __reduce__(self) -> Any:
        return plain, (_no_hook,)


def _no_hook(*_: Any) -> None:
    pass
