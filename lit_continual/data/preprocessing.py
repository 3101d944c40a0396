"""What is done to every image: its grid and its intensity scale."""

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from monai.transforms import Compose, Orientation
from typing_extensions import Self

from lit_continual.files.plain_data import require_types
from lit_continual.files.whole_files import explaining
from lit_continual.images.resampling import SlabSpacing
from lit_continual.runs.checkpoints.classes import TRANSFORMS
from lit_continual.runs.checkpoints.registry import flat
from lit_continual.runs.checkpoints.spec import Spec

if TYPE_CHECKING:  # which imports Lightning
    from lit_continual.runs.checkpoints.checkpoint import Checkpoint

AXES = (("L", "R"), ("P", "A"), ("I", "S"))
#: Of the arguments in a file.
_TYPES = {
    "orientation": str | None,
    "spacing": list[float] | None,
    "normalise": list[dict[str, Any]],
}
NORMALISE: Spec = {"class_path": "NormalizeIntensity", "init_args": {"channel_wise": True}}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image, in training and ever after; a checkpoint remembers it.

    Args:
        orientation: Axis codes that the array is turned to, such as ``RAS``; ``None`` leaves it as stored.
        spacing: Voxel size in mm that the image is resampled to; ``None`` leaves it. A negative or zero entry leaves
            that axis.
        normalise: Transforms of MONAI on the image, one after another, as ``class_path`` and ``init_args``.
    """

    orientation: str | None = "RAS"
    spacing: tuple[float, ...] | None = None
    normalise: tuple[Spec, ...] = field(default_factory=lambda: (NORMALISE,))

    def __post_init__(self) -> None:
        axes, spacing = self.orientation, self.spacing
        if axes is not None and (len(axes) != 3 or any(sum(c in pair for c in axes) != 1 for pair in AXES)):
            raise ValueError(
                f"`orientation` must be a letter of each of LR, PA and IS, in any order, such as RAS, got {axes!r}."
            )
        if spacing is not None and not (0 < len(spacing) <= 3 and all(map(isfinite, spacing))):
            raise ValueError(f"`spacing` must be up to three voxel sizes in mm, got {list(spacing)}.")
        object.__setattr__(self, "normalise", tuple(map(flat, self.normalise)))  # as checkpoints and caches know it

    @classmethod
    def of(cls, opened: "Checkpoint") -> Self:
        """Return the preprocessing that a checkpoint says its module was trained with.

        Raises:
            ValueError: If it says none, or none that can be built, with the file.
        """
        given: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in opened.preprocessing.items()}
        with explaining(
            f"{opened.path} describes no preprocessing that can be done", "Use another checkpoint.", ValueError
        ):
            require_types(given, _TYPES, required=False)
            if unknown := sorted(given.keys() - _TYPES.keys()):
                raise ValueError(f"there is no `{unknown[0]}`")
            arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            found = cls(**arguments)
            found.transforms()
        return found

    def transforms(self) -> tuple[list[Any], Any]:
        """Build the transforms of the grid, with an interpolation mode to be given, and of the intensities."""
        grid = [Orientation(axcodes=self.orientation, labels=AXES)] if self.orientation else []
        grid += [SlabSpacing(self.spacing)] if self.spacing else []
        return grid, Compose([TRANSFORMS.build(spec) for spec in self.normalise])
