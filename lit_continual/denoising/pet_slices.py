"""PET volumes as samples: slices with their neighbours to learn from, and whole studies to evaluate on."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lit_continual.denoising.pet_study import Study
from lit_continual.denoising.slice_neighbours import slice_neighbours

#: What of a study is no region.
_NO_MASKS = {"truth", "full", "seconds", "realisations", "pixel"}


class PetSlices(Dataset[dict[str, Tensor]]):
    """Slices of volumes ``(D, H, W)``, each with its two neighbours; at the ends the slice itself is repeated.

    Args:
        pairs: Noisy volumes with what goes with each.
        key: ``"target"`` for the slice alone ``(1, H, W)``, ``"twin"`` for it and its neighbours ``(3, H, W)``.
        within: First and last slice to take, as in a Python slice; ``None`` for all.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        key: Literal["target", "twin"] = "target",
        within: tuple[int, int] | None = None,
    ) -> None:
        self.pairs, self.key = pairs, key
        part = slice(*(within or (None, None)))
        self.index = [(pair, z) for pair, (noisy, _) in enumerate(pairs) for z in range(len(noisy))[part]]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pair, z = self.index[index]
        noisy, other = self.pairs[pair]
        around = slice_neighbours(len(noisy), 3)[z].numpy()
        partner = other[around] if self.key == "twin" else other[z : z + 1]
        return {"image": torch.from_numpy(noisy[around]), self.key: torch.from_numpy(partner)}


class WholeStudies(Dataset[dict[str, Any]]):
    """Whole studies: ``realisations`` ``(R, D, H, W)``, ``target`` ``(D, H, W)``, masks ``regions``, ``pixel`` in mm.

    Args:
        studies: For each, the patient, the group of patients that they belong to, and the study.
    """

    def __init__(self, studies: Sequence[tuple[str, str, Study]]) -> None:
        self.studies = studies

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> dict[str, Any]:
        patient, group, study = self.studies[index]
        return {
            "realisations": torch.from_numpy(study["realisations"]),
            "target": torch.from_numpy(study["full"]),
            "regions": {name: torch.from_numpy(mask > 0) for name, mask in study.items() if name not in _NO_MASKS},
            "pixel": float(study["pixel"]),
            "patient": patient,
            "group": group,
        }
