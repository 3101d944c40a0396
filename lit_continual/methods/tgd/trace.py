"""A network as a graph of tensor operators, whatever its forward looks like."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from lit_continual.files.whole_files import in_one_line
from lit_continual.methods.bases.fit.evaluated_layers import evaluating
from lit_continual.methods.bases.names import places_of_values

#: Pixels a side of the inputs that are tried where none is given.
_SIZES = (64, 96, 128, 224, 32)


def trace_operators(network: nn.Module, example: Any = None) -> tuple[Graph, dict[Node, str], list[Node]]:
    """Trace one forward pass in eval mode into a graph of ATen operators, through control flow on shapes.

    ``torch.fx`` (``make_fx``) traces on fake tensors, which computes nothing; where they do not do, it traces one real
    forward pass instead. Modes, parameters and buffers are left as they are.

    Args:
        network: Any module.
        example: An input ``(B, C, H[, W, D])``, a tuple of arguments, or a dict of keyword arguments. By default zeros
            with the channels of the first convolution and 64 pixels a side, then 96, 128, 224 and 32.

    Returns:
        The graph, the parameter or buffer that each placeholder stands for, and the placeholders of the inputs.

    Raises:
        ValueError: If no trace succeeds, with the reason of the first that failed.

    Example:
        >>> graph, names, inputs = trace_operators(nn.Conv2d(1, 2, 3))
        >>> list(names.values()), len(inputs)
        (['weight', 'bias'], 1)
    """
    state: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with evaluating(network), torch.no_grad(), _uncompiled():
        graph = _trace(network, state, [example] if example is not None else list(_examples(network)))
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    return graph, dict(zip(placeholders, state, strict=False)), placeholders[len(state) :]


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run what `torch.compile` has wrapped as it was before."""
    with torch._dynamo.config.patch(error_on_nested_fx_trace=False), torch.compiler.set_stance("force_eager"):
        yield


def _examples(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            for size in _SIZES:
                yield module.weight.new_zeros(1, module.in_channels, *[size] * (module.weight.ndim - 2))
            return
    raise ValueError(f"`{type(network).__name__}` holds no convolution, so there are no kernels to follow.")


def _trace(network: nn.Module, state: dict[str, Tensor], examples: list[Any]) -> Graph:
    numbers = {id(value): number for number, value in enumerate(state.values())}
    places = {place: numbers[id(value)] for place, value in places_of_values(network).items()}

    def forward(tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replaced = {place: tensors[number] for place, number in places.items()}
        return functional_call(network, replaced, args, kwargs, tie_weights=False)

    reasons = []
    for mode in ("fake", "real"):
        for example in examples:
            args = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
            kwargs = example if isinstance(example, dict) else {}
            try:
                return make_fx(forward, tracing_mode=mode, pre_dispatch=True)(list(state.values()), args, kwargs).graph
            except Exception as reason:  # a forward may raise anything
                reasons.append(reason)
    why = f"{type(reasons[0]).__name__}: {in_one_line(reasons[0])}"
    raise ValueError(
        f"`{type(network).__name__}` could not be traced ({why}). Give an example input that its forward accepts, as"
        " `example_input_array` of the LightningModule, or name the submodule that holds the convolutions."
    ) from reasons[0]
