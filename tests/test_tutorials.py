"""Every block of code in the tutorials and the README is run, in order and from an empty folder."""

import re
import runpy
import shlex
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.cli import main
from lit_continual.storage import load_checkpoint, read_json

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EPOCHS = re.compile(r"(max_epochs: )\d+")  # of configs; what a page shows is for its reader's data
FAST = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
ELSEWHERE = {"make", "pip", "tensorboard", "wandb"}  # commands that are not of this package


class Block(NamedTuple):
    language: str
    title: str
    code: str


def blocks(page):
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(code):
    """The words of each command, comments and line continuations taken out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


class Reader:
    """Somebody who does what a page says, with what earlier blocks left behind."""

    def __init__(self, **known):
        self.known = known

    def follow(self, page):
        for block in blocks(page):
            getattr(self, block.language)(block)

    def python(self, block):
        exec(compile(block.code, block.title or "<python block>", "exec"), self.known)

    def yaml(self, block):
        if block.title:
            Path(block.title).write_text(EPOCHS.sub(r"\g<1>2", block.code), encoding="utf-8")
        else:  # a fragment, laid over a config
            Path("fragment.yaml").write_text(block.code, encoding="utf-8")
            self.parses("fit", "--config", str(ROOT / "configs" / "lwfseg.yaml"), "--config", "fragment.yaml")

    def bash(self, block):
        for words in commands(block.code):
            program, arguments = words[0], words[1:]
            if words[:3] == ["python", "-m", "lit_continual"]:
                program, arguments = "lit-continual", words[3:]
            if program == "lit-continual":
                self.run(*arguments)
            elif program == "python":
                shutil.copy(TUTORIALS / arguments[0], ".")
                runpy.run_path(arguments[0], run_name="__main__")
            else:
                assert program in ELSEWHERE, f"`{shlex.join(words)}` is run by no test"

    def run(self, *arguments):
        main([*arguments, *(FAST if arguments[0] in {"fit", "validate", "test"} else [])])

    def parses(self, *arguments):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--print_config"])
        assert stopped.value.code == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that what `fit` sets is gone afterwards
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will overwrite|.*exists and is not empty")
        yield tmp_path


def test_a_callback_in_an_existing_project(folder, capsys):
    reader = Reader()
    torch.manual_seed(0)
    reader.follow(TUTORIALS / "existing_project.md")
    known, organs = reader.known, [reader.known["dice"](reader.known["extended"], organ) for organ in range(3)]
    assert min(organs) > 0.8
    assert known["dice"](known["module"], 0) > known["dice"](known["forgetful"], 0) + 0.2


@pytest.mark.slow
def test_own_data(folder, capsys):
    Reader().follow(TUTORIALS / "own_data.md")
    run = read_json("runs/study/run.json")
    assert run["status"] == "finished"
    assert [e["name"] for e in run["experiences"]] == ["liver", "spleen"]
    image, labels = nib.load("new/scan_30.nii.gz"), nib.load("predictions/scan_30.nii.gz")
    assert labels.shape == image.shape
    assert np.array_equal(labels.affine, image.affine)
    assert read_json("predictions/labels.json") == {"background": 0, "liver": 1, "spleen": 2}
    assert Path("runs/comparison/report.html").exists()


@pytest.mark.slow
def test_extending_a_trained_model(folder, capsys):
    reader = Reader()
    reader.follow(TUTORIALS / "extending.md")
    assert reader.known["module"].classes == ["liver", "kidney"]
    for checkpoint in ("runs/extended/experiences/0_kidney/model.ckpt", "extended.ckpt"):
        assert load_checkpoint(checkpoint)["hyper_parameters"]["heads"] == [["liver"], ["kidney"]]
    for predictions in ("predictions", "predictions_python"):
        assert read_json(Path(predictions) / "labels.json") == {"background": 0, "liver": 1, "kidney": 2}
