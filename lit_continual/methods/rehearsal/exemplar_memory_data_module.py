"""The exemplar memory: what a stream keeps of the past, and its return among new samples."""

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, distributed
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler
from typing_extensions import Self, override

from lit_continual.data.patches import PatchDataset
from lit_continual.data.samplers import EpochSampler, place_in_fit
from lit_continual.files.whole_files import explaining, is_first_rank
from lit_continual.methods.rehearsal.candidates import Candidates, ItemCandidates, SliceCandidates
from lit_continual.methods.rehearsal.exemplar import Exemplar
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.methods.rehearsal.exemplars import Exemplars, warn_of_statistics
from lit_continual.methods.rehearsal.replay import LIKE_NEW, ReplayDataset, ReplaySampler, require_alike
from lit_continual.methods.rehearsal.selection.measurement import measure_samples

#: Hooks of the wrapped data module.
LENT = ["prepare_data", "val_dataloader", "test_dataloader", "predict_dataloader", "teardown", "on_exception"]
LENT += ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"]
LENT += ["state_dict", "load_state_dict"]


class ExemplarMemoryDataModule(LightningDataModule):
    """A data module, with the exemplars of a memory among its training samples, which are mappings with an ``image``.

    Training batches gain ``origin``, ``"new"`` or ``"exemplar"`` for each sample, as soon as there are exemplars of
    another experience. They keep ``label`` and ``classes``, so that alone they train their own heads; under
    ``Distillation`` they are trained on its term only. Samples are drawn by seed and epoch, the same for any number of
    ranks. Evaluation, and everything else, is that of the wrapped data module.

    A data module may offer ``candidates()``, its samples without augmentation, and ``replayed(samples)``, a data set
    that augments stored ones. Of one whose ``train_dataset`` is a :class:`PatchDataset`, such as
    :class:`SegmentationDataModule`, the candidates are the slices or volumes of its patches. Of another, samples are
    stored as its training data set gives them, and come back as they were stored; these must be mappings with an
    ``image``.

    Args:
        data: What is learnt now.
        folder: Where the memory lies, see :class:`ExemplarMemory`.
        exemplars: How exemplars are chosen and mixed.
        experience: Name of what is learnt now; its own exemplars are not mixed in.

    Raises:
        MisconfigurationException: If the training loader of ``data`` is not one that exemplars can be mixed into.
        ValueError: If the memory is damaged.

    Example:
        >>> from lit_continual.data import ShoulderDataModule
        >>> data = ExemplarMemoryDataModule(ShoulderDataModule(classes={"humerus": 1}), "memory", experience="humerus")
        >>> data.classes
        {'humerus': 1}
    """

    def __new__(cls, data: LightningDataModule, *_: Any, **__: Any) -> Self:
        """Be of the package of the wrapped data module too, ``pytorch_lightning``, whose Trainer asks for that."""
        root = _root(data)
        if issubclass(cls, root):
            return super().__new__(cls)
        plain = {name: getattr(root, name) for name in LENT}  # by which it knows what is not overridden
        return super().__new__(type(cls.__name__, (cls, root), {**plain, "__doc__": cls.__doc__}))

    def __init__(
        self,
        data: LightningDataModule,
        folder: str | os.PathLike[str],
        exemplars: Exemplars | None = None,
        experience: str = "experience",
    ) -> None:
        super().__init__()
        self.data, self.memory = data, ExemplarMemory(folder)
        self.exemplars, self.experience = exemplars or Exemplars(), experience
        self.stored: Any = []
        for name in LENT:  # Lightning asks whether a hook is overridden, which depends on the wrapped one
            if is_overridden(name, data, _root(data)):
                setattr(self, name, getattr(data, name))
        if hasattr(data, "cache_targets"):
            self.cache_targets = self._cache_targets
        if hasattr(data, "annotations"):
            self.annotations = self._annotations
        self.save_hyperparameters(dict(data.hparams), logger=False)

    def __getattr__(self, name: str) -> Any:
        """Look up what is not of the memory in the wrapped data module."""
        if name.startswith("_") or name == "data":
            raise AttributeError(name)
        return getattr(self.data, name)

    @override
    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)
        if stage == "fit":
            if self.exemplars.start is not None:
                if is_first_rank():
                    self.memory.begin(self.exemplars.start)
                if self.trainer:
                    self.trainer.strategy.barrier()
            others = [e for e in self.memory.exemplars if e.experience != self.experience]
            samples = [self.memory.load(exemplar) for exemplar in others]
            require_alike(samples, self.memory.folder)
            make: Callable[[Any], Any] = getattr(self.data, "replayed", lambda samples: samples)
            with explaining(f"The exemplars in {self.memory.folder} do not fit", LIKE_NEW, LookupError, ValueError):
                self.stored = make(samples) if samples else []

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = self.data.train_dataloader()
        sampler = self._sampler(loader)
        self._rehearse()
        if not len(self.stored):
            return loader
        keep = self.exemplars
        warn_of_statistics(keep, self.trainer)
        return DataLoader(
            ReplayDataset(loader.dataset, self.stored).checked(self.memory.folder),
            batch_size=None,  # the sampler makes the batches
            sampler=ReplaySampler(sampler, self.stored, loader.batch_size or 1, keep.batches, keep.share),
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            persistent_workers=loader.persistent_workers,
            pin_memory=loader.pin_memory,
            prefetch_factor=loader.prefetch_factor,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )

    def _sampler(self, loader: Any) -> EpochSampler:
        """The sampler of the new samples: that of the loader, or one that shuffles by seed and epoch."""
        sampler, dataset = getattr(loader, "sampler", None), getattr(loader, "dataset", None)
        known = isinstance(sampler, (EpochSampler, RandomSampler, SequentialSampler, DistributedSampler))
        if not known or isinstance(dataset, IterableDataset) or loader.batch_size is None:
            raise MisconfigurationException(
                f"Exemplars cannot be mixed into what {type(self.data).__name__}.train_dataloader() returns, a"
                f" {type(loader).__name__} with a {type(sampler).__name__}. Return a DataLoader of a data set that has"
                " a length, with `batch_size` and without a sampler of its own, or drop the memory."
            )
        if isinstance(sampler, EpochSampler):
            return sampler
        seed = int(os.environ.get("PL_GLOBAL_SEED") or 0)
        return EpochSampler(dataset, seed, None, *place_in_fit(self.trainer))

    def _cache_targets(self, key: str, predict: Callable[[Tensor], Tensor]) -> None:
        """Ask a teacher about the new volumes and about the exemplars."""
        for part in (self.train_dataset, self.stored):
            if isinstance(part, PatchDataset):
                part.ask(key, predict)

    def _annotations(self) -> list[tuple[Tensor, list[str]]]:
        """Label maps of the new volumes, and of the exemplars, by which a replayed head weighs its classes."""
        new: Any = self.data
        return [*new.annotations(), *(self.stored.annotations if isinstance(self.stored, PatchDataset) else [])]

    def remember(self, module: LightningModule) -> list[Exemplar]:
        """Choose exemplars of this experience and store them; of a distributed run, every process must call this.

        Args:
            module: What has learnt the experience, on the device to choose on; left as it was.

        Returns:
            All exemplars that are now in the memory.
        """
        group = distributed.group.WORLD if distributed.is_available() and distributed.is_initialized() else None
        keep, picks = self.exemplars, []
        facts: dict[str, Any] = {"policy": keep.policy}
        classes = list(getattr(self.data, "classes", []))
        if not keep.budget.empty:
            candidates = self._candidates()
            classes, contains = candidates.classes, candidates.contains()
            samples = measure_samples(
                module,
                candidates.images(),
                contains,
                _probabilities(module, classes),
                keep.layer,
                keep.passes,
                group=group,
                relative=keep.certainty == "relative",
            )
            source = str(getattr(getattr(self.data, "listed", None), "source", type(self.data).__name__))
            picks = keep.chosen(candidates, samples, self.experience, source)
            facts["candidates"] = len(contains)
            if any(exemplar.score for exemplar, _ in picks):
                facts["certainty"] = keep.certainty
        if is_first_rank():
            self.memory.add(self.experience, classes, picks, keep.budget, **facts)
        if group is not None:
            distributed.barrier(group)
        return self.memory.exemplars

    def _rehearse(self) -> None:
        """Choose one of two samples, so that what keeps the policy from choosing is said before training, not after."""
        keep, module = self.exemplars, self.trainer.lightning_module if self.trainer else None
        if module is None or keep.budget.empty:
            return
        candidates = self._candidates()
        contains, images = candidates.contains(), candidates.images()
        rows = contains.any(1).nonzero().flatten()[:2].tolist()
        probabilities = _probabilities(module, candidates.classes)
        if rows:
            two = measure_samples(
                module, [images[k] for k in rows], contains[rows], probabilities, keep.layer, passes=2
            )
            with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
                keep.chooser(two, 1)
            candidates.sample(rows[0], keep.budget.volumes is not None)

    def _candidates(self) -> Candidates:
        if hasattr(self.data, "candidates"):
            candidates: Candidates = self.data.candidates()
            return candidates
        patches = getattr(self.data, "train_dataset", None)
        if isinstance(patches, PatchDataset) and hasattr(self.data, "replayed"):  # slices come back as patches
            return SliceCandidates(patches.volumes, patches.patch_size)
        if not self.data.trainer:  # of this process, nobody has trained on the data
            self.data.setup("fit")
        loader = self.data.train_dataloader()
        return ItemCandidates(loader.dataset, list(getattr(self.data, "classes", [])))


def _root(data: Any) -> type[Any]:
    """The ``LightningDataModule`` that a data module derives from: of one package or the other."""
    return next(kind for kind in type(data).__mro__[::-1] if kind.__name__ == "LightningDataModule")


def _probabilities(module: LightningModule, classes: list[str]) -> Callable[[Tensor], Tensor]:
    """Return what maps images to the probabilities of ``classes``, ``(B, J, …)``; the sigmoid of any other module."""
    of_logits = getattr(module, "probabilities", None)
    known = list(getattr(module, "classes", classes))

    def probabilities(images: Tensor) -> Tensor:
        if of_logits is None:
            return module(images).sigmoid()  # type: ignore[no-any-return]
        if unknown := [name for name in classes if name not in known]:
            raise ValueError(
                f"The certainty of {unknown[0]} is not known to `{type(module).__name__}`, whose classes are"
                f" {', '.join(known)}. Choose a policy without certainty, such as `Herding`."
            )
        found: Tensor = of_logits(module(images))[:, [known.index(name) for name in classes]]
        return found

    return probabilities
