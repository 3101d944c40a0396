"""Extended models go back to nnU-Net."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.modules import NNUNetSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.label_map import folded_logits
from tests.conftest import NETWORK
from tests.interop.graph.test_graph_formats import run
from tests.interop.nnunet.conftest import nnunet_predicts
from tests.interop.nnunet.test_predict import we_predict
from tests.marks import slow_but


def save(module, path):
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def extended(folder, path, *heads):
    module = Checkpoint(folder).module(NNUNetSegmenter)
    random = torch.Generator().manual_seed(3)
    for head in heads:
        module.grow(head)
        with torch.no_grad():
            for parameter in module.heads.layers[-1].parameters():
                parameter.normal_(generator=random)
    return save(module, path)


def load(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)


def test_what_was_not_extended_comes_back_as_it_was(toy, tmp_path):
    folder = toy()
    main(["export", str(folder), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    for name in ("plans", "dataset", "dataset_fingerprint"):
        old, new = (json.loads((place / f"{name}.json").read_text()) for place in (folder, tmp_path / "out"))
        assert list(old.items()) == list(new.items())
    old, new = load(folder), load(tmp_path / "out")
    assert old["network_weights"].keys() == new["network_weights"].keys()
    assert all(torch.equal(new["network_weights"][name], value) for name, value in old["network_weights"].items())
    for name in ("trainer_name", "inference_allowed_mirroring_axes"):
        assert old[name] == new[name]
    assert new["init_args"]["configuration"] == "3d_fullres"


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"dims": 2, "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_nnunet_predicts_an_extended_model_as_we_do(toy, images, tmp_path, options, capsys):
    folder = toy(**options)
    checkpoint = extended(folder, tmp_path / "model.ckpt", ["cone"], ["rod", "disk"])
    main(["export", str(checkpoint), "--format=nnunet", f"--output={tmp_path / 'out'}", f"--images={images}"])
    said = capsys.readouterr().out
    assert "5 classes: " in said
    assert "in 0 the label of nnU-Net is another than here (2 images)." in said
    assert int(said.split(" voxels are claimed")[0].split()[-3]) > 100
    labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert list(labels.values()) == list(range(len(labels)))
    assert list(labels)[3:6] == ["cone", "rod", "disk"]
    assert ("ignore" in labels) == ("labels" in options)
    theirs = nnunet_predicts(tmp_path / "out", images, tmp_path / "theirs")
    for ours in (we_predict(checkpoint, images, tmp_path / "a"), we_predict(tmp_path / "out", images, tmp_path / "b")):
        for name, found in theirs.items():
            np.testing.assert_array_equal(ours[name], found)
            assert {2, 3, 4} < set(np.unique(found))  # of all three heads


def test_old_logits_are_untouched_and_the_new_class_has_the_odds_of_its_head(toy, tmp_path):
    checkpoint = extended(toy(), tmp_path / "model.ckpt", ["cone"])
    main(["export", str(checkpoint), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    before, after = Checkpoint(checkpoint).module(), Checkpoint(tmp_path / "out").module()
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        old, new = before(image), after(image)
    torch.testing.assert_close(new[:, :3], old[:, :3], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(new[:, 3] - new[:, 0], old[:, 4] - old[:, 3], atol=1e-5, rtol=1e-5)
    weights = load(tmp_path / "out")["network_weights"]
    layers = [weights[f"decoder.seg_layers.{i}.weight"] for i in (0, 1)]
    assert [len(layer) for layer in layers] == [4, 4]
    assert torch.equal(layers[0][3], layers[0][0])  # an auxiliary layer, which no prediction asks


def test_an_exported_model_can_be_extended_again(toy, tmp_path):
    checkpoint = extended(toy(), tmp_path / "model.ckpt", ["cone"])
    main(["export", str(checkpoint), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    second = extended(tmp_path / "out", tmp_path / "second.ckpt", ["rod"])
    main(["export", str(second), "--format=nnunet", f"--output={tmp_path / 'again'}"])
    assert Checkpoint(tmp_path / "again").module().classes == ["ball", "box", "cone", "rod"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, path: extended(folder, path, ["ignore"]), "its own meaning for a class called ignore"),
        (
            lambda _, path: save(Segmenter(NETWORK, 4, [["a"]]), path),
            "is no checkpoint of a NNUNetSegmenter but of a Seg",
        ),
    ],
)
def test_what_nnunet_cannot_hold_is_not_written(toy, tmp_path, make, message):
    checkpoint = make(toy(), tmp_path / "model.ckpt")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        main(["export", str(checkpoint), "--format=nnunet", f"--output={tmp_path / 'out'}"])
    assert sorted(tmp_path.rglob("*")) == before


def test_images_that_cannot_be_read_leave_nothing_behind(toy, images, tmp_path):
    folder = toy()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), images / "case_0_0000.nii.gz")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"case_0_0000.nii.gz is zero in all voxels"):
        main(["export", str(folder), "--format=nnunet", f"--output={tmp_path / 'out'}", f"--images={images}"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("form", slow_but(["torchscript", "pt2", "onnx"], "torchscript"))
def test_the_network_goes_out_as_a_graph_that_names_the_plans(toy, tmp_path, form):
    checkpoint = extended(toy(), tmp_path / "model.ckpt", ["cone"])
    main(["export", str(checkpoint), f"--format={form}", f"--output={tmp_path / 'graph'}"])
    module = Checkpoint(checkpoint).module()
    image = torch.randn(3, 1, 8, 16, 16)
    with torch.no_grad():
        expected = folded_logits(module(image), module.head_channels)
        torch.testing.assert_close(run(tmp_path / "graph", image), expected, atol=1e-4, rtol=1e-4)
    told = json.loads((tmp_path / "graph" / "model.json").read_text())
    assert told["output"]["channels"] == ["background", "ball", "box", "cone"]
    assert told["preprocessing"]["nnunet"] == module.model.plain()
    assert told["inference"]["overlap"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format=bundle"], "A model of nnU-Net has no counterpart as a bundle"),
        (["--format=torchscript", "--images=IMAGES"], "decide as the one output layer on all images. Leave out"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_said_by_no_other_format_is_refused(toy, images, tmp_path, options, message):
    folder = toy()
    before = sorted(tmp_path.rglob("*"))
    given = [option.replace("IMAGES", str(images)) for option in options]
    with pytest.raises(ValueError, match=message):
        main(["export", str(folder), f"--output={tmp_path / 'out'}", *given])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_nnunet_itself_cannot_predict_is_one_sentence(toy, images, tmp_path):
    folder = toy(change=lambda plans, dataset: plans["configurations"]["3d_fullres"].update(patch_size=[8.5, 16, 16]))
    with pytest.raises(ValueError, match=r"nnU-Net cannot predict from the new folder \(.*\). Leave out --images"):
        main(["export", str(folder), "--format=nnunet", f"--output={tmp_path / 'new'}", f"--images={images}"])
    assert not (tmp_path / "new").exists()
