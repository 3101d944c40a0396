"""What a stranger types and has: strange options, encodings, numbers and folders end in one sentence that helps."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from lit_continual.cli import dispatch, main
from lit_continual.modules import Segmenter
from lit_continual.stream.section import reason

NETWORK = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}}


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a segmenter that was never trained, and an image."""
    module = Segmenter(NETWORK, features=4, heads=[["bone"]], roi_size=[16, 16])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    plain = {"preprocessing": {"orientation": None, "normalise": []}}
    torch.save({**content, "datamodule_hyper_parameters": plain}, tmp_path / "model.ckpt")
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((16, 16, 2), np.float32), np.eye(4)), tmp_path / "images/a.nii")
    return str(tmp_path / "model.ckpt")


def refused(message, *arguments, error=ValueError):
    with pytest.raises(error, match=message) as caught:
        main([str(argument) for argument in arguments])
    assert dispatch._explained(caught.value).isprintable()


def said(capsys, *arguments):
    """What a command line that the parser refuses is told."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


EMPTY = [
    ("predict", "", "images"),
    ("predict", "model.ckpt", ""),
    ("predict", "model.ckpt", "images", "--output", ""),
    ("predict", "model.ckpt", "images", "--trust", ""),
    ("export", "model.ckpt", "--format", "pt2", "--output", "out", "--images", ""),
    ("adapt", "model.ckpt", "images/a.nii", "--annotation", ""),
    ("kse", "model.ckpt", "--image", ""),
    ("report", "run", "--output", ""),
    ("init", ""),
    ("memory", "forget", "run/memory", "--patient", ""),
    ("cache", "clear", "--patient", ""),
    ("cache", "clear", "--dataset", ""),
    ("cell", "", "--", "--config=x"),
    ("compare", "--config", ""),
    ("compare", "--config", "x", "--output="),
    ("sweep", "--config", "x", "--output", ""),
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_a_variable_that_is_not_set_names_no_folder(trained, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    refused(r"`\w+` is empty. Give a value", *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model.ckpt"]


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("given", [["--trainer.default_root_dir="], ["--data.dataset", ""], ["--config="]])
def test_a_variable_that_is_not_set_names_no_part_of_a_fit(stream, tmp_path, monkeypatch, command, given):
    """Its run would be in ``runs/stream``, and its images those of the folder in which it runs."""
    monkeypatch.chdir(tmp_path)
    refused(r"`[\w.]+` is empty. Give a value, or leave it out", command, "--config", stream(), *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_what_the_cache_does_not_hold_is_not_said_to_be_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path))
    refused("The cache holds no volume of the data set liver and patient P1", "cache", "clear", "--dataset", "liver",
            "--patient", "P1")  # fmt: skip


def test_the_parser_says_what_was_given_and_what_is_meant(trained, tmp_path, capsys):
    given = ("predict", trained, tmp_path / "images")
    assert "`overlap`: Expected a float, got 'half'. See" in said(capsys, *given, "--overlap", "half")
    written = said(capsys, *given, "--stitch_dtype", "float61")
    assert "Expected one of 'float32', 'float16', got 'float61'. Did you mean float16" in written
    assert "are required: folder. See" in said(capsys, "memory", "show")


TOO_MANY = [
    ("--devices=1000000", r"`devices` is 1000000, and this machine has \d+ cores"),
    (f"--sw_batch_size={10**20}", r"`sw_batch_size` must be at most 4294967295, got 10+\."),
    ("--trust=os;ls", r"`trust` has 'os;ls', which is no name of a package"),
]


@pytest.mark.parametrize(("option", "message"), TOO_MANY, ids=[option for option, _ in TOO_MANY])
def test_numbers_and_names_that_nobody_means(trained, tmp_path, option, message):
    refused(message, "predict", trained, tmp_path / "images", f"--output={tmp_path / 'out'}", option)
    assert not (tmp_path / "out").exists()


def rgb(shape):
    return np.zeros(shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])


UNFIT = {
    "channels": (lambda: np.zeros((16, 16, 2, 3), np.float32), "has 3 channels, and the network takes 1"),
    "colours": (lambda: rgb((16, 16, 2)), "has voxels of several numbers, as of RGB. Convert it"),
    "too large for float32": (lambda: np.full((16, 16, 2), 1e300), r"has \d+ voxels that are nan or infinite"),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("array", "message"), UNFIT.values(), ids=UNFIT)
def test_predictions_that_never_began_leave_nothing(trained, tmp_path, array, message):
    nib.save(nib.Nifti1Image(array(), np.eye(4)), tmp_path / "images/a.nii")
    output = tmp_path / "out"
    refused(message, "predict", trained, tmp_path / "images", f"--output={output}", "--accelerator=cpu")
    assert not output.exists()
    output.mkdir()
    (output / "labels.json").write_text("of another network")
    refused(message, "predict", trained, tmp_path / "images", f"--output={output}", "--accelerator=cpu", "--overwrite")
    assert [(p.name, p.read_text()) for p in output.iterdir()] == [("labels.json", "of another network")]


def test_an_image_that_is_not_there_needs_no_other_program(trained):
    refused(r"There is no image at nope.mha. Check the path", "kse", trained, "--image", "nope.mha")
    refused(r"`alpha` must be a number of 0 or more, got inf", "kse", trained, "--alpha", ".inf")


@pytest.mark.usefixtures("reports")
def test_a_report_does_not_follow_a_link_out_of_a_run(make_run, tmp_path):
    run, elsewhere = make_run(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / "report").symlink_to(elsewhere)
    refused(r"report is a link. Remove it, or give the folder", "report", run)
    assert not list(elsewhere.iterdir())
    refused(r"run.json` is a file and not a run folder", "report", run / "run.json")


ENCODED = {
    "UTF-16": (lambda text: text.encode("utf-16"), r"config.yaml cannot be read as YAML \(it is no text in UTF-8"),
    "Latin-1": (lambda text: text.encode() + b"# \xe4", r"config.yaml cannot be read as YAML \(it is no text in UTF-8"),
    "nothing": (lambda text: b"# all of it\n", r"config.yaml holds nothing, and not names and their values"),
    "a list": (lambda text: b"- a", r"config.yaml holds a list, and not names"),
    "two": (lambda text: text.encode() + b"\n---\na: 1\n", r"config.yaml cannot be read as YAML \(expected a single"),
    "tabs": (lambda text: b"stream:\n\tmode: joint\n", r"config.yaml cannot be read as YAML \(while scanning"),
}


@pytest.mark.parametrize(("change", "message"), ENCODED.values(), ids=ENCODED)
def test_a_config_that_is_none_is_named(stream, tmp_path, change, message):
    path = stream()
    (tmp_path / "config.yaml").write_bytes(change((tmp_path / "config.yaml").read_text()))
    refused(message, "fit", "--config", path)


def of_experience(**changes):
    return lambda config: config["stream"]["experiences"][0].update(changes)


def of_data(**changes):
    return lambda config: config["data"]["init_args"].update(changes)


NO_GROUPS = {
    "budget": (lambda c: c["stream"].update(memory={"budget": 4}), r"`budget` is 4. Leave it out, or give .* samples"),
    "split": (of_data(split=3), r"The section `data` is wrong: `split` is 3. Leave it out, or give .*, of fractions,"),
    "preprocessing": (of_data(preprocessing=3), r"`preprocessing` is 3. Leave it out"),
    "augmentation": (of_data(augmentation=[1]), r"`augmentation` is \[1\]. Leave it out"),
    "of an experience": (of_experience(data={"split": 3}), r"`split` is 3. Leave it out"),
    "experiences": (lambda c: c["stream"].update(experiences=None), r"`stream.experiences` is null. List what"),
    "class": (of_experience(classes={1: 1}), r'`classes` has the name 1, which is no text. Write it in quotes: "1"'),
    "shares": (of_data(split={"fractions": [float("nan"), 0.5, 0.5]}), r"three shares that sum to one, got \[nan"),
    "workers": (of_data(num_workers=10**6), r"`num_workers` must be at most 1024, got 1000000"),
    "devices": (lambda c: c["trainer"].update(devices=10**9), r"`devices` is 1000000000, and this machine has"),
}


@pytest.mark.parametrize(("change", "message"), NO_GROUPS.values(), ids=NO_GROUPS)
def test_a_config_of_other_types_is_refused_in_words(stream, tmp_path, change, message):
    path = stream()
    config = json.loads((tmp_path / "config.yaml").read_text())
    change(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    refused(message, "fit", "--config", path)
    assert not (tmp_path / "run").exists()


UNFIT_DATA = {
    "augmentation": of_data(augmentation={"spatial": ["RandFlipd"]}),
    "spacing": of_data(preprocessing={"spacing": [1e-9, 1e-9, 1e-9]}),
}


@pytest.mark.parametrize("change", UNFIT_DATA.values(), ids=UNFIT_DATA)
def test_a_stream_whose_first_fit_is_refused_leaves_no_run(stream, tmp_path, change):
    path = stream()
    config = json.loads((tmp_path / "config.yaml").read_text())
    change(config)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    refused(".", "fit", "--config", path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", ["--resume", "--resume-with-changes"])
def test_a_run_is_gone_on_with_or_overwritten(stream, resume):
    refused("--resume goes on with the run .* and --overwrite removes it", "fit", "--config", stream(), resume,
            "--overwrite")  # fmt: skip


def test_a_run_is_not_overwritten_by_one_whose_first_fit_is_refused(stream, tmp_path, make_run):
    """Its checkpoints may be those of a week; the new one is refused as it reads its first volumes."""
    run, path = make_run(), stream()
    (run / "experiences/0_humerus").mkdir(parents=True)
    (run / "experiences/0_humerus/model.ckpt").write_text("of a week")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    config = json.loads((tmp_path / "config.yaml").read_text())
    UNFIT_DATA["augmentation"](config)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    refused("RandFlipd", "fit", "--config", path, "--overwrite")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_the_reason_of_the_first_try_has_no_words_of_the_next(stream):
    callback = {"class_path": "Distillation", "init_args": {"alpha": 2}}
    with pytest.raises(ValueError, match="alpha") as caught:
        main(["fit", "--config", stream(callback)])
    assert reason(str(caught.value)) == "`alpha` must be in [0, 1], got 2.0"


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes the output")
def test_a_command_without_an_output_does_its_work(make_run):
    run = make_run()
    code = "import sys; from lit_continual.cli import main; assert sys.stdout is None; main()"
    command = [sys.executable, "-c", code, "memory", "show", str(run)]
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("lit-continual: error: There is no memory in ")
    show = "import sys; from lit_continual.cli.dispatch import _open_streams; _open_streams(); print(1)"
    assert subprocess.run(["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", show]).returncode == 0
