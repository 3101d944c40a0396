"""Segmenters go out as bundles that MONAI builds, checks and runs without this package."""

import inspect
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator

from lit_continual.cli import main
from lit_continual.interop.one_layer import OneLayer
from lit_continual.modules import HydraNet, RegionSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.label_map import folded_logits
from tests.interop.toys import (
    NETWORKS,
    SIGMOID,
    THRESHOLD,
    balanced,
    config,
    network,
    run_with_monai,
    write_bundle,
    write_images,
)
from tests.marks import slow_but

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*labels:FutureWarning", "ignore:Using a non-tuple sequence", "ignore:.*torch.jit"
)
HEADS = [["a", "b"], ["c"], ["d", "e"]]
PREPROCESSING = {
    "orientation": "RAS",
    "spacing": [1.5, 1.5, 2.0],
    "normalise": [
        {"_target_": "ScaleIntensityRange", "a_min": -2, "a_max": 2, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "NormalizeIntensity", "channel_wise": True},
    ],
}
FEATURES = {"BasicUNet": 6, "SegResNet": 8, "DynUNet": 4, "UNETR": 4, "SwinUNETR": 12, "UNet": 5}
SLICES = {"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 1, "features": [4, 4, 4, 4, 4, 5], "norm": "BATCH"}


def segmenter(spec, features, heads=HEADS, kind=Segmenter, **arguments):
    """A module of random weights whose classes are all found somewhere."""
    torch.manual_seed(0)
    module = kind(spec, features, heads, **arguments) if kind is Segmenter else kind(spec, features, **arguments)
    for layer in module.body.modules():
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            layer.momentum = None
    size = spec.get("img_size", [32] * module.spatial_dims)
    with torch.no_grad():
        seen = module.body(torch.rand(2, 1, *size)).flatten(2)
        scale = (2 / seen.std((0, 2))).reshape(1, -1, *[1] * module.spatial_dims)
        for layer in module.heads.layers:
            layer.weight *= scale
            layer.bias -= torch.einsum("cf,f->c", layer.weight.flatten(1), seen.mean((0, 2)))
    return module.eval()


def spec(name):
    known = {k: v for k, v in NETWORKS[name].items() if k != "deep_supervision"}
    return {"_target_": name, **known}


@pytest.fixture
def save(tmp_path):
    """Write a module as a checkpoint of a fit, and return its path."""

    def write(module, name="model.ckpt", **preprocessing):
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        content["datamodule_hyper_parameters"] = {"preprocessing": {**PREPROCESSING, **preprocessing}}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def export(checkpoint, folder, *options):
    main(["export", str(checkpoint), "--format=bundle", f"--output={folder}", *options])
    return folder


def described(bundle):
    return json.loads((bundle / "configs/inference.json").read_text())


def built(bundle):
    """The network of a bundle, as MONAI builds it."""
    module = ConfigParser(described(bundle)).get_parsed_content("network_def")
    module.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    return module.eval()


@pytest.mark.parametrize("name", slow_but(FEATURES, "BasicUNet", "SegResNet", "DynUNet", "UNETR", "UNet"))
def test_all_heads_are_one_layer_of_a_network_of_monai(tmp_path, save, name):
    module = segmenter(spec(name), FEATURES[name])
    bundle = export(save(module), tmp_path / "bundle")
    image = torch.rand(1, 1, *[16 if name == "UNETR" else 32] * 3)
    with torch.no_grad():
        expected, found = folded_logits(module(image), module.head_channels), built(bundle)(image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert type(built(bundle)).__name__ == ("Sequential" if name == "UNet" else name)
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "a", "2": "b", "3": "c", "4": "d", "5": "e"}
    assert output["num_channels"] == 6


@pytest.mark.parametrize(
    ("dims", "resample"),
    slow_but([(2, "logits"), (2, "labels"), (3, "logits"), (3, "labels")], (2, "labels"), (3, "logits")),
)
def test_a_run_of_the_bundle_gives_the_label_maps_of_predict(tmp_path, save, dims, resample):
    images = write_images(tmp_path / "images", shape=(40, 36, 14))
    body, features = (SLICES, 5) if dims == 2 else (spec("BasicUNet"), 6)
    post = [{"_target_": "KeepLargestConnectedComponent", "applied_labels": [4]}]
    inference = {"overlap": 0.4, "mode": "constant", "sw_batch_size": 3, "resample": resample}
    module = segmenter(body, features, roi_size=[16] * dims, inference=inference, post=post)
    checkpoint = save(module)
    bundle = export(checkpoint, tmp_path / "bundle", f"--images={images}")
    main(["predict", str(checkpoint), str(images), f"--output={tmp_path / 'out'}", "--accelerator=cpu"])
    for name, label in run_with_monai(described(bundle), built(bundle), images).items():
        predicted = np.asarray(nib.load(tmp_path / "out" / name).dataobj)
        assert len(np.unique(predicted)) > 3
        assert (predicted != label[0]).sum() <= 2  # of 20160; a fold is exact up to rounding
    again = Checkpoint(bundle).module(Segmenter) if dims == 3 else None
    assert again is None or (again.classes == module.classes and again.hparams["post"] == module.hparams["post"])


def test_what_came_in_goes_out_unchanged(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=1)
    original = balanced(network("SegResNet"), images, config("SegResNet"))
    source = write_bundle(tmp_path / "source", config("SegResNet"), original)
    bundle = export(source, tmp_path / "bundle", f"--images={images}")
    assert "0 of" in capsys.readouterr().out
    state, exported = original.state_dict(), torch.load(bundle / "models/model.pt", weights_only=True)
    assert state.keys() == exported.keys()
    assert all(torch.equal(exported[name], value) for name, value in state.items())
    assert (bundle / "LICENSE").read_text() == "For toys only."
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert (metadata["version"], list(metadata["changelog"]), metadata["authors"]) == (
        "0.2.0",
        ["0.1.0", "0.2.0"],
        "toys",
    )
    expected = run_with_monai(config("SegResNet"), original, images)
    for name, label in run_with_monai(described(bundle), built(bundle), images).items():
        np.testing.assert_array_equal(label, expected[name])


def test_regions_go_out_as_sigmoids_and_come_in_again(tmp_path, save, capsys):
    images = write_images(tmp_path / "images", count=1)
    regions = {"whole": ["x", "y"], "core": ["x"]}
    module = segmenter(spec("BasicUNet"), 6, kind=RegionSegmenter, regions=regions, roi_size=[16, 16, 16])
    bundle = export(save(module), tmp_path / "bundle", f"--images={images}")
    assert "0 of" in capsys.readouterr().out
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            built(bundle)(image).sigmoid(), module.probabilities(module(image)), atol=1e-5, rtol=0
        )
        again = Checkpoint(bundle).module(Segmenter)
        torch.testing.assert_close(again.probabilities(again(image)), module.probabilities(module(image)))
    assert again.classes == ["whole", "core"]
    (masks,) = run_with_monai(described(bundle), built(bundle), images).values()
    assert masks.shape[0] == 2


def test_a_new_class_beside_regions(tmp_path, save):
    module = Checkpoint(
        write_bundle(tmp_path / "source", config(after=[SIGMOID, THRESHOLD]), names=("r", "s", "t"))
    ).module(Segmenter)
    module.grow(["new"])
    bundle = export(save(module), tmp_path / "bundle")
    assert built(bundle)(torch.rand(1, 1, 16, 16, 16)).shape[1] == 4
    module.grow(["one", "other"])
    with pytest.raises(ValueError, match="has regions that may overlap, and one, other, which exclude each other"):
        export(save(module), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_stands_for_an_origin_is_data_or_an_error(tmp_path, save):
    module = segmenter(spec("BasicUNet"), 6)
    module.origin = {"license": [1], "bundle": {"version": "0.x.1", "changelog": 3, "authors": float("nan")}}
    metadata = json.loads((export(save(module), tmp_path / "bundle") / "configs/metadata.json").read_text())
    assert (metadata["version"], list(metadata["changelog"]), metadata["authors"]) == ("0.1.0", ["0.1.0"], "")
    content = torch.load(save(module), weights_only=True)
    torch.save({**content, "origin": [1]}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"model.ckpt are not those of the Segmenter"):
        export(tmp_path / "model.ckpt", tmp_path / "other")


@pytest.mark.parametrize("name", slow_but(["BasicUNet", "SegResNet"], "BasicUNet"))
def test_monai_checks_and_converts_it(tmp_path, save, name):
    module = segmenter(spec(name), FEATURES[name], roi_size=[32, 32, 32])
    bundle = export(save(module), tmp_path / "bundle")
    files = {"meta_file": str(bundle / "configs/metadata.json"), "config_file": str(bundle / "configs/inference.json")}
    verify_net_in_out("network_def", device="cpu", **files)
    weights, script = str(bundle / "models/model.pt"), str(bundle / "models/model.ts")
    ckpt_export("network_def", script, weights, **files)
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(script)(image), built(bundle)(image))


def test_the_evaluator_saves_the_label_map_of_predict(tmp_path, save):
    images = write_images(tmp_path / "images", count=1)
    checkpoint = save(segmenter(spec("BasicUNet"), 6, roi_size=[16, 16, 16]))
    bundle = export(checkpoint, tmp_path / "bundle")
    main(["predict", str(checkpoint), str(images), f"--output={tmp_path / 'out'}", "--accelerator=cpu"])
    paths = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(tmp_path / "eval")}
    config = described(bundle)
    parser = ConfigParser({**config, **paths, "device": "cpu"})
    (batch,) = parser.get_parsed_content("dataloader")
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(parser.get_parsed_content("ckpt_path"), weights_only=True))
    with torch.no_grad():
        logits = parser.get_parsed_content("inferer")(batch["image"], network.eval())
    for one in decollate_batch({"image": batch["image"], "pred": logits}):  # as the evaluator does
        parser.get_parsed_content("postprocessing")(one)
    (saved,) = (tmp_path / "eval").iterdir()
    assert saved.name == "case_0_seg.nii.gz"
    found, label = nib.load(saved), nib.load(tmp_path / "out/case_0.nii.gz")
    assert (np.asarray(found.dataobj).squeeze() != np.asarray(label.dataobj)).sum() <= 2
    np.testing.assert_allclose(found.affine, label.affine, atol=1e-4)
    asked = {key for key in config["evaluator"] if key != "_target_"}
    assert asked <= inspect.signature(SupervisedEvaluator.__init__).parameters.keys()


@pytest.mark.slow
def test_monai_runs_it(tmp_path, save):
    pytest.importorskip("fire")
    pytest.importorskip("ignite")
    images = write_images(tmp_path / "images")
    checkpoint = save(segmenter(spec("BasicUNet"), 6, roi_size=[16, 16, 16]))
    bundle = export(checkpoint, tmp_path / "bundle")
    main(["predict", str(checkpoint), str(images), f"--output={tmp_path / 'out'}", "--accelerator=cpu"])
    options = ["--config_file", "configs/inference.json", "--bundle_root", ".", "--dataset_dir", str(images)]
    command = [sys.executable, "-m", "monai.bundle", "run", *options, "--output_dir", str(tmp_path / "eval")]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in sorted((tmp_path / "out").glob("case*.nii.gz")):
        name = path.name.replace(".nii.gz", "_seg.nii.gz")
        found = np.asarray(nib.load(tmp_path / "eval" / name).dataobj).squeeze()
        assert (found != np.asarray(nib.load(path).dataobj)).sum() <= 2


OWN_POST = [{"_target_": "RemoveOutside", "label": 2, "organ": [1], "margin": 0}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: HydraNet({"_target_": "DenseNet121UNet"}, 4, [["a"]]),
            "is of a HydraNet, which has a decoder for each",
            marks=pytest.mark.slow,
        ),
        (
            lambda: Segmenter({"_target_": "FCN8s", "head_channels": 4}, 4, [["a"]]),
            "The network FCN8s is none of MONAI",
        ),
        (
            lambda: segmenter(spec("BasicUNet"), 6, post=OWN_POST),
            "`post` has the transform RemoveOutside, which is none",
        ),
        (lambda: Segmenter(spec("BasicUNet"), 6), "has no head yet"),
    ],
)
def test_what_a_bundle_cannot_hold_is_refused_and_nothing_is_written(tmp_path, save, make, message):
    checkpoint = save(make())
    with pytest.raises(ValueError, match=message):
        export(checkpoint, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_the_one_layer_as_a_network_is_the_one_that_is_written(tmp_path, save):
    module = segmenter(spec("BasicUNet"), 6)
    one = OneLayer.of(Checkpoint(save(module)))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(one.network()(image), one.logits(module(image)), atol=1e-5, rtol=1e-5)
