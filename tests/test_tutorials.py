"""Every block of code in the tutorials and the README is run, in order and from an empty folder."""

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from lit_continual.cli import main
from lit_continual.cli.options_of_fit import OptionsOfFit
from lit_continual.data import shoulder_subject
from lit_continual.files.whole_files import read_json
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EPOCHS = re.compile(r"(max_epochs: )\d+")  # of configs; what a page shows is for its reader's data
QUICK = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
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
    """Somebody who does what a page says, with what earlier blocks left behind.

    Args:
        options: Added to each ``fit``, for smaller data than a page is about.
        epochs: Of each fit, in place of those that a page shows.
        known: What the reader has at hand in Python.
    """

    def __init__(self, options=(), epochs=2, **known):
        self.options, self.epochs, self.known = options, epochs, known

    def follow(self, page):
        for block in blocks(page):
            getattr(self, block.language)(block)

    def python(self, block):
        if block.title:
            Path(block.title).write_text(block.code, encoding="utf-8")
        else:
            exec(compile(block.code, "<python block>", "exec"), self.known)

    def yaml(self, block):
        if block.title:
            Path(block.title).write_text(EPOCHS.sub(rf"\g<1>{self.epochs}", block.code), encoding="utf-8")

    def text(self, block):
        """Only shown."""

    bibtex = text

    def bash(self, block):
        if "wandb" in sys.modules:  # a command of its own would be a process of its own
            sys.modules["wandb"].finish()
        for words in commands(block.code):
            program, arguments = words[0], words[1:]
            if words[:3] == ["python", "-m", "lit_continual"]:
                program, arguments = "lit-continual", words[3:]
            if program == "lit-continual":
                quick = [*QUICK, *self.options] if arguments[0] == "fit" else []
                main([*arguments, *quick])
            elif words[:3] == ["python", "-m", "monai.bundle"]:
                if importlib.util.find_spec("fire") and importlib.util.find_spec("ignite"):
                    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
                    assert done.returncode == 0, done.stdout + done.stderr
            elif program == "python":
                shutil.copy(TUTORIALS / arguments[0], ".")
                runpy.run_path(str(Path(arguments[0]).absolute()), run_name="__main__")  # which its workers look for
            elif program.startswith("nnUNetv2_"):  # beside the interpreter
                done = subprocess.run(
                    [Path(sys.executable).parent / program, *arguments], capture_output=True, text=True
                )
                assert done.returncode == 0, done.stdout + done.stderr
            elif program == "pytest":
                done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
            else:
                assert program in ELSEWHERE, f"`{shlex.join(words)}` is run by no test"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that what `fit` sets is gone afterwards
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


@pytest.mark.slow
def test_a_callback_in_an_existing_project(folder, capsys):
    reader = Reader()
    torch.manual_seed(0)
    reader.follow(TUTORIALS / "existing_project.md")
    known = reader.known
    assert known["moved"]["kept"] < 0.5 * known["moved"]["plain"]
    assert min(known["dice"](known["extended"], organ) for organ in range(3)) > 0.8


FRAGMENTS = [(page.name, b.code) for page in PAGES for b in blocks(page) if b.language == "yaml" and not b.title]


@pytest.fixture(scope="module")
def options():
    return OptionsOfFit()


@pytest.mark.parametrize(("page", "fragment"), FRAGMENTS)
def test_a_fragment_of_a_config_is_understood(page, fragment, folder, options):
    Path("fragment.yaml").write_text(fragment, encoding="utf-8")
    data = "{class_path: SegmentationDataModule, init_args: {dataset: organs, patch_size: [64, 64]}}"
    first = [f"--data={data}"] if "SegmentationDataModule" in fragment else []  # what a fragment is about may be set
    options.parse(["--config", "configs/lwfseg.yaml", *first, "--config", "fragment.yaml"])  # else it raises


def test_a_fragment_that_is_not_is_an_error(folder, options):
    Path("fragment.yaml").write_text("model: {featurs: 4}", encoding="utf-8")
    with pytest.raises(ValueError, match="featurs"):
        options.parse(["--config", "configs/lwfseg.yaml", "--config", "fragment.yaml"])


@pytest.mark.slow
def test_a_method_of_your_own(folder, capsys, monkeypatch):
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    small = ["--data.init_args.subjects", "6", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    reader = Reader(small)
    reader.follow(TUTORIALS / "own_method.md")
    assert reader.known["trainer"].callback_metrics["train/features"] > 0
    run = read_json("runs/features/run.json")
    assert run["status"] == "finished"
    sizes = [experience["memory_bytes"] for experience in run["experiences"]]
    assert min(sizes) > 4 * run["parameters"]  # the state of both fits holds the network


@pytest.mark.slow
def test_own_data(folder, capsys, reports):
    Reader(["--trainer.max_epochs", "2"]).follow(TUTORIALS / "own_data.md")
    run = read_json("runs/organs/run.json")
    assert run["status"] == "finished"
    assert [e["name"] for e in run["experiences"]] == ["liver", "spleen"]
    image, labels = nib.load("new/scan_30.nii.gz"), nib.load("predictions/scan_30.nii.gz")
    assert labels.shape == image.shape
    assert np.array_equal(labels.affine, image.affine)
    assert read_json("predictions/labels.json") == {"background": 0, "liver": 1, "spleen": 2}
    assert Path("runs/comparison/report.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # the page trains twice, and says so
def test_extending_a_trained_model(folder, capsys):
    reader = Reader()
    reader.follow(TUTORIALS / "extending.md")
    assert reader.known["module"].classes == ["liver", "kidney"]
    for checkpoint in ("runs/extended/experiences/0_kidney/model.ckpt", "extended.ckpt"):
        assert load_checkpoint(checkpoint)["hyper_parameters"]["heads"] == [["liver"], ["kidney"]]
    for predictions in ("predictions", "predictions_python"):
        assert read_json(Path(predictions) / "labels.json") == {"background": 0, "liver": 1, "kidney": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # nnU-Net trains in this process
def test_extending_a_model_of_nnunet(folder, capsys, real_data, monkeypatch):
    pytest.importorskip("nnunetv2", reason="needs nnunetv2, the extra nnunet")
    for name in ("raw", "preprocessed", "results", "n_proc_DA", "def_n_proc"):  # which the page sets
        monkeypatch.setenv(f"nnUNet_{name}", "1")
    Reader().follow(TUTORIALS / "extend_nnunet.md")
    assert "in 0 the label of nnU-Net is another than here (6 images)" in capsys.readouterr().out
    found = {"anterior": 1, "posterior": 2}
    assert read_json("nnUNet_results/Dataset903_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres/dataset.json")[
        "labels"
    ] == {"background": 0, **found}
    truths = real_data / "Task04_Hippocampus" / "labelsTr"
    for name, value in found.items():
        scores = [dice(path, truths / path.name, value) for path in Path("after").glob("*.nii.gz")]
        assert np.mean(scores) > 0.6, (name, scores)


@pytest.mark.slow
def test_the_comparison_with_nnunet_goes_on_and_scores_what_nnunet_wrote(tmp_path, real_data):
    pytest.importorskip("nnunetv2", reason="needs nnunetv2, the extra nnunet")
    small = ["--seed=0", f"--output={tmp_path}", "--steps=1", "--epochs=1", "--patients=6", "--test=2"]
    command = [sys.executable, TUTORIALS / "compare_nnunet.py", *small]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LIT_CONTINUAL_DATA": str(real_data)}
    begun = []
    for asked in (command, command, [*command, "--epochs=2"]):
        done = subprocess.run(asked, capture_output=True, text=True, env=environment)
        begun.append(
            (done.returncode, len(re.findall(r"^\d\d:\d\d (?:data|train|predict)", done.stdout, re.MULTILINE)))
        )
        if done.returncode == 0:
            assert "| extended |" in done.stdout, done.stderr
    assert begun == [(0, 9), (0, 0), (1, 0)], done.stderr
    rows = [line.split(",") for line in (tmp_path / "dice.csv").read_text().splitlines()[1:]]
    assert len(rows) == 7 * 2
    for model, name, patient, found in rows:
        path, truths = tmp_path / "predicted" / model / f"{patient}.nii.gz", real_data / "Task04_Hippocampus/labelsTr"
        value = ["", "anterior", "posterior"].index(name)
        assert float(found) == pytest.approx(dice(path, truths / path.name, value), abs=1e-6)  # as it is written
    annotated = {
        path.name[:10]: np.unique(np.asarray(nib.load(next((path / "labelsTr").iterdir())).dataobj)).tolist()
        for path in (tmp_path / "nnUNet_raw").iterdir()
    }
    assert annotated == {"Dataset901": [0, 1], "Dataset902": [0, 1], "Dataset903": [0, 1, 2]}


def dice(path, truth, value):
    one, two = (np.asarray(nib.load(file).dataobj) == value for file in (path, truth))
    return 2 * (one & two).sum() / (one.sum() + two.sum())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*labels:FutureWarning")  # of the bundle that the page writes
def test_extending_a_bundle(folder, capsys, real_data, monkeypatch):
    monkeypatch.setenv("EPOCHS", "8")
    Reader(epochs=8).follow(TUTORIALS / "extend_bundle.md")
    printed = capsys.readouterr().out
    assert re.search(r"[0-9] of [0-9]+ voxels \(0", printed)
    metadata = read_json("hippocampus_bundle/configs/metadata.json")
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {"0": "background", "1": "anterior", "2": "posterior"}
    assert (metadata["version"], metadata["authors"]) == ("0.2.0", "A tutorial")
    main(["predict", "hippocampus_bundle", "new", "--output=extended", "--accelerator=cpu"])
    found = {"before": [], "extended": []}
    for image in sorted(Path("new").iterdir()):
        truth = np.asarray(nib.load(real_data / "Task04_Hippocampus/labelsTr" / image.name).dataobj)
        for name, dices in found.items():
            label = np.asarray(nib.load(Path(name) / image.name).dataobj)
            dices.append(
                [2 * ((label == k) & (truth == k)).sum() / ((label == k).sum() + (truth == k).sum()) for k in (1, 2)]
            )
        if Path("after").exists():
            run = nib.load(Path("after") / image.name.replace(".nii.gz", "_seg.nii.gz"))
            assert (np.asarray(run.dataobj).squeeze() != label).sum() <= 2
    (anterior, _), (kept, learnt) = np.mean(found["before"], 0), np.mean(found["extended"], 0)
    assert anterior > 0.6
    assert kept > anterior - 0.15
    assert learnt > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "index.md", TUTORIALS / "tracking.md"], ids=str)
def test_what_is_shown_on_the_phantom(page, folder, capsys):
    if not Path("configs/loggers").exists():
        pytest.skip("needs configs/loggers")
    image, _ = shoulder_subject(0)
    Path("new_images").mkdir()
    nib.save(nib.Nifti1Image(image, np.eye(4)), "new_images/shoulder.nii.gz")
    small = ["--data.init_args.subjects", "6", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    data = DataLoader([(torch.randn(1, 8, 8), torch.zeros(8, 8).long())])
    Reader(small, my_trained_module=Organs(), new_data=data).follow(page)


METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))
WITH_PYTHON = [page for page in METHODS if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_on_a_page_of_a_method(page, folder, monkeypatch):
    def trainer(**options):
        quick = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_model_summary": False}
        return Trainer(**{**options, **quick, "enable_checkpointing": False, "enable_progress_bar": False})

    monkeypatch.setattr("lightning.pytorch.Trainer", trainer)
    samples = [(torch.randn(1, 8, 8), torch.randint(0, 3, (8, 8))) for _ in range(20)]
    known = {name: Organs() for name in ("module", "my_trained_module", "my_pretrained_module", "my_old_module")}
    known |= dict.fromkeys(["old_data", "new_data", "first_task", "second_task"], DataLoader(samples[:2], batch_size=2))
    known |= {"my_module": Organs(4), "old_training_set": samples, "MyData": Slices, "trainer": trainer()}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.code, f"<{page.name}>", "exec"), known)


SECTIONS = ["Use", "Options", "When it works, and when not", "What is logged", "Settings of the paper"]


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_pages_of_methods_have_one_order(page):
    found = re.findall(r"^## (.*?)(?: and refused)?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in found if name in SECTIONS] == [name for name in SECTIONS if name in found]


class Slices(LightningDataModule):
    """Somebody's data module, of which a page shows the name only."""

    def train_dataloader(self):
        return DataLoader([{"image": torch.randn(1, 8, 8), "label": torch.zeros(8, 8).long()} for _ in range(4)])


class Organs(LightningModule):
    """Somebody's module, of which README and pages show the name only."""

    def __init__(self, channels=3):
        super().__init__()
        self.encoder = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.decoder = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.head = torch.nn.Conv2d(4, channels, 1)

    def forward(self, image):
        return self.head(self.decoder(self.encoder(image).relu()).relu())

    def add_decoder(self):
        self.added = torch.nn.Conv2d(4, 4, 3)

    def training_step(self, batch, batch_idx):
        image, label = batch.values() if isinstance(batch, dict) else batch
        logits = self(image)
        return {"loss": torch.nn.functional.cross_entropy(logits, label), "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.slow
def test_the_readme_is_made_of_finished_runs(folder, capsys, monkeypatch):
    small = ["--data.subjects=8", "--data.samples_per_epoch=16", "--trainer.max_epochs=1", *QUICK]
    for method in ("finetune", "lwfseg"):
        config = str(ROOT / f"configs/{method}.yaml")
        main(["fit", "--config", config, f"--trainer.default_root_dir=runs/{method}", *small])
    script = runpy.run_path(str(ROOT / "docs/make_readme.py"))
    readme, picture = folder / "README.md", folder / "demo.png"
    readme.write_text(f"before\n{script['START']}\nold\n{script['END']}\nafter\n", encoding="utf-8")
    script["main"].__globals__.update(README=readme, PICTURE=picture)
    script["main"](["runs/lwfseg", "runs/finetune"])
    rows = [line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| fine-tuning", "| LwfSeg"]
    assert picture.read_bytes().startswith(b"\x89PNG")
