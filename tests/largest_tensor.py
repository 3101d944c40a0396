"""How large the largest tensor is that a function makes."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Largest(TorchDispatchMode):
    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(found) if isinstance(x, Tensor)]
        self.size = max([self.size, *sizes])
        return found


def largest_tensor(function):
    """Call a function, and return the bytes of the largest storage among what torch's operations returned."""
    with _Largest() as seen:
        function()
    return seen.size
