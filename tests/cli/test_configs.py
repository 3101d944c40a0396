"""One way to write an object: ``class_path`` and ``init_args``; ``_target_`` is read for now."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from lit_continual.cli import main
from lit_continual.cli.configs import merged
from lit_continual.cli.options_of_fit import OptionsOfFit
from tests.marks import slow_but

UNET = {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "act": "RELU"}
NEW = {"class_path": "UNet", "init_args": UNET}
OLD = {"_target_": "UNet", **UNET}
FLIP = {"keys": ["image", "label"], "prob": 0.5}


@pytest.fixture
def config(stream, tmp_path):
    """Write a config whose objects are in the new form, or in the old, and return its path."""

    def write(old=False, **of_second):
        sections = json.loads(Path(stream()).read_text())
        sections["model"]["init_args"]["network"] = OLD if old else NEW
        flip = {"_target_": "RandFlipd", **FLIP} if old else {"class_path": "RandFlipd", "init_args": FLIP}
        sections["data"]["init_args"]["augmentation"] = {"spatial": [flip]}
        sections["stream"]["experiences"][1]["model"] = of_second
        path = tmp_path / f"{'old' if old else 'new'}.yaml"
        path.write_text(yaml.safe_dump(sections))
        return str(path)

    return write


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    written = capsys.readouterr()
    assert ended.value.code == 0, written.err
    return yaml.safe_load(written.out), written.err


SAID = "lit-continual: `_target_` in a config is read for now; write `class_path` and `init_args` (first at {}).\n"


def test_the_old_form_is_the_new_one_and_said_to_be_old_once(config, capsys):
    new, nothing = printed(capsys, "--config", config())
    old, said = printed(capsys, "--config", config(old=True))
    assert old == new
    assert new["model"]["init_args"]["network"] == NEW
    assert (nothing, said) == ("", SAID.format("data.augmentation.spatial"))
    _, said = printed(capsys, "--config", config(), "--resume", '--model.network={"_target_": "BasicUNet"}')
    assert said == SAID.format("model.network")


def test_checking_many_command_lines_says_it_once(config, capsys):
    options = OptionsOfFit()
    first, second = (options.parse(["--config", path]) for path in (config(old=True), config(old=True)))
    assert first == second
    assert capsys.readouterr().err == SAID.format("data.augmentation.spatial")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("option", ["--model.network.act", "--model.network.init_args.act"])
def test_an_option_changes_one_argument_of_a_network(config, capsys, old, option):
    found, _ = printed(capsys, "--config", config(old), option, "ELU")
    assert found["model"]["init_args"]["network"] == {"class_path": "UNet", "init_args": {**UNET, "act": "ELU"}}


#: Options that may be null, each at another place of the config.
NULLS = {
    "data.preprocessing.orientation": ("data", "init_args", "preprocessing", "orientation"),
    "data.preprocessing.spacing": ("data", "init_args", "preprocessing", "spacing"),
    "data.init_args.split.key": ("data", "init_args", "split", "key"),
    "data.samples_per_epoch": ("data", "init_args", "samples_per_epoch"),
    "model.network.act": ("model", "init_args", "network", "init_args", "act"),
    "trainer.callbacks": ("trainer", "callbacks"),
    "stream.name": ("stream", "name"),
}


def test_weights_of_classes_are_a_list_of_numbers(stream, tmp_path):
    loss = "{class_path: monai.losses.DiceCELoss, init_args: {softmax: true, to_onehot_y: true, weight: [1, 3]}}"
    fit = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.logger=false"]
    first = main(["fit", "--config", stream(), f"--model.loss={loss}", *fit])
    again = main(["fit", "--config", str(tmp_path / "run/config.yaml"), f"--trainer.default_root_dir={tmp_path / 'b'}"])
    for cli in (first, again):
        assert cli.model.loss.cross_entropy.weight.tolist() == [1, 3]


@pytest.mark.parametrize(
    "callback",
    [
        "{class_path: Timer, init_args: {duration: {hours: 1}}}",  # whose `interval` is an enumeration
        "{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.01}}",  # whose `device` is one of torch
    ],
)
def test_what_lightnings_callbacks_have_by_default_can_be_written_and_read_again(stream, tmp_path, callback):
    fit = ["--trainer.limit_train_batches=1", "--trainer.logger=false", f"--trainer.callbacks=[{callback}]"]
    first = main(["fit", "--config", stream(), *fit])
    again = main(["fit", "--config", str(tmp_path / "run/config.yaml"), f"--trainer.default_root_dir={tmp_path / 'b'}"])
    (mine,), (theirs,) = first.config.trainer.callbacks, again.config.trainer.callbacks
    assert mine.init_args == theirs.init_args


def test_null_is_nothing_however_deep_it_stands(config, capsys):
    path = config()
    given = [text for option in NULLS for text in (f"--{option}", "null")]
    sections, _ = printed(capsys, "--config", path, "--data.preprocessing.orientation=LPS", *given)
    for option, place in NULLS.items():
        found = sections
        for key in place:
            found = found[key]
        assert found is None, option
    assert sections["model"]["init_args"]["network"]["init_args"]["channels"] == [4, 8]  # what stands beside stays


def test_another_network_takes_the_place_of_the_one_before(config, capsys, tmp_path):
    other = {"class_path": "BasicUNet", "init_args": {"spatial_dims": 2}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"network": other}}}))
    found, _ = printed(capsys, "--config", config(), "--config", str(tmp_path / "more.yaml"))
    assert found["model"]["init_args"]["network"] == other


OWN = {"plain": {"act": "ELU"}, "init_args": {"init_args": {"act": "ELU"}}}


@pytest.mark.parametrize(("old", "own"), slow_but(product([False, True], OWN), (False, "init_args"), (True, "plain")))
def test_an_experience_changes_one_argument_and_checkpoints_keep_one_form(config, tmp_path, old, own):
    main(["fit", "--config", config(old, network=OWN[own]), "--trainer.max_epochs=0", "--trainer.logger=false"])
    saved = (tmp_path / "run/config.yaml").read_text()
    assert "_target_" not in saved
    checkpoints = [tmp_path / "run/experiences" / name / "model.ckpt" for name in ("0_ball", "1_box")]
    first, second = (torch.load(path, weights_only=True)["hyper_parameters"]["network"] for path in checkpoints)
    assert first == OLD
    assert second == {**OLD, "act": "ELU"}


def test_what_an_experience_names_in_full_takes_the_place_of_the_shared_one():
    shared = {"network": NEW, "loss": {"class_path": "Dice", "init_args": {"batch": True}}, "classes": {"a": 1}}
    own = {"network": {"class_path": "DnCNN"}, "loss": {"init_args": {"weight": 2}}, "classes": {"b": 1}}
    assert merged(shared, own) == {
        "network": {"class_path": "DnCNN"},
        "loss": {"class_path": "Dice", "init_args": {"batch": True, "weight": 2}},
        "classes": {"b": 1},
    }
