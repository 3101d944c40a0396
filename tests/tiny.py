"""The tiny module and the tiny data set that tests train on."""

import json

import nibabel as nib
import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch.nn.functional import mse_loss


class TinyModule(LightningModule):
    """One linear layer under MSE; ``extra`` is the term that a callback should reproduce."""

    def __init__(self, extra=None):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.extra = extra

    def training_step(self, batch):  # No `batch_idx`: Lightning allows it, so every wrapper must.
        loss = mse_loss(self.layer(batch[0]), batch[1])
        return loss if self.extra is None else loss + self.extra(self, batch)

    def forward(self, x):
        return self.layer(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def write_shapes(folder, cases=8, size=(16, 16, 4), seed=0, contrast=1.0):
    """A Decathlon folder of volumes with a bright ball and a dimmer box."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.indices(size)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    affine, listed = np.diag([1.5, 1.5, 4.0, 1.0]), []
    for i in range(cases):
        label = np.zeros(size, np.uint8)
        (a, b), (c, d) = rng.integers(8, 11, 2), rng.uniform(3, 6, 2)
        label[(x >= a) & (x < a + 4) & (y >= b) & (y < b + 4)] = 2
        label[(x - c) ** 2 + (y - d) ** 2 < 9] = 1
        image = rng.normal(0, 0.1, size) + contrast * np.array([0.0, 1.0, 0.5])[label]
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "images" / f"case_{seed}{i}.nii")
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / f"case_{seed}{i}.nii")
        listed.append({"image": f"images/case_{seed}{i}.nii", "label": f"labels/case_{seed}{i}.nii"})
    labels = {"0": "background", "1": "ball", "2": "box"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}))
    return folder
