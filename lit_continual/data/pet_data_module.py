"""Simulated PET for denoisers: noisy slices with their neighbours, and what to make of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lit_continual.data.pet_study import SCAN_TIMES, pet_study


class PetSlices(Dataset[dict[str, Tensor]]):
    """Slices of volumes ``(D, H, W)``, each with its two neighbours; at the ends the slice itself is repeated.

    Args:
        pairs: Noisy volumes with what goes with each.
        key: ``"target"`` for the slice alone ``(1, H, W)``, ``"twin"`` for it and its neighbours ``(3, H, W)``.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        key: Literal["target", "twin"] = "target",
    ) -> None:
        self.pairs, self.key = pairs, key
        self.index = [(pair, z) for pair, (noisy, _) in enumerate(pairs) for z in range(len(noisy))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pair, z = self.index[index]
        noisy, other = self.pairs[pair]
        around = [max(z - 1, 0), z, min(z + 1, len(noisy) - 1)]
        partner = other[around] if self.key == "twin" else other[z : z + 1]
        return {"image": torch.from_numpy(noisy[around]), self.key: torch.from_numpy(partner)}


class PetDataModule(LightningDataModule):
    """Simulated studies of patients of low and high BMI, as pairs of short and full scans.

    Args:
        version: The reconstruction, ``"v1"`` or ``"v2"``.
        low: Seeds of the patients of low BMI to train on, and ``high`` those of high BMI.
        high: See ``low``.
        val: Seeds of the patients to validate on, of either BMI.
        seconds: Scan times of the noisy images; several make noise-adaptive training. Targets are 600 s.
        size: Pixels a side.
        depth: Slices a patient.
        batch_size: Slices a batch.
        cache: Folder where simulated studies are kept.

    Raises:
        ValueError: If there is nobody to train on, or somebody to train and to validate on.
    """

    def __init__(
        self,
        version: str = "v2",
        low: Sequence[int] = (0, 1, 2),
        high: Sequence[int] = (),
        val: Sequence[int] = (100,),
        seconds: Sequence[int] = SCAN_TIMES,
        size: int = 96,
        depth: int = 24,
        batch_size: int = 8,
        cache: str | Path = "runs/pet",
    ) -> None:
        super().__init__()
        if not [*low, *high] or set(val) & {*low, *high}:
            raise ValueError(
                f"There must be patients to train on, and none of them to validate on: got low {list(low)},"
                f" high {list(high)}, val {list(val)}."
            )
        self.train = [*[(seed, "low") for seed in low], *[(seed, "high") for seed in high]]
        self.val = [(seed, bmi) for seed in val for bmi in ("low", "high")]
        self.seconds, self.batch_size = list(seconds), batch_size
        self.options: dict[str, Any] = {"version": version, "size": size, "depth": depth, "cache": cache}

    @override
    def prepare_data(self) -> None:
        for seed, bmi in [*self.train, *self.val]:
            pet_study(seed, bmi, seconds=self.seconds, **self.options)  # type: ignore[arg-type]

    def _slices(self, patients: Sequence[tuple[int, str]]) -> PetSlices:
        studies = [pet_study(seed, bmi, seconds=self.seconds, **self.options) for seed, bmi in patients]  # type: ignore[arg-type]
        return PetSlices([(noisy, study["full"]) for study in studies for noisy in study["seconds"]])

    @override
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self._slices(self.train), batch_size=self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self._slices(self.val), batch_size=self.batch_size)
