import csv

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.functional import kernel_sparsity_entropy
from lit_continual.modules import Denoiser, Segmenter

UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}


def save(module, path, **more):
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), **more}
    torch.save(content, path)
    return str(path)


@pytest.fixture
def denoiser(tmp_path):
    torch.manual_seed(0)
    module = Denoiser({"_target_": "DnCNN", "features": 6, "depth": 4})
    return module.eval(), save(module, tmp_path / "denoiser.ckpt")


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(0).uniform(0, 3, (12, 10, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([4, 4, 5, 1.0])), tmp_path / "pet.nii.gz")
    return array, str(tmp_path / "pet.nii.gz")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_the_scores_of_the_layers_and_what_each_threshold_frees(denoiser, tmp_path, capsys):
    module, checkpoint = denoiser
    main(["kse", checkpoint, "--phis=[0.3, 0.7]", f"--output={tmp_path / 'kse'}"])
    shown = capsys.readouterr().out
    assert "kse.html" in shown
    total = sum(parameter.numel() for parameter in module.parameters())
    for phi in (0.3, 0.7):
        below = [(kernel_sparsity_entropy(module.network.blocks[i + 1][0].weight) < phi).sum() for i in range(3)]
        freed = sum(
            n * size for n, size in zip(below, (3 * 9 + 1, 6 * 9 + 2, 6 * 9 + 2), strict=True)
        )  # kernel, affine
        assert f"{freed / total:.1%}" in shown
    layers = table(tmp_path / "kse/layers.csv")
    assert [row["layer"] for row in layers] == [f"network.blocks.{i}.0" for i in range(4)]
    assert [(row["kernels"], row["held"]) for row in layers] == [("6", "0")] * 3 + [("1", "1")]
    for i, row in enumerate(layers[:3]):
        scores = kernel_sparsity_entropy(module.network.blocks[i + 1][0].weight)
        assert float(row["median"]) == pytest.approx(scores.quantile(0.5).item(), abs=1e-5)
        for phi in (0.3, 0.7):
            assert float(row[f"phi {phi:g}"]) == pytest.approx((scores < phi).double().mean().item(), abs=1e-5)
        kernels = [r["score"] for r in table(tmp_path / "kse/kernels.csv") if r["layer"] == row["layer"]]
        assert list(map(float, kernels)) == pytest.approx(scores.tolist(), abs=1e-5)
    assert (tmp_path / "kse/histograms.png").read_bytes()[1:4] == b"PNG"
    assert not (tmp_path / "kse/outputs.png").exists()


def test_outputs_without_kernels_are_those_of_a_network_with_zeros_there(denoiser, image, tmp_path, capsys):
    module, checkpoint = denoiser
    array, path = image
    before = (tmp_path / "denoiser.ckpt").read_bytes()
    main(["kse", checkpoint, f"--image={path}", "--phis=[0.7, 0]", f"--output={tmp_path / 'kse'}"])
    assert (tmp_path / "denoiser.ckpt").read_bytes() == before
    volume = torch.from_numpy(array).movedim(-1, 0)[None]
    with torch.no_grad():
        intact = module.infer(volume)
        unchanged = (volume - intact).square().mean().sqrt().item()
        readers = [kernel_sparsity_entropy(module.network.blocks[i + 1][0].weight) < 0.7 for i in range(3)]
        for block, below in zip(module.network.blocks, readers, strict=False):
            for layer in block:
                for value in layer.parameters():
                    value[below] = 0
        expected = (module.infer(volume) - intact).square().mean().sqrt().item()
    assert expected > 0
    errors = table(tmp_path / "kse/errors.csv")
    assert [row["phi"] for row in errors] == ["0", "0.7"]
    assert float(errors[0]["rms_difference"]) == float(errors[0]["share"]) == 0
    assert float(errors[1]["rms_difference"]) == pytest.approx(expected, rel=1e-4)
    page = (tmp_path / "kse/kse.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert f"that of the image itself is {unchanged:.3g}" in page
    (shown,) = (line for line in capsys.readouterr().out.splitlines() if "RMS difference" in line)
    assert shown.split("│")[-2].strip() == f"{expected:.3g}"


@pytest.mark.slow
def test_a_segmenter_answers_with_label_maps(tmp_path, image):
    torch.manual_seed(0)
    module = Segmenter(UNET, features=2, heads=[["a"], ["b"]], roi_size=[32, 32])
    preprocessing = {"orientation": "RAS", "spacing": None, "normalise": ()}
    more = {"datamodule_hyper_parameters": {"preprocessing": preprocessing}}
    checkpoint = save(module, tmp_path / "segmenter.ckpt", **more)
    main(["kse", checkpoint, f"--image={image[1]}", "--phis=[0.3, 0.6]", f"--output={tmp_path / 'kse'}"])
    layers = {row["layer"]: row for row in table(tmp_path / "kse/layers.csv")}
    assert [layers[f"heads.layers.{i}"]["held"] for i in (0, 1)] == ["2", "2"]
    assert sum(row["held"] != "0" for row in layers.values()) == 2  # the heads read the body
    assert len(table(tmp_path / "kse/errors.csv")) == 2
    assert "in probability" in (tmp_path / "kse/kse.html").read_text()


def test_bad_input(denoiser, image, tmp_path):
    _, checkpoint = denoiser
    with pytest.raises(ValueError, match=r"`phis` must be thresholds in \[0, 1\], got \[0.2, 1.4\]"):
        main(["kse", checkpoint, "--phis=[0.2, 1.4]"])
    with pytest.raises(ValueError, match=r"\[0, 1\], got \[0.2, 1.4\]"):  # as other commands take several
        main(["kse", checkpoint, "--phis", "1.4", "0.2"])
    (tmp_path / "scans").mkdir()
    with pytest.raises(ValueError, match=r"scans is a folder. Give one file of it."):
        main(["kse", checkpoint, "--image", str(tmp_path / "scans")])
    other = {"state_dict": {}, "hyper_parameters": {"layers": 3}}
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt is no checkpoint of a Segmenter or Denoiser"):
        main(["kse", str(tmp_path / "other.ckpt")])
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["network"]["features"] = 8
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=r"weights in .*changed.ckpt are not those of the Denoiser that it describes"):
        main(["kse", str(tmp_path / "changed.ckpt")])
    with pytest.raises(ValueError, match=r"There is no image at .*nowhere.nii"):
        main(["kse", checkpoint, f"--image={tmp_path / 'nowhere.nii'}"])


@pytest.mark.usefixtures("undrawn")
def test_what_is_there_is_kept(denoiser, image, tmp_path):
    output = tmp_path / "kse"
    output.mkdir()
    (output / "layers.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"layers.csv is there already and of no report. Choose another --output"):
        main(["kse", denoiser[1], f"--output={output}"])
    assert (output / "layers.csv").read_text() == "mine"
    (output / "layers.csv").unlink()
    for _ in range(2):
        main(["kse", denoiser[1], f"--output={output}"])
    (output / "kernels.csv").unlink()
    (output / "kernels.csv").symlink_to(denoiser[1])
    with pytest.raises(ValueError, match=r"denoiser.ckpt would be overwritten"):
        main(["kse", denoiser[1], f"--output={output}"])


def test_an_image_of_other_channels_is_named(tmp_path, image):
    module = Segmenter(UNET, features=4, heads=[["bone"]])
    plain = {"preprocessing": {"orientation": None, "normalise": []}}
    path = save(module, tmp_path / "model.ckpt", datamodule_hyper_parameters=plain)
    nib.save(nib.Nifti1Image(np.stack([image[0]] * 3, -1), np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(ValueError, match=r"rgb.nii.gz has 3 channels, and the network takes 1"):
        main(["kse", path, f"--image={tmp_path / 'rgb.nii.gz'}", f"--output={tmp_path / 'kse'}"])
