"""One call of a module's step with other parameters and buffers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lit_continual.methods.bases.names import places_of_values


def call_with(
    module: Any, step: Callable[..., Any], tensors: Mapping[str, Tensor], *arguments: Any, logs: bool = True
) -> Any:
    """Call a step of a LightningModule, some of its parameters and buffers replaced for the length of the call.

    A tensor is replaced wherever the module holds it, under one name or several.

    Args:
        module: The module.
        step: Its method.
        tensors: Parameters and buffers, by the names of ``named_parameters`` and ``named_buffers``; what is missing
            stays the module's own.
        *arguments: Of the step.
        logs: Whether what the step logs is logged, or dropped.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    replacements = {id(named[name]): tensor for name, tensor in tensors.items()}
    found = {
        f"module.{place}": replacements[id(tensor)]
        for place, tensor in places_of_values(module).items()
        if id(tensor) in replacements
    }
    with _logging(module, logs):
        return functional_call(_Step(module, step), found, arguments, tie_weights=False)


@contextmanager
def _logging(module: Any, logs: bool) -> Iterator[None]:
    before, log = vars(module).get("log"), module.log

    def log_one_task(*args: Any, **kwargs: Any) -> None:
        if logs:  # One call, one weight in the mean of an epoch: Lightning would look for a size in the meta-batch.
            log(*args, **{"batch_size": 1, **kwargs})

    module.log = log_one_task
    try:
        yield
    finally:
        del module.log
        if before is not None:
            module.log = before


class _Step(nn.Module):
    """A step of a module as the ``forward`` that ``functional_call`` asks for."""

    def __init__(self, module: nn.Module, step: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.step = module, step

    def forward(self, *arguments: Any) -> Any:
        return self.step(*arguments)
