"""What a user gets to see for bad input: one sentence with the file and the remedy, and no half of anything."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from lit_continual.cli import main
from lit_continual.modules import Segmenter
from tests.marks import slow_but

NET = {"class_path": "BasicUNet", "init_args": {"spatial_dims": 2, "features": [4, 4, 4, 4, 4, 4], "norm": "BATCH"}}


def edit(path, change):
    """Rewrite a NIfTI with its array or its affine changed."""
    old = nib.load(path)
    array, affine = change(np.asarray(old.dataobj), old.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def pieces(folder):
    return [str(p) for p in folder.rglob("*") if ".part" in p.name or p.suffix == ".tmp"]


@pytest.fixture
def run(decathlon, tmp_path, monkeypatch):
    """Run ``fit`` on a stream of two tiny experiences whose config ``change`` has edited."""
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    folder = decathlon(8, shape=(16, 16, 4), entries=[{"patient": f"P{i}"} for i in range(8)])

    def write(change=lambda config: None):
        config = {
            "seed_everything": 0,
            "stream": {
                "experiences": [
                    {"name": "one", "classes": {"first": 1}, "data": {"split": {"part": [0, 2]}}},
                    {"name": "two", "classes": {"second": 2}, "data": {"split": {"part": [1, 2]}}},
                ]
            },
            "model": {"class_path": "Segmenter", "init_args": {"network": NET, "features": 4}},
            "data": {
                "class_path": "SegmentationDataModule",
                "init_args": {
                    "dataset": str(folder),
                    "patch_size": [16, 16],
                    "split": {"fractions": [0.5, 0.25, 0.25]},
                },
            },
            "trainer": {
                "default_root_dir": str(tmp_path / "run"),
                "max_epochs": 1,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            },
        }
        change(config)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return ["fit", "--config", str(tmp_path / "config.yaml")]

    write.folder = folder
    return write


def refused(run, message, change=lambda config: None, error=ValueError):
    with pytest.raises(error) as caught:
        main(run(change))
    text = str(caught.value)
    assert re.search(message, text), text
    assert pieces(run.folder.parent) == []
    return text


def every(folder, kind, change):
    for path in (folder / kind).iterdir():
        edit(path, change)


BAD_FILES = {
    "nan": (
        "imagesTr",
        lambda a, m: (np.where(a == a.max(), np.nan, a), m),
        r"case_\d.nii.gz has \d+ voxels that are nan",
    ),
    "shape": ("labelsTr", lambda a, m: (a[:-1], m), r"labelsTr/case_\d.nii.gz has shape .*Resample one onto the other"),
    "affine": (
        "labelsTr",
        lambda a, m: (a, m + np.eye(4)[:, :1] * 3 @ np.eye(4)[3:]),
        r"different affines: .*Resample",
    ),
    "value": (
        "labelsTr",
        lambda a, m: (a * 3, m),
        r"labelsTr/case_\d.nii.gz has the label value 3, which is not declared",
    ),
    "absent": (
        "labelsTr",
        lambda a, m: (a * (a == 2), m),
        r"The class first occurs in none of the 2 training cases of",
    ),
}


@pytest.mark.parametrize(("kind", "change", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_volumes(run, kind, change, message):
    every(run.folder, kind, change)
    assert "\n" not in refused(run, message)


def test_truncated_volumes(run):
    for path in (run.folder / "imagesTr").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    assert "\n" not in refused(run, r"imagesTr/case_\d.nii.gz cannot be read as an image .*Replace it or take it off")


def experience(config, i):
    return config["stream"]["experiences"][i]


BAD_CONFIGS = {
    "class": (lambda c: experience(c, 1).update(classes={"thrid": 3}), r"`classes` has thrid: 3, but .* declares \{"),
    "value": (lambda c: experience(c, 1).update(classes={"second": 1}), r"`classes` has second: 1, but .* declares \{"),
    "background": (
        lambda c: experience(c, 1).update(classes={"background": 2}),
        r"`classes` has background: 2, but|Experience two: A class cannot be called 'background'",
    ),
    "two splits": (
        lambda c: experience(c, 1)["data"]["split"].update(seed=3),
        r"Patient P\d is in the \w+ split of (one|two) and the \w+ split of (one|two). Use one `split.seed`",
    ),
    "no test": (
        lambda c: c["data"]["init_args"].update(split={"fractions": [0.8, 0.2, 0]}),
        r"The test split of experience one is empty",
    ),
    "no train": (
        lambda c: c["data"]["init_args"].update(split={"fractions": [0, 0.5, 0.5]}),
        "training split .* is empty",
    ),
    "no data": (lambda c: c["data"]["init_args"].update(dataset="nowhere"), "There is no data set at nowhere"),
    "experience's option": (
        lambda c: experience(c, 1)["data"].update(patch_sise=[8, 8]),
        "experience two .*patch_sise",
    ),
    "one name twice": (lambda c: experience(c, 1).update(name="one"), "different names"),
}


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_configs(run, change, message, tmp_path):
    assert "\n" not in refused(run, message, change)
    assert not (tmp_path / "run").exists()


MISSPELT = {
    "option": (lambda c: c["trainer"].update(max_epoch=3), "max_epoch"),
    "option of the model": (lambda c: c["model"]["init_args"].update(faetures=3), "faetures"),
    "callback": (lambda c: c["trainer"].update(callbacks=[{"class_path": "Distilation"}]), "Distilation"),
}


@pytest.mark.parametrize(("change", "word"), MISSPELT.values(), ids=MISSPELT)
def test_misspelt_options(run, change, word, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(run(change))
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("lit-continual: error: ")
    assert word in said
    assert not (tmp_path / "run").exists()


def test_a_misspelt_option_of_the_network(run):
    def change(config):
        config["model"]["init_args"]["network"] = {**NET, "featurs": [4]}

    refused(run, r"`BasicUNet` has no argument `featurs`. It takes spatial_dims, in_channels", change)


def checkpoint(path, heads, **network):
    module = Segmenter({**NET, **network}, features=4, heads=heads)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, "pytorch-lightning_version": "2.6.4"}, path)
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: checkpoint(p, [["first", "third"]]),
            r"The head of first, third cannot be trained on data that reveal",
        ),
        (
            lambda p: checkpoint(p, [], features=[8, 4, 4, 4, 4, 4]),
            r"a.ckpt does not fit the model of this config \(.*size mismatch",
        ),
        (lambda p: (p.write_bytes(b"PK"), str(p))[1], r"a.ckpt cannot be read as a checkpoint"),
        (lambda p: str(p), r"There is no checkpoint at .*a.ckpt"),
        (lambda p: (torch.save({"state_dict": {}}, p), str(p))[1], r"a.ckpt holds no `state_dict`"),
    ],
    ids=["heads", "network", "damaged", "missing", "foreign"],
)
def test_a_checkpoint_of_something_else(run, tmp_path, make, message):
    path = make(tmp_path / "a.ckpt")
    refused(run, message, lambda c: c["stream"].update(start=path))


def fill_disk(monkeypatch, name):
    """From now on no file of this name can be put in its place."""
    real = os.replace

    def replace(source, target, **kwargs):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("name", slow_but(["run.json", "config.yaml", "model.ckpt"], "model.ckpt"))
def test_a_full_disk(run, monkeypatch, name):
    fill_disk(monkeypatch, name)
    text = refused(run, rf"Cannot write .*{name} \(No space left on device\).*run the command again", error=OSError)
    assert "\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "resume.ckpt", "model.ckpt", "matrix.json", "cases.csv", "1_0.npz"])
def test_a_full_disk_and_then_a_resume(run, tmp_path, monkeypatch, name):
    def two_epochs(config):  # after the last there is nothing to resume
        config["trainer"]["max_epochs"] = 2

    with monkeypatch.context() as context:
        fill_disk(context, name)
        refused(run, rf"Cannot write .*{name}", two_epochs, OSError)
    main([*run(two_epochs), "--resume"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert pieces(tmp_path / "run") == []


def command(*arguments, first_on_path="."):
    path = os.pathsep.join([str(first_on_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", "lit_continual", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.slow
def test_the_command_says_it_in_one_line(run):
    every(run.folder, "labelsTr", lambda a, m: (a * 3, m))
    done = command(*run())
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("lit-continual: error: ")]
    assert len(said) == 1
    assert "which is not declared" in said[0]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_names_a_misspelt_option(run):
    done = command(*run(), "--trainer.max_epcohs", "3")
    assert done.returncode == 2
    assert "max_epcohs" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["false", "true"])
def test_the_command_on_a_disk_that_is_full(run, tmp_path, logger):
    """A limit on the size of a file stops the first checkpoint as a full disk would, in a process of its own."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LIMITED)
    arguments = run(lambda c: c["trainer"].update(logger=logger == "true"))
    done = command(*arguments, first_on_path=tmp_path / "site")
    assert done.returncode == 1
    assert re.search(r"lit-continual: error: Cannot write .*\.ckpt \(.*Free some space", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert pieces(tmp_path / "run") == []
