"""How tensor operators move channels: from what the inputs are made of to what the outputs are made of."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

#: One kernel: the name of its weight and its index among the layer's output channels.
Kernel = tuple[str, int]
#: For each channel of a tensor, the kernels it is made of: none for the input, several after a residual sum.
Flow = tuple[frozenset[Kernel], ...]
#: What is known of each value; a list for an operator with several outputs, ``None`` where nothing is.
Flows = Mapping[Node, Flow | list[Flow] | None]

#: Operators that keep every channel in its place, by their first letters, besides those that torch tags as pointwise:
#: of the activations these are not the same in its releases.
_CHANNELWISE = (
    *("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "log_sigmoid"),
    *("prelu", "leaky_relu", "rrelu", "relu6", "elu", "celu", "selu", "gelu"),
    *("mish", "hardtanh", "hardswish", "hardsigmoid", "threshold"),
    *("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample_"),
    *("pad", "constant_pad_nd", "reflection_pad", "replication_pad"),
    *("contiguous", "detach", "alias", "lift_fresh_copy", "to", "_to_copy"),
)


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an operator's call by the names in its schema, as far as they are given."""
    target: Any = node.target
    positional = (argument.name for argument in target._schema.arguments)
    return {**dict(zip(positional, node.args, strict=False)), **node.kwargs}


def unmade(node: Node) -> Flow:
    """The flow of a value that no kernel is known to have made."""
    return (frozenset(),) * (_value(node).shape[1] if _value(node).ndim > 1 else 0)


def moved(node: Node, flows: Flows) -> Flow | list[Flow] | None:
    """The flow that an operator makes of its inputs', or ``None`` if it mixes channels or is not known.

    An operator that writes into a part of another tensor counts as not known: what it changes there would be missed.
    """
    if _writes_into_a_part(node):
        return None
    target: Any = node.target
    name = str(target.overloadpacket.__name__)
    rule = _united if torch.Tag.pointwise in target.tags else _RULES.get(name)
    if rule is None and name.startswith(_CHANNELWISE):
        rule = _kept
    return rule(node, flows) if rule else None


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _writes_into_a_part(node: Node) -> bool:
    target: Any = node.target
    given = arguments(node)
    written = (given.get(a.name) for a in target._schema.arguments if a.alias_info and a.alias_info.is_write)
    return any(isinstance(into, Node) and _is_part(into) for into in written)


def _is_part(node: Node) -> bool:
    """Whether a value shares memory with another: a view, or one output of several."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"
    return any(r.alias_info is not None and not r.alias_info.is_write for r in node.target._schema.returns)


def _united(node: Node, flows: Flows) -> Flow | None:
    """Pointwise, with broadcasting: a channel is made of what the same channel of every operand is made of."""
    out = _value(node)
    known = [(_value(n), flow) for n in node.all_input_nodes if isinstance(flow := flows.get(n), tuple)]
    if not known or any(value.ndim != out.ndim or len(flow) not in (1, out.shape[1]) for value, flow in known):
        return None
    return tuple(
        frozenset().union(*(flow[c if len(flow) > 1 else 0] for _, flow in known)) for c in range(out.shape[1])
    )


def _kept(node: Node, flows: Flows) -> Flow | list[Flow] | None:
    flow, outputs = flows.get(node.all_input_nodes[0]), tree_leaves(node.meta["val"])
    before = _value(node.all_input_nodes[0])
    if not isinstance(flow, tuple) or any(o.ndim != before.ndim or o.shape[1] != before.shape[1] for o in outputs):
        return None
    return flow if isinstance(node.meta["val"], Tensor) else [flow] * len(outputs)


def _concatenated(node: Node, flows: Flows) -> Flow | None:
    given, out = arguments(node), _value(node)
    if given.get("dim", 0) % out.ndim != 1:
        return _united(node, flows)
    pieces = [(n, flows.get(n)) for n in given["tensors"]]
    return sum((flow if isinstance(flow, tuple) else unmade(n) for n, flow in pieces), ())


def _sliced(node: Node, flows: Flows) -> Flow | None:
    given, flow = arguments(node), flows.get(node.all_input_nodes[0])
    if not isinstance(flow, tuple) or given.get("dim", 0) % _value(node).ndim != 1:
        return flow if isinstance(flow, tuple) else None
    return flow[given.get("start") : given.get("end") : given.get("step", 1)]


def _parted(node: Node, flows: Flows) -> list[Flow] | None:
    flow, parts = flows.get(node.all_input_nodes[0]), tree_leaves(node.meta["val"])
    if not isinstance(flow, tuple):
        return None
    if arguments(node).get("dim", 0) % parts[0].ndim != 1:
        return [flow] * len(parts)
    ends = torch.tensor([part.shape[1] for part in parts]).cumsum(0).tolist()
    return [flow[end - part.shape[1] : end] for end, part in zip(ends, parts, strict=True)]


_RULES: dict[str, Callable[[Node, Flows], Flow | list[Flow] | None]] = {
    "cat": _concatenated,
    "slice": _sliced,
    "split": _parted,
    "split_with_sizes": _parted,
    "chunk": _parted,
}
