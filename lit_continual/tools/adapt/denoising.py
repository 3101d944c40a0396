"""Online learning: a denoiser is retrained on the study that it is to denoise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lit_continual.data import EpochSampler
from lit_continual.denoising.denoiser import Denoiser
from lit_continual.denoising.noisy_pair import read_noisy_pair
from lit_continual.denoising.pet_slices import PetSlices
from lit_continual.images.nifti import write_nifti
from lit_continual.methods.tgd.callback import TargetedGradientDescent
from lit_continual.stream.rehearsal import explained
from lit_continual.stream.tracking import quiet
from lit_continual.tools.adapt.denoising_figure import write_adaptation


class NoisyStudy:
    """A study of which there are two noise realisations or more, for a denoiser to learn from by Noise2Noise.

    Args:
        module: The denoiser, which is trained in place.
        study: See :func:`~lit_continual.denoising.noisy_pair.read_noisy_pair`.
        phi: Threshold of targeted gradient descent; ``None`` retrains all kernels.
        epochs: Passes over the study; by default 150.
        lr: Learning rate of Adam; by default 1e-4.
        batch_size: Slices a batch; by default 8.
        seed: Seed of the order of the slices, and of an acquisition's halves.

    Raises:
        ValueError: If the study has one realisation only, or ``phi`` is out of range.
    """

    def __init__(
        self,
        module: Denoiser,
        study: str,
        phi: float | None,
        epochs: int | None,
        lr: float | None,
        batch_size: int | None,
        seed: int,
    ) -> None:
        self.module, self.pair, self.seed = module, read_noisy_pair(study, seed), seed
        self.epochs, self.lr = 150 if epochs is None else epochs, 1e-4 if lr is None else lr
        self.batch_size = batch_size or 8
        self.methods = [] if phi is None else [TargetedGradientDescent(phi, network="network", hold_statistics=True)]
        #: What is written: the checkpoint, then what :meth:`write` gets.
        self.outputs = ["model.ckpt", f"{self.pair.name}.nii.gz", "adapted.png"]
        #: What is read beside the checkpoint.
        self.files = self.pair.files
        #: What distinguishes one adaptation from another.
        self.options = [phi, self.epochs, self.lr, self.batch_size, seed]

    @torch.no_grad()
    def answer(self) -> NDArray[Any]:
        """The denoised study ``(D, H, W)``."""
        return self.module.infer(self.pair.whole[None])[0].numpy()

    def train(self, accelerator: str) -> dict[str, Any]:
        """Retrain the denoiser, and return the state of the callbacks.

        Raises:
            ValueError: If there is no such accelerator.
        """
        self.module.optimizer = partial(torch.optim.Adam, lr=self.lr)
        halves = PetSlices([(self.pair.first.numpy(), self.pair.second.numpy())], "twin")
        loader = DataLoader(halves, self.batch_size, sampler=EpochSampler(halves, self.seed, None, 1, 0))
        options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        options |= {"limit_val_batches": 0, "max_epochs": self.epochs}  # nobody knows the truth
        with quiet():
            with explained("The adaptation cannot run"):
                trainer = Trainer(accelerator=accelerator, devices=1, callbacks=list(self.methods), **options)
            trainer.fit(self.module.train(), loader, [])
        self.module.eval().cpu()
        return {method.state_key: method.state_dict() for method in self.methods}

    def write(self, paths: Sequence[Path], before: NDArray[Any], after: NDArray[Any]) -> None:
        """Write the denoised study and the picture."""
        image, picture = paths
        write_nifti(image, np.moveaxis(after, 0, -1), self.pair.affine)
        write_adaptation(picture, self.pair.whole.numpy(), before, after)
