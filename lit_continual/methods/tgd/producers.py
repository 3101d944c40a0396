"""Which kernels made which input channels: the data flow of a network, channel by channel."""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from lit_continual.methods.tgd.channel_flow import Flow, Kernel, arguments, moved, unmade
from lit_continual.methods.tgd.trace import trace_operators

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_NORMS = {"batch_norm", "instance_norm", "group_norm"}


@dataclass(frozen=True)
class Layer:
    """A convolution as the data flow meets it.

    Attributes:
        bias: The name of its bias, if it has one.
        transposed: Whether it is a transposed convolution, whose kernels lie along axis 1 of the weight.
        inputs: For each input channel, the kernels that made it.
    """

    bias: str | None
    transposed: bool
    inputs: Flow


@dataclass
class Producers:
    """What :func:`find_producers` found.

    Attributes:
        layers: The convolutions that can be scored, by the name of their weight.
        affine: For each parameter or running statistic of a normalisation, the kernels behind each channel.
        held: Kernels that must stay as they are: their channels reach the output or something that is not followed.
        reasons: What stays as it is, by the reason why, other than reaching the output: the names of the layers.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    affine: dict[str, Flow] = field(default_factory=dict)
    held: set[Kernel] = field(default_factory=set)
    reasons: dict[str, set[str]] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """One line for each reason."""
        lines = []
        for reason, names in self.reasons.items():
            first, more = min(names), f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.append(f"`{first}`{more} stay as they are, because {reason}.")
        return lines


def find_producers(network: nn.Module, example: Any = None) -> Producers:
    """Follow each channel from the convolution that makes it to those that read it.

    Followed are convolutions, normalisation, everything pointwise, pooling, interpolation, padding, dropout,
    concatenation, slices and splits; sums and products unite what their channels are made of; that a group norm shares
    statistics among channels does not count. The rest is not guessed at: what any other operator reads, and what a
    convolution reads or makes that is grouped, or whose weight is shared or computed, is held.

    Args:
        network: Any module that ``trace_operators`` can trace; it is left as it is.
        example: An input, as there.

    Raises:
        ValueError: If the network cannot be traced.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3))
        >>> [sorted(kernels) for kernels in find_producers(network).layers["3.weight"].inputs]
        [[('0.weight', 0)], [('0.weight', 1)]]
    """
    graph, names, inputs = trace_operators(network, example)
    walk = _Walk(names, inputs)
    for node in graph.nodes:
        walk.visit(node)
    return walk.found


class _Walk:
    """What is known of each value while the graph is read in the order of execution."""

    def __init__(self, names: dict[Node, str], inputs: list[Node]) -> None:
        self.names, self.found = names, Producers()
        self.flows: dict[Node, Any] = {n: unmade(n) for n in inputs if isinstance(n.meta.get("val"), Tensor)}

    def visit(self, node: Node) -> None:
        if node.op == "output":
            self.found.held.update(self.kernels(node))
        elif node.op == "call_function" and node.target is operator.getitem:
            whole: Any = node.args[0]
            index: Any = node.args[1]
            parts = self.flows.get(whole)
            self.flows[node] = parts[index] if isinstance(parts, list) else None
        elif node.op == "call_function":
            self.flows[node] = self.follow(node)

    def follow(self, node: Node) -> Any:
        if not isinstance(node.target, torch._ops.OpOverload):
            return self.hold(node, f"`{node.target}` reads them")
        name = node.target.overloadpacket.__name__
        if name in _CONVOLUTIONS:
            return self.convolution(node, transposed="transpose" in name)
        if name in _NORMS:
            return self.norm(node)
        flow = moved(node, self.flows)
        return self.hold(node, f"`{name}`, which reads them, is not followed") if flow is None else flow

    def kernels(self, node: Node) -> set[Kernel]:
        flows = tree_leaves([self.flows.get(n) for n in node.all_input_nodes])
        return {kernel for kernels in flows if kernels is not None for kernel in kernels}

    def hold(self, node: Node, reason: str, own: str | None = None) -> Flow | None:
        """Keep what a node reads, and its ``own`` weight, as they are; nothing is known of what it makes."""
        kernels = self.kernels(node)
        self.found.held |= kernels
        names = {weight for weight, _ in kernels} | ({own} if own else set())
        if names:
            self.found.reasons.setdefault(reason, set()).update(name.removesuffix(".weight") for name in names)
        return None

    def convolution(self, node: Node, transposed: bool) -> Flow | None:
        given = arguments(node)
        weight, image, bias = given["weight"], given["input"], given.get("bias")
        name, shape = self.names.get(weight), weight.meta["val"].shape
        if name is None:
            return self.hold(node, "a convolution whose weight is computed reads them")
        for wrong, why in (
            (given.get("groups", 1) != 1, "is grouped"),
            (len(weight.users) > 1, "is used more than once"),
            (image.meta["val"].ndim != len(shape), "sees no batch axis"),
        ):
            if wrong:
                return self.hold(node, f"a convolution that {why} makes or reads them", own=name)
        own_bias = self.names.get(bias) if bias is not None and len(bias.users) == 1 else None
        self.found.layers[name] = Layer(own_bias, transposed, self.flows.get(image) or unmade(image))
        return tuple(frozenset({(name, n)}) for n in range(shape[1 if transposed else 0]))

    def norm(self, node: Node) -> Flow | None:
        given = arguments(node)
        flow: Flow | None = self.flows.get(given["input"])
        if flow is not None:
            for part in ("weight", "bias", "running_mean", "running_var"):
                value = given.get(part)
                if value in self.names and len(value.users) == 1:
                    self.found.affine[self.names[value]] = flow
        return flow
