"""Meta-tune: fine-tune any LightningModule by the gradient after adaptation."""

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from typing_extensions import override

from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod
from lit_continual.methods.bases.loss_term import LossTerm
from lit_continual.methods.bases.releasing import Releasing
from lit_continual.methods.meta.episodes import Episodes
from lit_continual.methods.meta.inner_rates import InnerRates
from lit_continual.methods.meta.meta_gradient import check_options
from lit_continual.methods.meta.meta_step import MetaStep, trainable
from lit_continual.methods.meta.patient_episodes import PatientEpisodes
from lit_continual.methods.meta.strategies import MetaStrategy

SHARDING = {"DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"}


class MetaTune(Releasing):
    r"""Fine-tune a module on tasks :math:`(D_i, D'_i)` so that it does well after a few steps on each.

    .. math:: \theta \leftarrow \theta - \beta \nabla_\theta \sum_i L(\theta'_i; D'_i), \qquad
        \theta'_i = \theta - \alpha \nabla_\theta L(\theta; D_i)

    A training batch is a list of pairs ``(D, D')``, usually the tasks of one patient, each in the form that the
    module's ``training_step`` takes; ``episodes`` makes them. For the length of a fit the callback takes the place of
    that step. It returns the outer loss with its meta-gradient attached, so the optimizer, schedules, clipping,
    accumulation, loss scaling and distributed reduction are those of the Trainer, and checkpoints those of the module.
    Ranks and accumulated batches are averaged, as Lightning does: with ``reduction="sum"`` the loss sums over the
    tasks of a patient and averages over patients.

    In an inner pass nothing is logged and no buffer moves; the outer pass logs, and moves the running statistics of
    batch norms, as one step of ordinary training would. Metrics that ``training_step`` updates see both passes. Hooks
    that get the batch, such as ``on_after_batch_transfer``, get the list of pairs.

    Args:
        strategy: :class:`MAML`, :class:`FOMAML`, :class:`ANIL` or :class:`Reptile`, with the inner rate and steps;
            :class:`Naive` for fine-tuning on the same tasks.
        reduction: ``"sum"`` over the tasks as in Algorithm 1, or ``"mean"`` as in MAML's code.
        learn_inner_lr: Learn one inner rate per layer, starting from the strategy's, in the module's optimizer (in a
            parameter group of its own, without weight decay). The rates are in the state of the callback and no part
            of the module. ``ddp_fork`` and ``ddp_spawn`` do not bring them back to the process that called fit;
            ``ddp`` does.
        adapt_in_evaluation: Validation and test batches are lists of pairs too: adapt on ``D`` with gradients on and
            in eval mode, then run the module's step on ``D'``. Otherwise they go to the module as they are.
        episodes: Make each patient of a data module of slices a batch of tasks. ``None`` takes the ``episodes`` of the
            data module, where it has any; else its batches are lists of pairs already.
        after: Fits to leave alone at first: 1 in a stream whose first experience trains on ordinary batches. A stream
            that starts from a checkpoint has one behind it.

    Raises:
        ValueError: If an argument is out of range, or a part of ANIL selects nothing; in training, if a batch is not
            made of pairs, or a loss is not finite.
        MisconfigurationException: With manual optimization, a compiled module, sharded parameters, a ``LossTerm``
            beside it, data that ``episodes`` cannot cut, or rates that cannot be learned.

    Logs ``train/outer_loss``, and what the module logs itself.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1.

    Example:
        >>> from lit_continual.modules import MAML
        >>> callback = MetaTune(MAML(inner_lr=0.1), learn_inner_lr=True)
    """

    #: A step with replaced parameters, twice differentiated, cannot be compiled.
    needs_eager = True
    knows_weights = True

    def __init__(
        self,
        strategy: MetaStrategy,
        reduction: str = "sum",
        learn_inner_lr: bool = False,
        adapt_in_evaluation: bool = False,
        episodes: Episodes | None = None,
        after: int = 0,
    ) -> None:
        check_options(strategy.inner_lr, strategy.order, reduction, strategy.inner_steps)
        if after < 0:
            raise ValueError(f"`after` must not be negative, got {after}: it counts fits.")
        if learn_inner_lr and not strategy.learns_rates:
            raise MisconfigurationException(
                f"`learn_inner_lr=True` needs a gradient by the inner rates, which {type(strategy).__name__} does"
                " not have: use MAML, FOMAML or ANIL, or fixed rates."
            )
        self.strategy, self.reduction, self.adapt_in_evaluation = strategy, reduction, adapt_in_evaluation
        self.episodes, self.after = episodes, after
        self.inner_rates = InnerRates(strategy.inner_lr) if learn_inner_lr else None
        self._fits = 0  # that the module has behind it
        self._own: dict[str, Any] | None = None  # its state, while an evaluation has that of a checkpoint
        self._replaced: list[ReplacedMethod] = []

    def follow(self, pl_module: Any) -> None:
        """Take the module as what a fit has left that this callback did not see."""
        self._fits += 1

    def rehearse(self, trainer: Any, pl_module: Any, data: Any) -> None:
        """Check, before a fit, that it can be trained so."""
        self._refuse(trainer, pl_module)
        if (episodes := self._episodes(data)) is not None:
            episodes.check(data, pl_module)

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self.rehearse(trainer, pl_module, getattr(trainer, "datamodule", None))
        if self.inner_rates is not None:
            self._replace(pl_module, "configure_optimizers", lambda own: self._with_rates(pl_module, own()))

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self._waits:
            return
        step = MetaStep(trainer, pl_module, self.strategy, self.reduction, self.inner_rates)
        self._replace(pl_module, "training_step", step.train)
        self._adapt_in_evaluation(step)
        if (episodes := self._episodes(getattr(trainer, "datamodule", None))) is not None:

            def train_dataloader(own: Callable[[], Any]) -> PatientEpisodes:
                return episodes.loader(own(), pl_module)

            self._replace(trainer.datamodule, "train_dataloader", train_dataloader)

    @override
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":  # which adapts by the rates of the checkpoint, and is no fit that was left
            self._own = self.state_dict()

    @override
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._evaluate(trainer, pl_module)

    @override
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._evaluate(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._fits += 1

    @override
    def state_dict(self) -> dict[str, Any]:
        rates = {} if self.inner_rates is None else {"inner_rates": self.inner_rates.state_dict()}
        return {"fits": self._fits, **rates}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._fits = state_dict["fits"]
        if self.inner_rates is not None and "inner_rates" in state_dict:
            self.inner_rates.load_state_dict(state_dict["inner_rates"])

    @property
    def _waits(self) -> bool:
        return self._fits < self.after

    def _episodes(self, data: Any) -> Episodes | None:
        """The episodes of the callback, or else of the data module."""
        return self.episodes or Episodes.of(getattr(data, "episodes", None))

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self._replaced.append(ReplacedMethod(owner, name, function))

    @override
    def release(self, pl_module: Any) -> None:
        for replaced in self._replaced:
            replaced.remove()
        self._replaced, own, self._own = [], self._own, None
        if own is not None:
            self.load_state_dict(own)

    def _evaluate(self, trainer: Any, pl_module: Any) -> None:
        """Adapt in an evaluation by itself, not in that of a fit, which has begun with this already."""
        if self._waits or not self.adapt_in_evaluation or trainer.state.fn == "fit":
            return
        if self.inner_rates is not None:
            self.inner_rates.grow(self._adapted(pl_module))
        self._adapt_in_evaluation(MetaStep(trainer, pl_module, self.strategy, self.reduction, self.inner_rates))

    def _adapt_in_evaluation(self, step: MetaStep) -> None:
        if self.adapt_in_evaluation:
            for name in ("validation_step", "test_step"):
                self._replace(step.module, name, step.evaluate)

    def _with_rates(self, pl_module: Any, configured: Any) -> Optimizer | Any:
        if self._waits or self.inner_rates is None:
            return configured
        self.inner_rates.grow(self._adapted(pl_module))  # the module has grown its heads by now
        return self.inner_rates.join(configured, type(pl_module).__name__)

    def _adapted(self, pl_module: Any) -> dict[str, Any]:
        parameters = trainable(pl_module)
        self.strategy.check(parameters)
        return {name: parameters[name] for name in self.strategy.adapted(parameters)}

    def _refuse(self, trainer: Any, pl_module: Any) -> None:
        """Refuse, before anything is trained, what cannot be right."""
        name, strategy = type(pl_module).__name__, type(trainer.strategy)
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"`MetaTune` differentiates the loss that `training_step` returns, and `{name}` steps its optimizers"
                " itself: set `automatic_optimization = True`."
            )
        if getattr(pl_module, "_compiler_ctx", None) is not None:
            raise MisconfigurationException(
                f"`MetaTune` runs the steps of `{name}` with replaced parameters, also twice differentiated, which"
                " compiled ones do not allow: give the Trainer the module itself, without `torch.compile`."
            )
        if SHARDING & {kind.__name__ for kind in strategy.__mro__}:
            raise MisconfigurationException(
                f"`MetaTune` replaces whole parameters, which {strategy.__name__} shards: use `strategy='ddp'` or one"
                " device."
            )
        if terms := [type(c).__name__ for c in trainer.callbacks if isinstance(c, LossTerm)]:
            raise MisconfigurationException(
                f"`{terms[0]}` adds to the loss of one batch, and the batches of `MetaTune` are lists of tasks with a"
                " loss each: use one of the two."
            )
