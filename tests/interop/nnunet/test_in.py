"""A folder of nnU-Net through the door."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from lit_continual.modules import NNUNetSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.interop.nnunet.conftest import quiet, without_torchvision


def network_of(folder):
    """The network as nnU-Net itself loads it."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with quiet(), without_torchvision():
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    return predictor.network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dims": 2},
        {"old": True},
        {"channels": 2, "labels": {"background": 0, "a": 1, "ignore": 2}},
        {"old": "ResidualEncoderUNet"},
        {"trainer": "nnUNetTrainerBN"},
        {"old": True, "trainer": "nnUNetTrainerNoMirroring"},  # as TotalSegmentator's are
        {"old": True, "trainer": "nnUNetTrainer_4000epochs_NoMirroring"},
    ],
    ids=str,
)
@torch.no_grad()
def test_logits_are_those_of_the_network(toy, options):
    folder = toy(**options)
    module = Checkpoint(folder).module(Segmenter)
    assert isinstance(module, NNUNetSegmenter)
    assert not module.training
    image = torch.randn(2, options.get("channels", 1), *([16, 16] if options.get("dims") == 2 else [8, 16, 16]))
    assert torch.equal(module(image), network_of(folder)(image))
    assert module.classes == (["a"] if "labels" in options else ["ball", "box"])


def test_the_folder_a_fold_and_a_file_are_one_model(toy):
    folder = toy()
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    for path in (folder, folder / "fold_0", folder / "fold_0" / "checkpoint_best.pth"):
        assert Checkpoint(path).module(NNUNetSegmenter).trained.fold == "0"
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    assert Checkpoint(folder / "fold_1").module(NNUNetSegmenter).trained.fold == "1"
    with pytest.raises(
        ValueError, match=r"has fold_0, fold_1, and one network is extended at a time. Give one of them"
    ):
        Checkpoint(folder)


def test_a_checkpoint_of_ours_holds_all_of_the_folder(toy, tmp_path):
    first = Checkpoint(toy()).module(NNUNetSegmenter)
    first.grow(["cone"])
    content = {"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}
    first.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    second = NNUNetSegmenter.load_from_checkpoint(tmp_path / "model.ckpt")
    assert second.trained == first.trained
    assert second.classes == ["ball", "box", "cone"]
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(first.eval()(image), second(image))


@pytest.mark.slow
def test_a_process_that_has_not_imported_the_class_reads_a_checkpoint_of_ours(toy, tmp_path):
    module = Checkpoint(toy()).module(NNUNetSegmenter)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    door = "from lit_continual.runs.checkpoints.checkpoint import Checkpoint"
    code = f"import sys; {door}; print(Checkpoint(sys.argv[1]).module())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.ckpt"], capture_output=True, text=True)
    assert done.stdout.startswith("NNUNetSegmenter("), done.stderr


def edited(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def resaved(file, change):
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, file)


class Runs:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def plans(change):
    return lambda folder: edited(folder / "plans.json", lambda p: change(p, p["configurations"]["3d_fullres"]))


def dataset(change):
    return lambda folder: edited(folder / "dataset.json", change)


def checkpoint(change):
    return lambda folder: resaved(folder / "fold_0" / "checkpoint_final.pth", change)


def names(**arguments):
    return plans(lambda p, c: c["architecture"]["arch_kwargs"].update(arguments))


BAD = {
    "a pickle": (checkpoint(lambda c: c.update(logging=Runs())), r"it holds (posix|nt).system, and reading such"),
    "truncated": (lambda f: (f / "fold_0/checkpoint_final.pth").write_bytes(b"PK"), "cannot be read as a checkpoint"),
    "no weights": (checkpoint(lambda c: c.pop("network_weights")), r"is no checkpoint of nnU-Net v2: it lacks"),
    "weights of objects": (checkpoint(lambda c: c["network_weights"].update(a=1)), "something else than tensors"),
    "nan": (checkpoint(lambda c: c["network_weights"]["encoder.stages.0.0.convs.0.conv.bias"].fill_(torch.nan)), "nan"),
    "other weights": (
        checkpoint(lambda c: c["network_weights"].popitem()),
        r"are not those of the NNUNetSegmenter that it describes \(Missing key",
    ),
    "another network": (names(features_per_stage=[8, 8, 8]), "are not those of the NNUNetSegmenter"),
    "no decoder": (
        checkpoint(lambda c: c.update(network_weights={"a": torch.zeros(1)})),
        "the network has no `decoder.seg_layers`",
    ),
    "an unknown trainer": (
        checkpoint(lambda c: c.update(trainer_name="MyTrainer")),
        r"has no trainer MyTrainer, which builds the network .* Set `nnUNet_extTrainer`",
    ),
    "a trainer that is a module": (checkpoint(lambda c: c.update(trainer_name="torch")), "has no trainer torch"),
    "no fold": (lambda f: shutil.rmtree(f / "fold_0"), "has no fold with a checkpoint_final.pth. Train one"),
    "no dataset.json": (lambda f: (f / "dataset.json").unlink(), "There is no .*dataset.json, which names the labels"),
    "plans of text": (lambda f: (f / "plans.json").write_text("plans"), "plans.json is not valid JSON"),
    "plans of a list": (
        lambda f: (f / "plans.json").write_text("[]"),
        r"no trained model of nnU-Net \(`plans` is \[\]",
    ),
    "regions": (
        dataset(lambda d: d["labels"].update(whole=[1, 2])),
        r"was trained on regions: its dataset.json gives 'whole' the values \[1, 2\]. Models of regions are not",
    ),
    "a fold that nnU-Net does not find": (
        lambda f: (f / "fold_0").rename(f / "fold_07"),
        "A fold of nnU-Net is a number, such as 0, or `all`, not '07'. Rename its folder",
    ),
    "a gap": (dataset(lambda d: d["labels"].update(box=7)), "Number them 0, 1, 2, … without a gap"),
    "a label too many": (dataset(lambda d: d["labels"].update(c=3)), "has 3 outputs, and dataset.json 4 labels"),
    "a label of text": (dataset(lambda d: d["labels"].update(box="2")), "Give each name a whole number"),
    "no background": (dataset(lambda d: d["labels"].pop("background")), "with `background: 0`"),
    "ignore not last": (dataset(lambda d: d.update(labels={"background": 0, "ignore": 1, "a": 2})), "Make it the last"),
    "channels": (
        dataset(lambda d: d.update(channel_names={"0": "T1", "1": "T2"})),
        r"they normalise by \['ZScoreNormalization'\], masked by \[True\], and dataset.json names 2 channels. Give it",
    ),
    "a cascade": (
        plans(lambda p, c: c.update(previous_stage="3d_lowres")),
        "the configuration 3d_fullres is a cascade, which reads the answers of 3d_lowres too",
    ),
    "another configuration": (
        plans(lambda p, c: p.update(configurations={"2d": c})),
        "there is no configuration 3d_fullres among 2d",
    ),
    "an architecture that imports": (
        plans(lambda p, c: c["architecture"].update(network_class_name="evil.Net")),
        "`evil.Net` is no architecture that a file may name. Give --trust evil if it is your own and the file too",
    ),
    "a bare architecture": (
        plans(lambda p, c: c["architecture"].update(network_class_name="evil")),
        "`evil` is no architecture that a file may name",
    ),
    "a function of the package": (
        plans(lambda p, c: c["architecture"].update(network_class_name="dynamic_network_architectures.os.system")),
        "is no architecture that a file may name",
    ),
    "a layer that imports": (names(norm_op="evil.norm"), "`evil.norm` is no layer that a file may name"),
    "a bare layer": (names(conv_op="Conv3d"), "`Conv3d` is no layer that a file may name"),
    "a layer of torch that is none": (names(nonlin="torch.nn.Module"), "`torch.nn.Module` is no layer"),
    "a function of torch": (names(nonlin="torch.nn.modules.os.system"), "is no layer that a file may name"),
    "another argument to import": (
        plans(lambda p, c: c["architecture"].update(_kw_requires_import=["n_stages"])),
        "`3` is no layer that a file may name",
    ),
    "a resampling function": (
        plans(lambda p, c: c.update(resampling_fn_data="partial")),
        "nnU-Net resamples by 'partial', and known are resample_data_or_seg_to_shape",
    ),
    "its arguments": (
        plans(lambda p, c: c.update(resampling_fn_data_kwargs={"device": "cuda"})),
        "which are not all numbers",
    ),
    "a reader": (plans(lambda p, c: p.update(image_reader_writer="Tiff3DIO")), "reads images by 'Tiff3DIO'"),
    "a normalisation": (plans(lambda p, c: c.update(normalization_schemes=["np"])), "normalises by 'np'"),
    "a preprocessor": (plans(lambda p, c: c.update(preprocessor_name="np")), "prepares images by 'np'"),
    "a last layer of one number": (
        checkpoint(lambda c: c["network_weights"].update({"decoder.seg_layers.1.weight": torch.tensor(1.0)})),
        "are not those of the NNUNetSegmenter",
    ),
    "a bias alone": (
        checkpoint(lambda c: c["network_weights"].pop("decoder.seg_layers.1.weight")),
        "are not those of the NNUNetSegmenter",
    ),
    "a last layer that is linear": (
        checkpoint(lambda c: c.update(network_weights={"decoder.seg_layers.1.weight": torch.zeros(3, 4)})),
        "the network has no `decoder.seg_layers`",
    ),
    "a number of mirrored axes": (
        checkpoint(lambda c: c.update(inference_allowed_mirroring_axes=3)),
        "no trained model of nnU-Net .`mirror_axes` is 3",
    ),
    "mirrored axes of no image": (
        checkpoint(lambda c: c.update(inference_allowed_mirroring_axes=(0, 7))),
        r"`inference_allowed_mirroring_axes` are \[0, 7\], not all of them axes",
    ),
    "an axis mirrored twice": (
        checkpoint(lambda c: c.update(inference_allowed_mirroring_axes=(1, 1))),
        r"`inference_allowed_mirroring_axes` are \[1, 1\], not all of them axes",
    ),
    "another way back": (
        plans(lambda p, c: p.update(transpose_backward=[1, 2, 0])),
        r"`transpose_forward` \[0, 1, 2\] and `transpose_backward` \[1, 2, 0\] are no way and way back",
    ),
    "an axis that is no number": (plans(lambda p, c: p.update(transpose_forward="021")), "are no way and way back"),
    "schemes of fewer channels": (
        plans(lambda p, c: c.update(normalization_schemes=[])),
        "and dataset.json names 1 channels",
    ),
    "masks that are none": (plans(lambda p, c: c.update(use_mask_for_norm=3)), "and dataset.json names 1 channels"),
    "intensities of nan": (
        plans(
            lambda p, c: (
                c.update(normalization_schemes=["CTNormalization"]),
                p["foreground_intensity_properties_per_channel"]["0"].update(mean=float("nan")),
            )
        ),
        "the intensities of channel 0 are .* not all of them finite",
    ),
    "a billion layers": (names(n_conv_per_stage=10**9), "describe a network by numbers above 65536"),
    "a window as large as memory": (
        plans(lambda p, c: c.update(patch_size=[8000, 8000, 8000])),
        r"`patch_size` is \[8000, 8000, 8000\], and a window has at most",
    ),
    "patches of text": (plans(lambda p, c: c.update(patch_size="large")), "The plans of nnU-Net cannot be used"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_extended_is_refused_in_one_sentence(toy, tmp_path, monkeypatch, spoil, message):
    folder = toy()
    spoil(folder)
    monkeypatch.chdir(tmp_path)
    for name in ("evil", "Conv3d"):
        (tmp_path / f"{name}.py").write_text("open('hacked', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        Checkpoint(folder).module()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert sorted(tmp_path.rglob("*")) == before


def evil_architecture(trained):
    trained["plans"]["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "evil.Net"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (evil_architecture, "`evil.Net` is no architecture that a file may name"),
        (lambda trained: trained.update(fold="0/../../elsewhere"), "or `all`, not '0/"),
        (lambda trained: trained.pop("plans"), "This is no trained model of nnU-Net"),
    ],
)
def test_what_a_checkpoint_of_ours_says_of_a_model_is_checked_too(toy, tmp_path, change, message):
    first = Checkpoint(toy()).module(NNUNetSegmenter)
    content = {"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}
    change(content["hyper_parameters"]["trained"])
    first.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=f"model.ckpt: .*{re.escape(message)}"):
        Checkpoint(tmp_path / "model.ckpt").module()


@torch.no_grad()
def test_a_package_of_the_caller_may_hold_the_architecture(toy, tmp_path, monkeypatch):
    folder = toy()
    unet = "from dynamic_network_architectures.architectures.unet import PlainConvUNet"
    (tmp_path / "mine.py").write_text(f"{unet}\nclass Net(PlainConvUNet):\n  pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    plans(lambda p, c: c["architecture"].update(network_class_name="mine.Net"))(folder)
    with pytest.raises(ValueError, match="Give --trust mine if"):
        Checkpoint(folder)
    module = Checkpoint(folder, trust="mine").module()
    assert type(module.body).__name__ == "Net"
    with pytest.raises(ValueError, match="Give --trust mine if"):  # trust was given for one opening
        Checkpoint(folder)
    started = NNUNetSegmenter()
    Checkpoint(folder, trust="mine").restore(started)
    assert type(started.body).__name__ == "Net"
