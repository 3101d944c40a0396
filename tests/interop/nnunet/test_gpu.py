"""What models of nnU-Net do on a GPU: ``make test-gpu``."""

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from tests.interop.nnunet.conftest import nnunet_predicts, write_images
from tests.interop.nnunet.test_learn import config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
KINDS = {
    "3d": {},
    "2d": {"dims": 2, "spacing": (9.0, 1.0, 1.7)},
    "transposed_ct": {"transpose": (1, 0, 2), "spacing": (2.0, 2.0, 2.0), "normalisation": "CTNormalization"},
    "mirrored": {"mirror": True},
}


@pytest.mark.parametrize("stitch_device", ["same", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_label_maps_are_those_of_nnunet_on_a_gpu(toy, tmp_path, kind, stitch_device):
    """Both compute in half precision there; kernels that add in another order leave a voxel in a thousand."""
    options = dict(KINDS[kind])
    mirror = options.pop("mirror", False)
    folder, images = toy(**options), write_images(tmp_path / "images")
    theirs = nnunet_predicts(folder, images, tmp_path / "theirs", mirror, device="cuda")
    asked = [*(["--mirror=true"] if mirror else []), f"--stitch_device={stitch_device}"]
    main(["predict", str(folder), str(images), f"--output={tmp_path / 'ours'}", "--accelerator=gpu", *asked])
    for name, found in theirs.items():
        ours = np.asarray(nib.load(tmp_path / f"ours/{name}.nii.gz").dataobj)
        assert (ours == found).mean() > 0.999
        assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_model_learns_a_class_on_a_gpu(toy, raw, tmp_path, precision):
    distillation = {"class_path": "Distillation", "init_args": {"alpha": 0.5, "teacher": "start"}}
    options = [f"--stream.start={toy()}", "--trainer.accelerator=gpu", "--trainer.devices=1"]
    main(["fit", "--config", config(raw, tmp_path, distillation), *options, f"--trainer.precision={precision}"])
    weights = torch.load(tmp_path / "run/experiences/0_cone/model.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
