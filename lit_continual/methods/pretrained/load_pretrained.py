"""Load the part of pretrained weights that fits, and say what became of every tensor."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_continual.methods.bases.weights import match_names, read_weights
from lit_continual.runs.checkpoints.checkpoint import checked_weights

_LINES = 40  # a table that still fits a screen


@dataclass(frozen=True)
class Row:
    """What became of one tensor: ``taken``, ``renamed``, ``adapted``, ``skipped``, or ``missing`` in the file."""

    outcome: str
    name: str
    source: str
    why: str


@dataclass(frozen=True)
class LoadReport:
    """Everything :func:`load_pretrained` did, one row a tensor; ``str`` gives a table with equal rows joined.

    Example:
        >>> print(LoadReport((Row("taken", "conv.weight", "conv.weight", ""), Row("missing", "head.bias", "", "new"))))
        outcome  tensors  where  why
        taken          1  conv
        missing        1  head   new
    """

    rows: tuple[Row, ...]

    def count(self, *outcomes: str) -> int:
        """Return how many tensors had one of the ``outcomes``."""
        return sum(row.outcome in outcomes for row in self.rows)

    def __str__(self) -> str:
        for depth in range(6, 0, -1):
            groups = Counter((r.outcome, _module_path(r.name or r.source, depth), r.why) for r in self.rows)
            if len(groups) <= _LINES:
                break
        lines = [("outcome", "tensors", "where", "why")]
        lines += [(outcome, str(count), where, why) for (outcome, where, why), count in groups.items()]
        first, second, third = (max(len(line[i]) for line in lines) for i in range(3))
        return "\n".join(f"{a:<{first}}  {b:>{second}}  {c:<{third}}  {d}".rstrip() for a, b, c, d in lines)


def load_pretrained(module: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> LoadReport:
    r"""Load the weights that fit by name and shape into ``module``, in place, and report on every tensor.

    Names are matched by :func:`match_names`. The first convolution may have other input channels than its source:
    with :math:`C'` channels in the file and :math:`C` in the module, each becomes the mean over the file's, times
    :math:`C'/C`, so that an image whose channels are all equal gives the same response as before. A grey-level network
    thus starts from the sum over red, green and blue.

    Args:
        module: The module to load into, such as a whole network, of which the file may hold the encoder only.
        weights: A file for :func:`read_weights`, or a state dict.

    Returns:
        One row for each tensor of the module and each of the file that the module has no place for.

    Raises:
        ValueError: If the file cannot be read, no tensor of it fits, or one that fits is not finite.

    Example:
        >>> source = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.Conv2d(4, 9, 1, bias=False))
        >>> target = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.Conv2d(4, 2, 1, bias=False))
        >>> print(load_pretrained(target, source.state_dict()))
        outcome  tensors  where  why
        adapted        1  0      3 input channels became 1
        skipped        1  1      shape (9, 4, 1, 1) in the file, (2, 4, 1, 1) in the module
    """
    tensors = dict(weights) if isinstance(weights, Mapping) else read_weights(weights)
    where = "The given state dict" if isinstance(weights, Mapping) else str(weights)
    state = module.state_dict()
    sources, stem = match_names(state, tensors), _first_convolution(module)
    checked_weights(where, {source: tensors[source] for source in sources.values()})
    rows = [_load(name, state[name], sources.get(name), tensors, name == stem) for name in state]
    used = set(sources.values())
    rows += [Row("skipped", "", name, "the module has no such tensor") for name in tensors if name not in used]
    report = LoadReport(tuple(rows))
    if not report.count("taken", "renamed", "adapted"):
        raise ValueError(
            f"{where} holds no tensor that fits {type(module).__name__} by name and shape, such as"
            f" `{next(iter(tensors))}` for `{next(iter(state), 'nothing')}`. Give weights of the same architecture."
        )
    return report


@torch.no_grad()
def _load(name: str, target: Tensor, source: str | None, tensors: Mapping[str, Tensor], is_stem: bool) -> Row:
    if source is None:
        return Row("missing", name, "", "not in the file, keeps its initial value")
    tensor = tensors[source]
    outcome, why = ("taken", "") if source == name else ("renamed", "")
    if tensor.shape != target.shape:
        channels = tensor.ndim > 2 and tensor.shape[:1] + tensor.shape[2:] == target.shape[:1] + target.shape[2:]
        if not (is_stem and channels):
            shapes = f"shape {tuple(tensor.shape)} in the file, {tuple(target.shape)} in the module"
            return Row("skipped", name, source, shapes)
        outcome, why = "adapted", f"{tensor.shape[1]} input channels became {target.shape[1]}"
        tensor = tensor.mean(1, keepdim=True) * (tensor.shape[1] / target.shape[1])
    target.copy_(tensor.expand_as(target))
    return Row(outcome, name, source, why)


def _first_convolution(module: nn.Module) -> str | None:
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = (name for name, child in module.named_modules() if isinstance(child, convolutions))
    first = next(found, None)
    return None if first is None else f"{first}.weight".lstrip(".")


def _module_path(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:-1][:depth]) or name
