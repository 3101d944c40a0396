"""New data for a MONAI bundle, preprocessed as its own were."""

from dataclasses import asdict
from typing import Any

from lit_continual.data import Preprocessing, SegmentationDataModule
from lit_continual.runs.checkpoints.checkpoint import Checkpoint


class BundleDataModule(SegmentationDataModule):
    """One experience of a bundle: new cases, with the grid and the intensity scale that its network knows.

    They are those of the bundle, or the checkpoint, that a stream starts from; in a program of your own, :meth:`follow`
    takes them.

    Args:
        dataset: See :class:`SegmentationDataModule`.
        patch_size: In voxels; ``None`` takes the window of the bundle.
        **kwargs: Further arguments of :class:`SegmentationDataModule`, without ``preprocessing``.

    Raises:
        ValueError: If the data are asked for before the preprocessing is known; and as
            :class:`SegmentationDataModule`.
    """

    def __init__(self, dataset: str, patch_size: list[int] | None = None, **kwargs: Any) -> None:
        super().__init__(dataset=dataset, patch_size=patch_size or [1, 1, 1], **kwargs)
        self._given, self._known = patch_size, False

    def follow(self, start: Checkpoint) -> None:
        """Take the preprocessing, and where none is given the size of a patch, of the model in a checkpoint.

        Raises:
            ValueError: If it does not say them.
        """
        self.preprocessing = Preprocessing.of(start)
        size = self._given or start.hyper_parameters.get("roi_size")
        if not size:
            raise ValueError(f"{start.path} has no window to take `patch_size` from. Give `patch_size`.")
        self.patch_size, self._known = tuple(size), True
        self.hparams["preprocessing"] = asdict(self.preprocessing)

    def setup(self, stage: str) -> None:
        """Load the volumes."""
        if not self._known:
            raise ValueError(
                "`BundleDataModule` does not know how images are preprocessed. Give a bundle as --stream.start, or call"
                " `data.follow(Checkpoint(BUNDLE))`."
            )
        super().setup(stage)
