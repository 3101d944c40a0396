"""New data for a trained model of nnU-Net, prepared as its own were."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from monai.transforms import SpatialPad
from typing_extensions import override

from lit_continual.data import Case, Preprocessing, Sample, SegmentationDataModule
from lit_continual.data.case_lists.cases import CaseList
from lit_continual.data.patches import PatchDataset
from lit_continual.data.segmentation_data_module import Augmentation
from lit_continual.data.volumes import load_label
from lit_continual.interop.nnunet.nnunet_patches import NNUNetPatches
from lit_continual.interop.nnunet.preparation import prepared
from lit_continual.interop.nnunet.trained import Trained
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.windows.sizes import require_near_size

UNKNOWN: Any = Preprocessing()  # in place of the plans, until there are some


class NNUNetDataModule(SegmentationDataModule):
    """One experience of a model of nnU-Net: new cases, prepared by nnU-Net with the plans of the model.

    The data lie as nnU-Net has them (``imagesTr``, ``labelsTr`` and ``dataset.json``), or in any way that
    :class:`SegmentationDataModule` reads. The plans are those of the model that a stream starts from; in a program of
    your own, :meth:`follow` takes them from a checkpoint.

    Args:
        dataset: See :class:`SegmentationDataModule`.
        patch_size: In voxels along the axes of the plans; ``None`` takes the patch size of the plans.
        nnunet_augmentation: Augment as the trainer of the model does, in place of ``augmentation``.
        **kwargs: Further arguments of :class:`SegmentationDataModule`, without ``preprocessing``.

    Raises:
        ValueError: If the data are asked for before the plans are known, the patch size has other dimensions than the
            network, or there are two augmentations; and as :class:`SegmentationDataModule`.
    """

    def __init__(
        self, dataset: str, patch_size: list[int] | None = None, nnunet_augmentation: bool = False, **kwargs: Any
    ) -> None:
        if nnunet_augmentation and kwargs.get("augmentation", Augmentation()) != Augmentation():
            raise ValueError("`nnunet_augmentation` takes the place of `augmentation`. Give one of the two.")
        super().__init__(dataset=dataset, patch_size=patch_size or [1, 1, 1], preprocessing=UNKNOWN, **kwargs)
        self._given, self._known, self.nnunet_augmentation = patch_size, False, nnunet_augmentation
        del self.hparams["preprocessing"]  # the module has the plans

    def follow(self, start: Checkpoint) -> None:
        """Take the plans of the model in a checkpoint.

        Raises:
            ValueError: If it is of no model of nnU-Net, or ``patch_size`` has other dimensions than its network.
        """
        known = start.hyper_parameters.get("trained")
        if known is None:
            raise ValueError(f"{start.path} is no model of nnU-Net, by whose plans to prepare images. Give one.")
        trained = Trained.of(known, start.trust)
        wanted = trained.patch_size
        if self._given and len(self._given) != len(wanted):
            raise ValueError(
                f"`patch_size` {self._given} has {len(self._given)} dimensions, and the network of {start.path}"
                f" {len(wanted)}. Give {len(wanted)} numbers, or leave it out."
            )
        self.patch_size, self.preprocessing, self._known = tuple(self._given or wanted), cast(Any, trained), True

    @override
    def setup(self, stage: str) -> None:
        if not self._known:
            raise ValueError(
                "`NNUNetDataModule` does not know the plans that images are prepared by. Give --stream.start, or call"
                " `data.follow(Checkpoint(FOLDER))`."
            )
        super().setup(stage)

    @override
    def _samples(self, volumes: Sequence[Mapping[str, Any]]) -> PatchDataset:
        if not self.nnunet_augmentation:
            return super()._samples(volumes)
        trained = cast(Any, self.preprocessing)
        return NNUNetPatches(volumes, self.patch_size, trained, self.patches_per_volume, self.seed)

    @staticmethod
    @override
    def _load_training(
        case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Any, patch_size: tuple[int, ...]
    ) -> Sample:
        volume = prepared(case, preprocessing, lambda found: load_label(case, classes, listed, found).numpy())
        require_near_size(patch_size, volume["image"].shape[1:], case.images[0])
        size = (*patch_size, *[1] * (3 - len(patch_size)))
        padded = {name: SpatialPad(size)(volume[name]).as_tensor() for name in ("image", "label")}
        if any(preprocessing.settings.use_mask_for_norm):
            padded["outside"] = SpatialPad(size, value=1)(volume["outside"]).as_tensor()
        return cast(Sample, {**padded, "patient": case.patient, "classes": tuple(classes)})

    @staticmethod
    @override
    def _load_evaluation(case: Case, classes: Mapping[str, int], listed: CaseList, preprocessing: Any) -> Sample:
        volume = prepared(case, preprocessing)
        label = load_label(case, classes, listed, volume).as_tensor()
        whole: Any = {**volume, "label": label, "classes": tuple(classes)}
        return whole  # type: ignore[no-any-return]
