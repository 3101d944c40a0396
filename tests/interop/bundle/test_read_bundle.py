"""Bundles come in as segmenters that say what MONAI says, voxel for voxel."""

import json
import shutil
import time
import zipfile
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from lit_continual.cli import main
from lit_continual.modules import RegionSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.toys import (
    ARGMAX,
    GRID,
    INFERER,
    INVERT,
    LOAD,
    NEAREST,
    NETWORKS,
    SCALE,
    SIGMOID,
    SOFTMAX,
    THRESHOLD,
    balanced,
    config,
    metadata,
    network,
    run_with_monai,
    write_bundle,
    write_images,
)  # fmt: skip
from tests.marks import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:.*labels:FutureWarning", "ignore:Using a non-tuple sequence")


NAMES = ["BasicUNet", "SegResNet", "DynUNet", "UNETR", "SwinUNETR"]


def segmenter(bundle, trust=()):
    return Checkpoint(bundle, trust).module(Segmenter)


@pytest.mark.parametrize("name", slow_but(NAMES, *NAMES[:-1]))
def test_logits_are_those_of_the_network_bit_for_bit(tmp_path, name):
    original = network(name)
    module = segmenter(write_bundle(tmp_path / "bundle", config(name), original))
    image = torch.randn(2, 1, 32, 32, 32)[..., : 16 if name == "UNETR" else 32]
    image = image[:, :, :16, :16] if name == "UNETR" else image
    with torch.no_grad():
        assert torch.equal(module(image), original(image))
    assert module.classes == ["a", "b"]
    assert module.hparams["features"] == module.heads.layers[0].in_channels


WAYS = {
    "probabilities": [SOFTMAX, INVERT, ARGMAX],
    "logits": [INVERT, ARGMAX],
    "labels": [SOFTMAX, ARGMAX, NEAREST],
}
PLAIN = {**INFERER, "mode": "constant", "overlap": 0.25, "padding_mode": "replicate"}
INFERERS = {"gaussian": INFERER, "constant": PLAIN, "all": {"_target_": "SimpleInferer"}}


def predicted(bundle, images, output, *options):
    main(["predict", str(bundle), str(images), f"--output={output}", "--accelerator=cpu", *options])
    return {path.name: np.asarray(nib.load(path).dataobj) for path in output.glob("case*.nii.gz")}


@pytest.mark.parametrize(("inferer", "way"), slow_but(product(INFERERS, WAYS), *zip(INFERERS, WAYS, strict=True)))
def test_label_maps_are_those_of_monai_voxel_for_voxel(tmp_path, way, inferer):
    inferer = INFERERS[inferer]
    shape = (25, 21, 12) if "roi_size" in inferer else (32, 32, 16)
    images = write_images(tmp_path / "images", shape=shape)
    steps = [*LOAD, *GRID, *SCALE] if "roi_size" in inferer else [*LOAD, *GRID[:1], *SCALE]  # which fit the network
    described = config(after=WAYS[way], inferer=inferer, steps=steps)
    module = balanced(network(), images, described)
    expected = run_with_monai(described, module, images)
    assert min(np.bincount(expected["case_0.nii.gz"].astype(int).ravel(), minlength=3)) > 200
    found = predicted(write_bundle(tmp_path / "bundle", described, module), images, tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        np.testing.assert_array_equal(found[name], label[0])
    assert json.loads((tmp_path / "out/labels.json").read_text()) == {"background": 0, "a": 1, "b": 2}


@pytest.mark.parametrize("name", ["SegResNet", "DynUNet", "UNETR"])
def test_label_maps_of_other_networks(tmp_path, name):
    images = write_images(tmp_path / "images", count=1)
    described = config(name)
    module = balanced(network(name), images, described)
    (expected,) = run_with_monai(described, module, images).values()
    (found,) = predicted(write_bundle(tmp_path / "bundle", described, module), images, tmp_path / "out").values()
    np.testing.assert_array_equal(found, expected[0])


def test_a_zip_is_read_like_its_folder(tmp_path):
    folder = write_bundle(tmp_path / "toy")
    shutil.make_archive(tmp_path / "inside", "zip", tmp_path, "toy")
    shutil.make_archive(tmp_path / "flat", "zip", folder)
    states = [segmenter(path).state_dict() for path in (folder, tmp_path / "inside.zip", tmp_path / "flat.zip")]
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


def test_a_bundle_of_sigmoids_has_a_head_for_each_region(tmp_path):
    images = write_images(tmp_path / "images", count=1)
    described = config(after=[SIGMOID, INVERT, THRESHOLD])
    original = balanced(network(), images, described)
    (expected,) = run_with_monai(described, original, images).values()
    bundle = write_bundle(tmp_path / "bundle", described, original, ("core", "whole", "enhancing"))
    module = segmenter(bundle)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(module.probabilities(module(image)), original(image).sigmoid())
    predicted(bundle, images, tmp_path / "out", "--probabilities=true")
    chances = np.asarray(nib.load(tmp_path / "out/case_0_probabilities.nii.gz").dataobj)
    assert (expected.sum(0) > 1).any()  # regions overlap
    np.testing.assert_array_equal(chances > 0.5, np.moveaxis(expected, 0, -1) > 0)


def test_what_was_said_of_the_bundle_stays_with_what_is_made_of_it(tmp_path):
    module = segmenter(write_bundle(tmp_path / "bundle"))
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    again = Checkpoint(tmp_path / "model.ckpt").module(Segmenter)
    assert again.origin["license"] == "For toys only."
    assert again.origin["bundle"]["version"] == "0.1.0"
    assert again.inference == module.inference
    assert module.inference.sw_batch_size == 2


def test_references_are_followed_and_disabled_steps_left_out(tmp_path):
    described = config(steps=[*LOAD, *GRID, *SCALE, {"_target_": "Ours", "_disabled_": True}])
    described |= {"size": 16, "window": ["@size", "@size", "@size"], "overlaps": {"tight": 0.6}}
    described["inferer"] = {**INFERER, "roi_size": "@window", "overlap": "@overlaps#tight"}
    module = segmenter(write_bundle(tmp_path / "bundle", described))
    assert module.hparams["roi_size"] == [16, 16, 16]
    assert module.inference.overlap == 0.6


@pytest.mark.parametrize("said", ["false", "False ", 0, "no", None])
def test_a_step_is_disabled_by_what_monai_takes_for_true_alone(tmp_path, said):
    crop = {"_target_": "CropForegroundd", "keys": "image", "_disabled_": said}
    bundle = write_bundle(tmp_path / "bundle", config(steps=[*LOAD, crop, *GRID, *SCALE]))
    with pytest.raises(ValueError, match=r"is the transform CropForegroundd, which has no counterpart here"):
        segmenter(bundle)


def test_steps_are_those_that_data_set_and_evaluator_name(tmp_path):
    """They may be called as their author likes, and the usual names hold where nobody names others."""
    keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    described = config(after=(SOFTMAX, {**INVERT, "transform": "@mine"}, ARGMAX, keep))
    described |= {"mine": described.pop("preprocessing"), "after": described.pop("postprocessing")}
    described["preprocessing"] = transforms(*LOAD)  # of another config, which this one overrides
    described["dataset"]["transform"], described["evaluator"]["postprocessing"] = "@mine", "@after"
    described["evaluator"]["inferer"] = described.pop("inferer")
    opened = Checkpoint(write_bundle(tmp_path / "bundle", described))
    assert opened.preprocessing["spacing"] == [1.5, 1.5, 2.0]
    assert [s["_target_"] for s in opened.preprocessing["normalise"]] == ["ScaleIntensityRange"]
    assert opened.hyper_parameters["roi_size"] == [16, 16, 16]
    assert [s["_target_"] for s in opened.hyper_parameters["post"]] == ["KeepLargestConnectedComponent"]


def test_a_disabled_section_does_nothing(tmp_path):
    described = config(after=())
    described["preprocessing"]["_disabled_"] = described["inferer"]["_disabled_"] = True
    opened = Checkpoint(write_bundle(tmp_path / "bundle", described))
    assert (opened.preprocessing["spacing"], opened.preprocessing["normalise"]) == (None, [])
    assert opened.hyper_parameters["roi_size"] is None


def test_a_config_may_be_yaml(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").unlink()
    (bundle / "configs/inference.yaml").write_text(yaml.safe_dump(config()))
    assert segmenter(bundle).classes == ["a", "b"]
    (bundle / "configs/inference.yaml").write_text("a: &a [1]\nb: !!python/object:os.system {}")
    with pytest.raises(ValueError, match=r"inference.yaml in .* cannot be read"):
        segmenter(bundle)


def test_expressions_are_evaluated_for_those_who_trust_them(tmp_path):
    described = {**config(), "high": False}
    described["preprocessing"]["transforms"][3] = {**GRID[1], "pixdim": "$[1.5] * 3 if @high else [3.0] * 3"}
    bundle = write_bundle(tmp_path / "bundle", described)
    with pytest.raises(ValueError, match=r"pixdim` in configs/inference.json of .* is the expression .* --trust '\$'"):
        Checkpoint(bundle)
    assert Checkpoint(bundle, ["$"]).preprocessing["spacing"] == [3.0, 3.0, 3.0]


def changed(change):
    described = config()
    change(described)
    return described


def transforms(*steps):
    return {"_target_": "Compose", "transforms": list(steps)}


def step(name, **arguments):
    return {"_target_": name, "keys": "image", **arguments}


REFUSED = {
    "UNet": (
        lambda c: c.update(network_def={"_target_": "UNet", **NETWORKS["UNet"], "out_channels": 3}),
        "A UNet has no 1 x 1 convolution as its last layer",
    ),
    "DiNTS": (lambda c: c.update(network_def={"_target_": "DiNTS", "in_channels": 1}), "A DiNTS has no 1 x 1"),
    "VISTA3D": (lambda c: c.update(network_def={"_target_": "VISTA3D"}), "`VISTA3D` is no network"),
    "own network": (lambda c: c["network_def"].update(_target_="scripts.nets.Mine"), "Give --trust scripts"),
    "a function": (lambda c: c["network_def"].update(_target_="os.system"), "`os.system` is no network"),
    "code in the network": (
        lambda c: c["network_def"].update(in_channels="$__import__('os').getpid()"),
        "which is code",
    ),
    "code for a name": (lambda c: c["network_def"].update(_target_="$print"), "is no network that a file may name"),
    "no network": (lambda c: c.pop("network_def"), "describes no network"),
    "a list for a network": (lambda c: c.update(network_def=[1]), "describes no network"),
    "a loop": (lambda c: c.update(inferer="@inferer"), "refers to itself"),
    "a bomb": (
        lambda c: c.update({"inferer": ["@b0"] * 9, **{f"b{i}": [f"@b{i + 1}"] * 9 for i in range(9)}, "b9": 1}),
        "refers to itself, or is nested too deeply",
    ),
    "nothing there": (
        lambda c: c["inferer"].update(overlap="@nowhere#0"),
        "refers to `@nowhere#0`, which is not in the file",
    ),
    "crop": (
        lambda c: c.update(preprocessing=transforms(*LOAD, step("CropForegroundd"))),
        "CropForegroundd, which has no counterpart",
    ),
    "own transform": (
        lambda c: c.update(preprocessing=transforms(*LOAD, step("scripts.Mine"))),
        "is the transform scripts.Mine",
    ),
    "spacing before": (lambda c: c.update(preprocessing=transforms(*LOAD, *SCALE, *GRID)), "comes too late"),
    "spacing then orientation": (lambda c: c.update(preprocessing=transforms(*LOAD, *GRID[::-1])), "comes too late"),
    "a mapping for a mode": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[1], "mode": {}})),
        "mode` in .* must be bilinear",
    ),
    "nearest": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[1], "mode": "nearest"})),
        "mode` in .* must be bilinear",
    ),
    "corners": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[1], "align_corners": True})),
        "align_corners` in .* must be False",
    ),
    "reader": (
        lambda c: c.update(preprocessing=transforms(step("LoadImaged", reader="PILReader"))),
        "reader` in .* must be",
    ),
    "axes": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[0], "axcodes": "RAX"})),
        "cannot be built here .*must be a letter of each of LR, PA and IS",
    ),
    "sizes": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[1], "pixdim": ["a", 1, 1]})),
        "cannot be built here",
    ),
    "range": (
        lambda c: c.update(preprocessing=transforms(*LOAD, step("ScaleIntensityRanged", a_min=[[0]]))),
        "cannot be built here",
    ),
    "no list": (lambda c: c.update(preprocessing={"_target_": "Compose", "transforms": 3}), "is no list of transforms"),
    "dynamic": (lambda c: c.update(inferer={"_target_": "SaliencyInferer"}), "is a SaliencyInferer"),
    "window": (lambda c: c["inferer"].update(roi_size=[16, -1, 16]), "roi_size` in .* must be 3 numbers of voxels"),
    "sigma": (lambda c: c["inferer"].update(sigma_scale=0.2), "has a `sigma_scale` other than 0.125"),
    "blending": (lambda c: c["inferer"].update(mode="sharp"), "`mode` must be one of gaussian, constant, got 'sharp'"),
    "overlap": (lambda c: c["inferer"].update(overlap=[0.1, 0.2, 0.3]), "overlap` in .* has no counterpart"),
    "linear labels": (
        lambda c: c.update(postprocessing=transforms(ARGMAX, INVERT)),
        "interpolates a label map linearly",
    ),
    "own post": (
        lambda c: c.update(postprocessing=transforms(step("Lambdad", func="$lambda x: x"))),
        "is code|no counterpart",
    ),
    "threshold": (
        lambda c: c.update(postprocessing=transforms(SIGMOID, {**THRESHOLD, "threshold": 0.3})),
        "no counterpart",
    ),
    "own transform of a known name": (
        lambda c: c.update(preprocessing=transforms(*LOAD, *GRID, {**SCALE[0], "_target_": "scripts.ScaleIntensityd"})),
        "is the transform scripts.ScaleIntensityd",
    ),
    "whole numbers": (
        lambda c: c.update(preprocessing=transforms(*LOAD, *GRID, step("CastToTyped", dtype="$torch.int32"), *SCALE)),
        r"#4#dtype` in .* must be float32 or float64, got '\$torch.int32'",
    ),
    "loaded as whole numbers": (
        lambda c: c.update(preprocessing=transforms(step("LoadImaged", dtype="int16"), LOAD[1], *GRID)),
        "#0#dtype` in .* must be float32 or float64",
    ),
    "axes of other names": (
        lambda c: c.update(preprocessing=transforms(*LOAD, {**GRID[0], "labels": ["RL", "AP", "SI"]})),
        "labels` in .* must be ",
    ),
    "resampled twice": (lambda c: c.update(preprocessing=transforms(*LOAD, *GRID, GRID[1])), "comes too late"),
    "another image": (
        lambda c: c.update(preprocessing=transforms(*LOAD, *GRID, {**SCALE[0], "keys": ["label"]})),
        r"#4` in .* works on \['label'\], and the steps before it on \['image'\]",
    ),
    "another axis": (
        lambda c: c.update(postprocessing=transforms({**SOFTMAX, "dim": 2}, INVERT, ARGMAX)),
        "dim` in .* must be 0, got '2'",
    ),
    "label and threshold": (
        lambda c: c.update(postprocessing=transforms(SOFTMAX, INVERT, {**ARGMAX, "threshold": 0.5})),
        "#2` in .* is AsDiscreted with .* which has no counterpart here",
    ),
    "threshold of logits": (lambda c: c.update(postprocessing=transforms(INVERT, THRESHOLD)), "#1` in .* no counterp"),
    "threshold of a softmax": (lambda c: c.update(postprocessing=transforms(SOFTMAX, THRESHOLD)), "#1` in .* no count"),
    "decided twice": (lambda c: c.update(postprocessing=transforms(SOFTMAX, ARGMAX, ARGMAX)), "#2` in .* no counterp"),
    "brought back twice": (
        lambda c: c.update(postprocessing=transforms(SOFTMAX, INVERT, INVERT, ARGMAX)),
        "#2` in .* is Invertd with .* which has no counterpart here",
    ),
    "softmax twice": (lambda c: c.update(postprocessing=transforms(SOFTMAX, SOFTMAX, ARGMAX)), "#1` in .* no counterp"),
    "whole numbers before the label": (
        lambda c: c.update(postprocessing=transforms({**SOFTMAX, "_target_": "CastToTyped", "dtype": "int32"}, ARGMAX)),
        "#0#dtype` in .* must be float32 or float64",
    ),
    "code says which": (
        lambda c: (c.pop("inferer"), c["evaluator"].update(inferer="$my_inferer()")),
        r"`evaluator#inferer` in .* is the expression '\$my_inferer\(\)', which is code",
    ),
    "sigmoid with background": (
        lambda c: c.update(postprocessing=transforms(SIGMOID, THRESHOLD)),
        "which heads cannot say",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_counterpart_is_refused_in_one_sentence(tmp_path, kind):
    change, message = REFUSED[kind]
    described = changed(change)
    bundle = write_bundle(tmp_path / "bundle", described, network())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        segmenter(bundle)
    assert str(bundle) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


FILES = {
    "no weights": (lambda b: (b / "models/model.pt").unlink(), "has no models/model.pt"),
    "no config": (lambda b: (b / "configs/inference.json").unlink(), "has no configs/inference.json"),
    "json": (lambda b: (b / "configs/inference.json").write_text("{"), "inference.json in .* cannot be read"),
    "depth": (
        lambda b: (b / "configs/inference.json").write_text("[" * 100_000),
        "inference.json in .* cannot be read",
    ),
    "list": (lambda b: (b / "configs/metadata.json").write_text("[]"), "metadata.json in .* holds a list"),
    "long": (lambda b: (b / "LICENSE").write_text("x" * 2_000_000), "LICENSE in .* has more than 1 MB"),
    "binary": (lambda b: (b / "LICENSE").write_bytes(b"\xff\xfe"), "LICENSE in .* is no text"),
    "names": (lambda b: (b / "configs/metadata.json").write_text("{}"), "must name the 3 channels of the output"),
    "a class called background": (
        lambda b: (b / "configs/metadata.json").write_text(json.dumps(metadata(["Background", "background", "b"]))),
        "A class cannot be called 'background': files name it, and the label value 0 is the background. Rename it",
    ),
    "half a character in a name": (
        lambda b: (b / "configs/metadata.json").write_text(json.dumps(metadata(["background", "a\ud800", "b"]))),
        r"A class cannot be called 'a\\ud800': files name it",
    ),
    "truncated": (
        lambda b: (b / "models/model.pt").write_bytes((b / "models/model.pt").read_bytes()[:3000]),
        "model.pt in .* cannot be read",
    ),
    "pickle": (lambda b: torch.save({"a": print}, b / "models/model.pt"), "model.pt in .* cannot be read"),
    "numbers": (
        lambda b: torch.save({"a": 3}, b / "models/model.pt"),
        "model.pt in .*: it holds something else than tensors",
    ),
    "other weights": (
        lambda b: torch.save({"a": torch.zeros(1)}, b / "models/model.pt"),
        "`final_conv`, is not in them",
    ),
    "a part": (
        lambda b: torch.save(
            {k: v for k, v in network().state_dict().items() if "conv_0" not in k}, b / "models/model.pt"
        ),
        "are not those of the Segmenter",
    ),
    "nan": (
        lambda b: torch.save({k: v * torch.nan for k, v in network().state_dict().items()}, b / "models/model.pt"),
        "is nan or infinite",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_named(tmp_path, kind):
    change, message = FILES[kind]
    bundle = write_bundle(tmp_path / "bundle")
    change(bundle)
    with pytest.raises(ValueError, match=message) as caught:
        segmenter(bundle)
    assert str(bundle) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_link_out_of_a_bundle_is_no_license_that_goes_along(tmp_path):
    (tmp_path / "secret").write_text("of nobody else")
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "LICENSE").unlink()
    (bundle / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"LICENSE in .*bundle is a link to elsewhere. Copy the text there"):
        segmenter(bundle)


@pytest.fixture
def zipped(tmp_path):
    shutil.make_archive(tmp_path / "bundle", "zip", write_bundle(tmp_path / "folder"))
    return tmp_path / "bundle.zip"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_zip(zipped, share):
    content = zipped.read_bytes()
    zipped.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"bundle.zip cannot be read as a zip .* Fetch it again|may be truncated"):
        Checkpoint(zipped)


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"other.zip is no zip of a MONAI bundle: it has 1 files"):
        Checkpoint(tmp_path / "other.zip")


def test_a_zip_that_leads_elsewhere_or_unpacks_without_measure(tmp_path, zipped):
    begin = time.process_time()
    with zipfile.ZipFile(zipped, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../outside.txt", "hello")
        archive.writestr("/absolute.txt", "hello")
    assert segmenter(zipped).classes == ["a", "b"]
    assert not (tmp_path.parent / "outside.txt").exists()
    folder = tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.json")):
            archive.write(path, path.relative_to(folder))
        with archive.open("models/model.pt", "w", force_zip64=True) as file:
            for _ in range(30):
                file.write(bytes(10_000_000))
    with pytest.raises(ValueError, match=r"models/model.pt in .*bomb.zip unpacks to 300 MB"):
        Checkpoint(tmp_path / "bomb.zip")
    assert time.process_time() - begin < 60


def test_a_module_of_another_class_is_not_made_of_a_bundle(tmp_path):
    with pytest.raises(ValueError, match=r"is no checkpoint of a RegionSegmenter but of a Segmenter"):
        Checkpoint(write_bundle(tmp_path / "bundle")).module(RegionSegmenter)
