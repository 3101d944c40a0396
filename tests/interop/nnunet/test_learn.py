"""A model of nnU-Net learns a new class from new data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_continual import NNUNetDataModule
from lit_continual.cli import main
from lit_continual.data import Split
from lit_continual.modules import NNUNetSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from tests.conftest import NETWORK
from tests.interop.nnunet.conftest import quiet
from tests.marks import slow_but

CONFIGS = Path(__file__).parents[3] / "configs"


SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}


def config(raw, tmp_path, *callbacks, **data):
    content = {
        "stream": {"experiences": [{"name": "cone", "classes": {"cone": 1}}]},
        "model": {"class_path": "NNUNetSegmenter", "init_args": {"optimizer": SGD}},
        "data": {
            "class_path": "NNUNetDataModule",
            "init_args": {"dataset": str(raw), "batch_size": 2, "split": {"fractions": [0.6, 0.2, 0.2]}, **data},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "callbacks": list(callbacks), "log_every_n_steps": 1},
    }
    content["trainer"] |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("dims", slow_but([2, 3], 3))
def test_a_stream_extends_a_folder(toy, raw, tmp_path, dims, capsys):
    folder = toy(dims=dims)
    distillation = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
    main(["fit", "--config", config(raw, tmp_path, distillation), f"--stream.start={folder}"])
    before = Checkpoint(folder).module(NNUNetSegmenter)
    path = tmp_path / "run/experiences/0_cone/model.ckpt"
    after = Checkpoint(path).module(NNUNetSegmenter)
    assert after.classes == ["ball", "box", "cone"]
    assert after.trained == before.trained
    old, new = before.state_dict(), after.state_dict()
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(moved) > len(old) / 2
    main(["test", "--config", config(raw, tmp_path), f"--ckpt_path={path}"])
    main(["predict", str(path), str(raw / "imagesTr"), f"--output={tmp_path / 'out'}"])
    main(["export", str(path), "--format=nnunet", f"--output={tmp_path / 'new'}", f"--images={raw / 'imagesTr'}"])
    assert "in 0 the label of nnU-Net is another than here (5 images)" in capsys.readouterr().out
    assert Checkpoint(tmp_path / "new").module().classes == ["ball", "box", "cone"]


@pytest.mark.slow
def test_exemplars_are_kept_of_prepared_volumes(toy, raw, tmp_path):
    memory = {"policy": "Herding", "layer": "body.encoder.stages.2", "budget": {"volumes": 1}}
    main(["fit", "--config", config(raw, tmp_path), f"--stream.start={toy()}", f"--stream.memory={json.dumps(memory)}"])
    assert len(list((tmp_path / "run/memory").rglob("*.np*"))) == 1


@pytest.mark.usefixtures("undrawn")
def test_kernels_are_scored(toy, raw, tmp_path):
    image = str(raw / "imagesTr/case_0_0000.nii.gz")
    main(["kse", str(toy()), f"--image={image}", f"--output={tmp_path / 'kse'}", "--phis=[0.4]"])
    assert (tmp_path / "kse" / "kse.html").exists()


@pytest.mark.parametrize(
    "options",
    [{}, {"dims": 2, "transpose": (2, 0, 1)}, {"reader": "NibabelIOWithReorient", "normalisation": "CTNormalization"}],
    ids=["3d", "2d", "reoriented"],
)
def test_training_volumes_are_those_of_nnunet(toy, raw, options):
    start = Checkpoint(toy(**options))
    data = NNUNetDataModule(str(raw), classes={"cone": 1}, split=Split(fractions=(1.0, 0.0, 0.0)))
    data.follow(start)
    volumes = data.patches().volumes
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    trained = start.hyper_parameters["trained"]
    manager = PlansManager(trained["plans"])
    settings = manager.get_configuration(trained["configuration"])
    for case, volume in zip(data.cases["train"], volumes, strict=True):
        with quiet():
            files = [[str(path) for path in case.images], str(case.label)]
            image, label, _ = DefaultPreprocessor(False).run_case(*files, manager, settings, trained["dataset"])
        label = np.maximum(label, 0)
        if "dims" in options:
            image, label = np.moveaxis(image, 1, -1), np.moveaxis(label, 1, -1)
        inner = tuple(
            slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(volume["image"].shape, image.shape, strict=True)
        )
        np.testing.assert_array_equal(volume["image"].numpy()[inner], image)
        np.testing.assert_array_equal(volume["label"].numpy()[inner], label)
        assert volume["label"].sum() == label.sum() > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [],
            "`NNUNetSegmenter` has no network: it extends a trained model of nnU-Net. Give its folder as --stream",
        ),
        (["--stream.start=FOLDER", "--data.init_args.patch_size=[16, 16]"], "has 2 dimensions, and the network of"),
        (
            ["--stream.start=FOLDER", "--data.init_args.patch_size=[7, 16, 16]"],
            "The network fails on 1 channels of 7 x",
        ),
        (["--stream.start=FOLDER", '--stream.experiences=[{"name": "a", "classes": {"ball": 1}}]'], "declares"),
    ],
)
def test_a_fit_that_cannot_begin_says_so_before_a_folder_is_made(toy, raw, tmp_path, more, message):
    folder = toy()
    given = [option.replace("FOLDER", str(folder)) for option in more]
    with pytest.raises((ValueError, MisconfigurationException), match=re.escape(message)):
        main(["fit", "--config", config(raw, tmp_path), *given])
    assert not (tmp_path / "run").exists()


def test_the_plans_are_needed_before_the_data(raw, toy, stream, tmp_path):
    data = NNUNetDataModule(str(raw), classes={"cone": 1})
    with pytest.raises(ValueError, match=r"does not know the plans .* Give --stream.start, or call `data.follow"):
        data.setup("fit")
    content = {"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {}}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt is no model of nnU-Net"):
        data.follow(Checkpoint(tmp_path / "other.ckpt"))


MORE = {
    "as it is": [],
    "precision": ["--trainer.precision=bf16-mixed", "--trainer.enable_model_summary=false"],
    "patch": ["--data.init_args.patch_size=[16, 16, 16]"],
}


@pytest.mark.parametrize("more", slow_but(MORE, "as it is", "precision"))
def test_the_config_extends_a_model(toy, raw, tmp_path, more):
    small = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]
    data = [f"--data.init_args.dataset={raw}", "--data.init_args.split.fractions=[0.6, 0.2, 0.2]"]
    experiences = '--stream.experiences=[{"name": "new", "classes": {"cone": "cone"}}]'
    options = [f"--stream.start={toy()}", *data, experiences, "--trainer.accelerator=cpu", *small, *MORE[more]]
    main(["fit", "--config", str(CONFIGS / "extend_nnunet.yaml"), *options])
    module = Checkpoint(tmp_path / "run/experiences/0_new/model.ckpt").module(NNUNetSegmenter)
    assert module.classes == ["ball", "box", "cone"]


def test_only_models_of_nnunet_are_mirrored(tmp_path):
    module = Segmenter(NETWORK, 4, [["a"]])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "datamodule_hyper_parameters": {"preprocessing": {}}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"--mirror is for models of nnU-Net, and this is a Segmenter. Leave it out"):
        main(["predict", str(tmp_path / "model.ckpt"), str(tmp_path), "--mirror=true"])


@pytest.mark.parametrize("method", slow_but(["MiB", None], "MiB"))
def test_a_shared_head_grows_from_the_last_layer(toy, raw, tmp_path, method, capsys):
    folder = toy()
    callbacks = [{"class_path": method}] if method else []
    options = [f"--stream.start={folder}", "--model.heads=shared", "--trainer.limit_train_batches=2"]
    main(["fit", "--config", config(raw, tmp_path, *callbacks), *options])
    path = tmp_path / "run/experiences/0_cone/model.ckpt"
    module = Checkpoint(path).module(NNUNetSegmenter)
    assert module.head_channels == [[0, 1, 2, 3]]
    main(["export", str(path), "--format=nnunet", f"--output={tmp_path / 'new'}", f"--images={raw / 'imagesTr'}"])
    assert "in 0 the label of nnU-Net is another than here (5 images)" in capsys.readouterr().out
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(Checkpoint(tmp_path / "new").module()(image), module(image), atol=1e-5, rtol=1e-5)
