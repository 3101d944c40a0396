"""A method of one object with another function in its place, for as long as somebody wants it."""

import inspect
from collections.abc import Callable
from typing import Any

from lit_continual.methods.bases.fit.forward_calls import plain


class ReplacedMethod:
    """Stand in for the method of one object until :meth:`remove`.

    A copy of the object, and a pickle of it, has its own method. Lightning reads the signature of the original.

    Args:
        owner: The object.
        name: Name of the method.
        function: Is called in its place, with the original method before the arguments.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> module = BoringModel()
        >>> replaced = ReplacedMethod(module, "configure_optimizers", lambda original: "another")
        >>> module.configure_optimizers()
        'another'
        >>> replaced.remove()
        >>> "configure_optimizers" in vars(module)
        False
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self.owner, self.name, self.original = owner, name, getattr(owner, name)
        self.function: Callable[..., Any] | None = function
        self.shadows = name in vars(owner)  # somebody else has put a method there
        self.__wrapped__ = inspect.unwrap(self.original)  # Lightning looks one level deep
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            return self.original(*args, **kwargs)
        return self.function(self.original, *args, **kwargs)

    def __reduce__(self) -> Any:
        return plain, (self.original,)

    def remove(self) -> None:
        """Give the object its method back; where somebody has wrapped this one since, let it do nothing more."""
        self.function = None
        if vars(self.owner).get(self.name) is not self:
            return
        while isinstance(self.original, ReplacedMethod) and self.original.function is None:
            self.original, self.shadows = self.original.original, self.original.shadows
        if self.shadows:
            setattr(self.owner, self.name, self.original)
        else:
            delattr(self.owner, self.name)
