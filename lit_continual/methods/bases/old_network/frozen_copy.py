"""A copy of a module that shares nothing with it that training moves, and copies nothing that training leaves."""

import copy
import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_continual.files.whole_files import in_one_line
from lit_continual.methods.bases.guards import require_initialised

M = TypeVar("M", bound=nn.Module)

#: Attributes that `torch.compile` puts on a LightningModule, which go on calling the module they were made of.
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def frozen_copy(module: M) -> M:
    """Copy a module, in eval mode and without gradients, uncompiled.

    Its parameters and buffers are its own. What the module holds beside them, tensors, arrays, data sets, data modules,
    loggers and partial functions, is not copied but shared; of a tensor with a graph it holds the value.

    Args:
        module: Any module; it is left as it is.
    """
    require_initialised(module)
    own = [*module.parameters(), *module.buffers()]
    held, memo = {id(value) for value in own} | {_storage(value) for value in own}, dict[int, Any]()
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules", "_trainer"):
                memo |= {
                    id(data): _shared(data) for data in _data(value, set()) if not {id(data), _storage(data)} & held
                }
    try:
        with torch.no_grad():  # in which the copy of a scripted module has no graph
            copied = copy.deepcopy(module, memo)
    except (TypeError, pickle.PicklingError) as error:
        raise MisconfigurationException(
            f"{type(module).__name__} cannot be copied ({in_one_line(error)}), as a method needs that compares it with"
            " what it was. Do not keep what cannot be copied on the module, such as a lock or an open file, or give its"
            " class a `__deepcopy__`."
        ) from error
    for part in copied.modules():
        vars(part).pop("_compiled_call_impl", None)  # of `module.compile()`
        if vars(part).get("_compiler_ctx") is not None:  # of `torch.compile(module)`, by Lightning
            vars(part)["_compiler_ctx"] = None
            for name in _COMPILED:
                vars(part).pop(name, None)
    return copied.eval().requires_grad_(False)


def silent_copy(module: M, trainer: Trainer) -> M:
    """Make a :func:`frozen_copy` that may read ``self.trainer``, and of which what it logs is dropped.

    Args:
        module: The module; it is left as it is.
        trainer: The trainer of the fit.
    """
    copied: Any = frozen_copy(module)
    if hasattr(copied, "_trainer"):  # a LightningModule of either package
        copied.trainer = trainer
        copied.log = copied.log_dict = _log_nothing
    return copied  # type: ignore[no-any-return]


def _log_nothing(*_: Any, **__: Any) -> None:
    pass


def _shared(data: Any) -> Any:
    return data.detach().clone() if isinstance(data, Tensor) and data.grad_fn is not None else data


def _storage(data: Any) -> Any:
    return ("storage", data.untyped_storage().data_ptr()) if isinstance(data, Tensor) else None


def _data(value: Any, seen: set[int]) -> Iterator[Any]:
    """Find the data in an attribute, in containers and in what plain objects hold."""
    if isinstance(value, (nn.Module, type, ModuleType)) or id(value) in seen:
        return
    seen.add(id(value))
    shared = isinstance(value, (Tensor, np.ndarray, Dataset, DataLoader, partial))  # a partial may hold a whole config
    if shared or hasattr(value, "train_dataloader") or hasattr(value, "log_metrics"):
        yield value
    elif isinstance(value, (list, tuple, dict, set)) or hasattr(value, "__dict__"):
        whole = isinstance(value, (list, tuple, dict, set))
        inside = value if whole else vars(value)
        for part in list(inside.values() if isinstance(inside, Mapping) else inside):
            yield from _data(part, seen)
