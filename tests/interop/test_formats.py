"""What any format of trained models can count on, by one that holds a segmenter in a folder of its own."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from lit_continual import interop
from lit_continual.cli import main
from lit_continual.methods.bases.weights import read_weights
from lit_continual.modules import RegionSegmenter, Segmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.formats import ReadableFormat
from tests.conftest import NETWORK
from tests.fixtures.data import write


class Folder(ReadableFormat):
    """A segmenter in ``weights.pt``."""

    name = "folder"

    def recognises(self, path):
        return (path / "weights.pt").is_file()

    def read(self, path, trust):
        weights = torch.load(path / "weights.pt", weights_only=True)
        arguments = {"network": NETWORK, "features": 4, "heads": [["ball"]], "roi_size": [16, 16]}
        return {
            "state_dict": weights,
            "hyper_parameters": arguments,
            "lit_continual": {"module": "Segmenter"},
            "datamodule_hyper_parameters": {"preprocessing": {"orientation": "RAS", "spacing": None, "normalise": []}},
        }

    def write(self, opened, folder, images):
        if opened.content.get("unfit"):
            (folder / "half").touch()
            raise ValueError("No such model fits.")
        torch.save(opened.state_dict, folder / "weights.pt")
        return [f"{len(opened.module(Segmenter).classes)} classes."]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(interop, "FORMATS", [*interop.FORMATS, Folder()])
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    torch.save(Segmenter(NETWORK, 4, [["ball"]]).state_dict(), tmp_path / "model" / "weights.pt")
    return tmp_path / "model"


def test_the_door_opens_a_folder(folder):
    module = Checkpoint(folder).module(Segmenter)
    assert module.classes == ["ball"]
    assert module.state_dict().keys() == read_weights(folder).keys()
    assert Segmenter.load_from_checkpoint(folder).classes == ["ball"]


@pytest.mark.filterwarnings("ignore:The optimizer's weight decay")
def test_a_stream_extends_a_folder_with_methods_that_read_it(folder, stream, shapes, tmp_path):
    callbacks = [
        {"class_path": "Distillation", "init_args": {"alpha": 0.5, "teacher": str(folder)}},
        {"class_path": "L2SP", "init_args": {"anchor": str(folder), "parameters": ["body"]}},
        {"class_path": "Pretrained", "init_args": {"weights": str(folder)}},
    ]
    experience = {"name": "box", "classes": {"box": 2}}
    path = stream(*callbacks, start=str(folder), experiences=[experience])
    main(["fit", "--config", path])
    extended = tmp_path / "run/experiences/0_box/model.ckpt"
    assert Checkpoint(extended).module(Segmenter).classes == ["ball", "box"]
    main(["predict", str(folder), str(shapes / "images"), f"--output={tmp_path / 'out'}"])
    assert len(list((tmp_path / "out").iterdir())) == 9

    main(["export", str(extended), "--format=folder", f"--output={tmp_path / 'new'}"])
    assert read_weights(tmp_path / "new").keys() == Checkpoint(extended).state_dict.keys()


@pytest.mark.parametrize("method", ["Distillation", "MiB"])
def test_a_stream_that_starts_from_a_folder_has_it_for_its_old_network(folder, stream, tmp_path, method):
    heads = ["--model.heads=shared"] if method == "MiB" else []
    found = []
    for name, arguments in (("unsaid", {}), ("said", {"teacher": "start"})):
        callback = {"class_path": method, "init_args": arguments}
        path = stream(callback, name=name, start=str(folder), experiences=[{"name": "box", "classes": {"box": 2}}])
        quick = ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path / name}", *heads]
        main(["fit", "--config", path, *quick])
        found.append(Checkpoint(tmp_path / name / "experiences/0_box/model.ckpt").state_dict)
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_an_export_is_there_whole_or_not_at_all(folder, tmp_path, capsys):
    content = {**Folder().read(folder, ()), "unfit": True}
    torch.save(content, tmp_path / "model.ckpt")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="No such model fits"):
        main(["export", str(tmp_path / "model.ckpt"), "--format=folder", f"--output={tmp_path / 'new'}"])
    assert sorted(tmp_path.rglob("*")) == before
    main(["export", str(folder), "--format=folder", f"--output={tmp_path / 'new'}"])
    assert "1 classes." in capsys.readouterr().out
    (tmp_path / "new" / "old").touch()
    with pytest.raises(ValueError, match="is there already"):
        main(["export", str(folder), "--format=folder", f"--output={tmp_path / 'new'}"])
    with pytest.raises(ValueError, match="No such model fits"):
        main(["export", str(tmp_path / "model.ckpt"), "--format=folder", f"--output={tmp_path / 'new'}", "--overwrite"])
    assert (tmp_path / "new" / "old").exists()
    main(["export", str(folder), "--format=folder", f"--output={tmp_path / 'new'}", "--overwrite"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(
    "output", ["model", "model/inside", "model/inside/..", ".", "data", "data/images", "here", "link"]
)
def test_an_export_does_not_fall_on_what_it_reads(folder, tmp_path, monkeypatch, output):
    for name in ("model/inside", "data", "here/deeper"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    write(tmp_path / "data/images/a.nii.gz", np.zeros((4, 4, 4), np.float32))
    (tmp_path / "cases.csv").write_text("image\ndata/images/a.nii.gz\n")
    monkeypatch.chdir(tmp_path / "here/deeper")
    before = sorted(tmp_path.rglob("*"))
    options = ["--images", str(tmp_path / "cases.csv"), "--overwrite"]
    with pytest.raises(ValueError, match=r"would be overwritten. Choose another --output than"):
        main(["export", str(folder), "--format=folder", f"--output={tmp_path / output}", *options])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_does_not_take_the_place_of_what_came_while_it_was_made(folder, tmp_path, monkeypatch):
    write = Folder.write

    def comes(self, opened, temporary, images):
        (tmp_path / "new").mkdir()
        (tmp_path / "new/mine").touch()
        return write(self, opened, temporary, images)

    monkeypatch.setattr(Folder, "write", comes)
    with pytest.raises(ValueError, match="new is there already"):
        main(["export", str(folder), "--format=folder", f"--output={tmp_path / 'new'}"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


def test_an_export_takes_the_place_of_a_link_and_not_of_what_it_leads_to(folder, tmp_path):
    (tmp_path / "kept").mkdir()
    for name, target in (("link", "kept"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        main(["export", str(folder), "--format=folder", f"--output={tmp_path / name}", "--overwrite"])
        assert not (tmp_path / name).is_symlink()
    assert list((tmp_path / "kept").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "kept", "link", "model"]


def test_what_killed_exports_left_is_removed_and_nothing_else(folder, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    kept = [f".new-{os.getpid()}-{host}-abc", f".new-{gone.pid}-elsewhere-abc", f".newer-{gone.pid}-{host}-abc"]
    for name in (f".new-{gone.pid}-{host}-abc", *kept):
        (tmp_path / name / "new").mkdir(parents=True)
    main(["export", str(folder), "--format=folder", f"--output={tmp_path / 'new'}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "model", "new"])
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "model").stat().st_mode


def test_what_is_no_model_is_refused_in_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is a folder, and none of a trained model \(nnunet, .*folder\)"):
        Checkpoint(tmp_path / "empty")
    (tmp_path / "run/experiences/0_liver").mkdir(parents=True)
    (tmp_path / "run/experiences/0_liver/model.ckpt").touch()
    with pytest.raises(
        ValueError, match=r"run is a folder. Give a checkpoint in it, such as .*run/experiences/0_liver/mo"
    ):
        Checkpoint(tmp_path / "run")
    with pytest.raises(ValueError, match=r"There is no format 'flder' to export to. Give one of nnunet"):
        main(["export", str(folder), "--format=flder", f"--output={tmp_path / 'new'}"])


@pytest.mark.slow
def test_a_process_that_has_not_imported_a_class_finds_it_by_its_name(tmp_path):
    module = RegionSegmenter({"_target_": "torch.nn.Identity"}, features=1, roi_size=[2, 2])
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "model.ckpt")
    door = "from lit_continual.runs.checkpoints.checkpoint import Checkpoint"
    code = f"import sys; {door}; print(Checkpoint(sys.argv[1]).module())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.ckpt"], capture_output=True, text=True)
    assert done.stdout.startswith("RegionSegmenter("), done.stderr
