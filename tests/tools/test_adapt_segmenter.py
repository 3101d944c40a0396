import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from lit_continual.cli import main
from lit_continual.data import Preprocessing, SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.modules import RegionSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.marks import slow_but

TURNED = np.array([[0.0, 0.0, 3.0, 5.0], [-1.2, 0.0, 0.0, -3.0], [0.0, 1.0, 0.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (16, 12, 8)


def truth_of(image):
    return np.where(image > 0.55, 1, np.where(image < 0.25, 2, 0)).astype(np.uint8)


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).uniform(0, 1, (4, 4, 8))
    return np.kron(coarse, np.ones((4, 3, 1))).astype(np.float32)


def save(path, array, affine=TURNED):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def study(tmp_path, image):
    (tmp_path / "images").mkdir()
    return save(tmp_path / "images/case.nii.gz", image)


@pytest.fixture
def partial(tmp_path, image):
    """The truth of some slices, and 0 in the others."""

    def make(slices=(1, 4, 6), values=lambda truth: truth, fill=0, affine=TURNED, name="partial.nii.gz"):
        label = np.full(SHAPE, fill, np.int16)
        label[..., list(slices)] = values(truth_of(image))[..., list(slices)]
        return save(tmp_path / name, label, affine)

    return make


@pytest.fixture
def checkpoint(tmp_path, study):
    """A network that has learnt other thresholds than the patient's."""

    def make(dims=2, heads=(("bright",), ("dark",)), kind=Segmenter, **arguments):
        torch.manual_seed(0)
        layers = {2: ("Conv2d", "BatchNorm2d"), 3: ("Conv3d", "BatchNorm3d")}[dims]
        network = {"_target_": f"torch.nn.{layers[0]}", "in_channels": 1, "kernel_size": 1}
        heads = {"heads": heads} if not isinstance(heads, str) else {"heads": heads, "classes": [["bright", "dark"]]}
        heads = {} if kind is RegionSegmenter else heads
        module = kind(network, features=6, roi_size=None, **heads, **arguments)
        size = [16, 12, 8][:dims]
        data = SegmentationDataModule(
            str(tmp_path / "unused"), size, {"bright": 1}, split=Split(fractions=(1.0, 0.0, 0.0)),
            preprocessing=Preprocessing(orientation="RAS", normalise=()),
        )  # fmt: skip
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        content |= {"datamodule_hyper_parameters": dict(data.hparams), "optimizer_states": [{"state": {}}]}
        torch.save(content, tmp_path / "model.ckpt")
        return str(tmp_path / "model.ckpt")

    return make


def run(checkpoint, study, tmp_path, *options, output="adapted"):
    fast = ["--lr=0.05", "--accelerator=cpu"]
    main(["adapt", checkpoint, study, f"--output={tmp_path / output}", *fast, *options])
    return tmp_path / output


def labels(path):
    return np.asarray(nib.load(path).dataobj)


def predicted(checkpoint, tmp_path, name):
    main(["predict", checkpoint, str(tmp_path / "images"), f"--output={tmp_path / name}", "--accelerator=cpu"])
    return labels(tmp_path / name / "case.nii.gz")


def weights(folder):
    return Checkpoint(folder / "model.ckpt").state_dict


KINDS = {
    "2D, separate heads": {},
    "2D, one head of two": {"heads": (("bright", "dark"),)},
    "2D, shared head": {"heads": "shared"},
    "3D": {"dims": 3},
}


@pytest.mark.parametrize("kind", slow_but(KINDS, "2D, separate heads", "3D"))
def test_what_is_learnt_on_a_few_slices_serves_the_others(checkpoint, study, partial, image, tmp_path, kind):
    original = checkpoint(**KINDS[kind])
    with open(original, "rb") as file:
        written = file.read()
    folder = run(original, study, tmp_path, f"--annotation={partial()}", "--steps=150")
    with open(original, "rb") as file:
        assert file.read() == written
    assert sorted(p.name for p in folder.iterdir()) == ["adapted.png", "case.nii.gz", "labels.json", "model.ckpt"]
    assert json.loads((folder / "labels.json").read_text()) == {"background": 0, "bright": 1, "dark": 2}
    found = nib.load(folder / "case.nii.gz")
    np.testing.assert_allclose(found.affine, TURNED, atol=1e-5)
    others = [0, 2, 3, 5, 7]
    before, after = predicted(original, tmp_path, "before"), labels(folder / "case.nii.gz")
    right = [(found == truth_of(image))[..., others].mean() for found in (before, after)]
    assert right[0] < 0.7
    assert right[1] > 0.9
    content = torch.load(folder / "model.ckpt", weights_only=True)
    kept = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", "callbacks", "lit_continual"}
    assert content.keys() == kept
    np.testing.assert_array_equal(predicted(str(folder / "model.ckpt"), tmp_path, "again"), after)


@pytest.mark.usefixtures("undrawn")
def test_a_step_is_that_of_the_loss_on_the_annotated_voxels(checkpoint, study, partial, image, tmp_path):
    original = checkpoint(heads=(("bright", "dark"),))
    options = ["--steps=1", "--optimizer=sgd", "--lr=0.5", "--batch_size=12"]  # all that the network sees as slices
    folder = run(original, study, tmp_path, f"--annotation={partial()}", *options)
    module = Checkpoint(original).module(Segmenter)
    seen = torch.from_numpy(image[..., [1, 4, 6]])  # every voxel counts by itself for this network
    logits = module(seen.reshape(1, 1, -1, 1)).flatten(2)
    label = torch.from_numpy(truth_of(image)[..., [1, 4, 6]]).reshape(1, 1, -1)
    DiceCELoss(softmax=True, to_onehot_y=True)(logits, label).backward()
    found = weights(folder)
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name], p.detach() - 0.5 * p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_annotated_has_no_part_in_it(checkpoint, study, partial, image, tmp_path):
    original, annotation = checkpoint(), partial()
    one = weights(run(original, study, tmp_path, f"--annotation={annotation}", "--steps=9", output="one"))
    image[..., [0, 2, 3, 5, 7]] *= -3
    other_study = save(tmp_path / "other.nii.gz", image)
    other = weights(run(original, other_study, tmp_path, f"--annotation={annotation}", "--steps=9", output="other"))
    assert all(map(torch.equal, one.values(), other.values()))


@pytest.mark.usefixtures("undrawn")
def test_slices_and_ignored_voxels_say_the_same(checkpoint, study, partial, tmp_path):
    original, ignored = checkpoint(), partial(fill=-1, name="ignored.nii.gz")
    slices, value = [f"--annotation={partial()}", "--steps=9"], [f"--annotation={ignored}", "--ignore=-1", "--steps=9"]
    by_slices = weights(run(original, study, tmp_path, *slices, output="slices"))
    by_value = weights(run(original, study, tmp_path, *value, output="ignore"))
    assert all(map(torch.equal, by_slices.values(), by_value.values()))


@pytest.mark.usefixtures("undrawn")
def test_an_empty_slice_is_annotated_where_it_is_named(checkpoint, study, partial, tmp_path):
    original, annotation = checkpoint(), partial(slices=(4,))
    named = ["--slices", "2", "4", "--steps=60"]
    with_it = run(original, study, tmp_path, f"--annotation={annotation}", *named, output="named")
    without = run(original, study, tmp_path, f"--annotation={annotation}", "--steps=60", output="unnamed")
    found = [(labels(folder / "case.nii.gz")[..., 2] > 0).sum() for folder in (with_it, without)]
    assert found[0] < found[1]


@pytest.mark.usefixtures("undrawn")
def test_a_class_that_is_not_annotated_keeps_its_head(checkpoint, study, partial, tmp_path):
    original = checkpoint()
    annotation = partial(values=lambda truth: truth * (truth == 2))
    folder = run(original, study, tmp_path, f"--annotation={annotation}", "--classes", "dark", "--steps=3")
    before, after = Checkpoint(original).state_dict, weights(folder)
    assert torch.equal(before["heads.layers.0.weight"], after["heads.layers.0.weight"])
    assert not torch.equal(before["heads.layers.1.weight"], after["heads.layers.1.weight"])


@pytest.mark.usefixtures("undrawn")
def test_the_network_is_tuned_as_it_predicts(tmp_path, study, partial, checkpoint):
    """Statistics of a batch normalisation are used and stay as they are."""
    path, arguments = checkpoint(), {"spatial_dims": 2, "in_channels": 1, "features": [4, 4, 4, 4, 4, 4]}
    network = {"class_path": "BasicUNet", "init_args": {**arguments, "norm": "BATCH", "dropout": 0.5}}
    module = Segmenter(network, features=4, heads=[["bright"], ["dark"]], roi_size=[16, 16])
    for buffer in module.buffers():
        buffer.add_(1)
    content = torch.load(path, weights_only=True)
    content |= {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, path)
    options = [f"--annotation={partial()}", "--steps=2", "--optimizer=sgd"]
    one, two = (weights(run(path, study, tmp_path, *options, output=name)) for name in ("one", "two"))
    assert all(map(torch.equal, one.values(), two.values()))  # nothing is dropped
    statistics = dict(module.named_buffers())
    assert statistics
    assert all(torch.equal(one[name], statistics[name]) for name in statistics)
    assert not torch.equal(one["heads.layers.0.weight"], module.state_dict()["heads.layers.0.weight"])


@pytest.mark.usefixtures("undrawn")
def test_no_step_leaves_the_network_as_it_is(checkpoint, study, partial, tmp_path):
    original = checkpoint()
    folder = run(original, study, tmp_path, f"--annotation={partial()}", "--steps=0")
    assert all(map(torch.equal, Checkpoint(original).state_dict.values(), weights(folder).values()))


@pytest.mark.usefixtures("undrawn")
def test_channels_of_one_image_and_a_folder_of_one(checkpoint, partial, image, tmp_path):
    (tmp_path / "one").mkdir()
    save(tmp_path / "one/scan.nii.gz", image)
    folder = run(checkpoint(), str(tmp_path / "one"), tmp_path, f"--annotation={partial()}", "--steps=1")
    assert (folder / "scan.nii.gz").is_file()
    save(tmp_path / "one/another.nii.gz", image)
    with pytest.raises(ValueError, match=r"one holds 2 images, and a network is adapted to one. Name its file."):
        run(checkpoint(), str(tmp_path / "one"), tmp_path, f"--annotation={partial()}", "--steps=1")


WRONG = {
    "nothing": ({}, [], "no annotated voxel. Annotate a slice, or name the slices", {"slices": ()}),
    "value": ({}, [], "label value 9, and the checkpoint knows 1 bright, 2 dark", {"values": lambda t: 9 * (t > 0)}),
    "grid": ({}, [], "have different affines", {"affine": np.diag([1.0, 1, 1, 1])}),
    "outside": ({}, ["--slices", "1", "4"], "has labels in slice 6, which `--slices` does not name", {}),
    "slice": ({}, ["--slices", "1", "4", "6", "8"], "names slice 8, and .*partial.nii.gz has slices 0 to 7", {}),
    "both": ({}, ["--slices", "1", "--ignore=9"], "`--slices` or `--ignore`, not both", {}),
    "class": ({}, ["--classes", "bright", "grey"], "`--classes` names grey, and .*model.ckpt knows bright, dark", {}),
    "other class": ({}, ["--classes", "dark"], "has labels of bright, which `--classes` does not name", {}),
    "part of a head": ({"heads": (("bright", "dark"),)}, ["--classes", "dark"], "cannot be trained on data that", {}),
    "shared": ({"heads": "shared"}, ["--classes", "dark"], "share one softmax, which cannot be tuned on dark", {}),
    "regions": ({"kind": RegionSegmenter}, [], "is of a RegionSegmenter, whose label maps show one of the regions", {}),
    "phi": ({}, ["--phi=0.3"], "`--phi` is for checkpoints of a Denoiser, which .*model.ckpt is not. Leave it out", {}),
    "steps": ({}, ["--steps=-1"], "`steps` must be 0 or more, got -1", {}),
    "diverges": ({}, ["--optimizer=sgd", "--lr=1e30"], "The loss at step 2 is .*. Choose a smaller `lr`.", {}),
    "accelerator": ({}, ["--accelerator=gup"], "The adaptation cannot run: ", {}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(checkpoint, study, partial, tmp_path, wrong):
    kind, options, said, annotation = WRONG[wrong]
    with pytest.raises(ValueError, match=said) as caught:
        run(checkpoint(**kind), study, tmp_path, f"--annotation={partial(**annotation)}", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "adapted").exists()


def test_an_annotation_is_needed(checkpoint, study, tmp_path):
    with pytest.raises(ValueError, match=r"adapted to annotated slices. Give a label map of the study by --annotation"):
        run(checkpoint(), study, tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_nothing_that_is_read_or_there_is_overwritten(checkpoint, study, partial, tmp_path):
    original, annotation = checkpoint(), partial()
    there = tmp_path / "there"
    there.mkdir()
    for file in (study, annotation):
        shutil.copy(file, there)
    with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
        run(original, str(there / "case.nii.gz"), tmp_path, f"--annotation={annotation}", output="there")
    (tmp_path / "labels").mkdir()
    given = shutil.copy(annotation, tmp_path / "labels/case.nii.gz")
    with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output"):
        run(original, study, tmp_path, f"--annotation={given}", output="labels")
    options = [f"--annotation={annotation}", "--steps=1"]
    run(original, study, tmp_path, *options)
    run(original, study, tmp_path, *options)  # makes the same again
    with pytest.raises(ValueError, match=r"model.ckpt and 3 more files are there already. Add --overwrite"):
        run(original, study, tmp_path, f"--annotation={annotation}", "--steps=2")
    moved = partial(values=lambda truth: np.roll(truth, 1, axis=0), name="moved.nii.gz")  # as many labels, elsewhere
    with pytest.raises(ValueError, match=r"are there already. Add --overwrite"):
        run(original, study, tmp_path, f"--annotation={moved}", "--steps=1")
    run(original, study, tmp_path, f"--annotation={annotation}", "--steps=2", "--overwrite")
