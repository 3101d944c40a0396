"""A LightningModule around another one, whose steps run unmodified, also with other parameters."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

#: Hooks that mean the same for the wrapped module. Those that get a batch are left out: the batch may be another.
FORWARDED = (
    "configure_callbacks",
    "configure_gradient_clipping",
    "configure_model",
    "lr_scheduler_step",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_fit_end",
    "on_fit_start",
    "on_test_end",
    "on_test_epoch_end",
    "on_test_epoch_start",
    "on_test_start",
    "on_train_end",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_train_start",
    "on_validation_end",
    "on_validation_epoch_end",
    "on_validation_epoch_start",
    "on_validation_start",
    "optimizer_step",
    "optimizer_zero_grad",
    "teardown",
)


class WrappedModule(LightningModule):
    """Hold ``module`` and pass on to it what is not about a batch; base of modules that change how another trains.

    Attributes that this class lacks are those of ``module``, so that whoever asks for its class names finds them. A
    checkpoint is one of ``module``, with its weights, names and hyper-parameters, and each loads the other's.

    Args:
        module: The module, registered as the submodule ``module``.
    """

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":  # not there before the constructor is done, nor while a copy is made
                raise
            return getattr(self.module, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def setup(self, stage: str) -> None:
        self.module.setup(stage)

    def configure_optimizers(self) -> Any:
        return self.module.configure_optimizers()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.load_state_dict(*args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["hyper_parameters"] = dict(self.module.hparams)
        self.module.on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.module.on_load_checkpoint(checkpoint)

    def run_step(self, name: str, tensors: Mapping[str, Tensor], batch: Any, *indices: int, logs: bool = True) -> Any:
        """Run a step of the wrapped module, some of its parameters and buffers replaced for the length of the call.

        Args:
            name: ``"training_step"``, ``"validation_step"`` and so on.
            tensors: Parameters and buffers by their names in the wrapped module; what is missing stays its own.
            batch: The batch for the step.
            indices: What follows the batch; as much of it is passed as the step takes.
            logs: Whether what the step logs is logged, or dropped.
        """
        with self.logging(logs):
            replaced = {f"module.{key}": tensor for key, tensor in tensors.items()}
            return functional_call(_Step(self.module, name), replaced, (batch, *indices))

    @contextmanager
    def logging(self, logs: bool = True) -> Iterator[None]:
        """Let ``self.log`` of the wrapped module, which Lightning does not call itself, log here, or nowhere."""
        before = vars(self.module).get("log")
        self.module.log = self._log_each if logs else _drop  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.module.log
            if before is not None:
                self.module.log = before  # type: ignore[method-assign]

    def _log_each(self, *args: Any, **kwargs: Any) -> None:
        # One call, one weight in the mean of an epoch: Lightning would look for a size in the meta-batch.
        self.log(*args, **{"batch_size": 1, **kwargs})


class _Step(nn.Module):
    """A step of a module as the ``forward`` that ``functional_call`` asks for."""

    def __init__(self, module: LightningModule, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *arguments: Any) -> Any:
        step = getattr(self.module, self.name)
        kinds = [parameter.kind for parameter in inspect.signature(step).parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            arguments = arguments[: kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        return step(*arguments)


def _drop(*args: Any, **kwargs: Any) -> None:
    """Log nothing."""


def _forwarded(name: str) -> Callable[..., Any]:
    def hook(self: WrappedModule, *args: Any, **kwargs: Any) -> Any:
        with self.logging():
            return getattr(self.module, name)(*args, **kwargs)

    return hook


for _name in FORWARDED:
    setattr(WrappedModule, _name, _forwarded(_name))
