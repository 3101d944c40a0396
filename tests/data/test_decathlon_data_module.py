import hashlib
import shutil
import tarfile
from urllib.error import URLError

import pytest
from monai.apps import DecathlonDataset

from lit_continual.data import DecathlonDataModule, Split, decathlon_data_module

TASK = "Task04_Hippocampus"


@pytest.fixture
def published(decathlon, tmp_path, monkeypatch):
    """A tar file under the published name, which MONAI fetches from the disk and checks as it would the real one."""
    folder = decathlon(4, name=f"source/{TASK}")
    tar = tmp_path / f"{TASK}.tar"
    with tarfile.open(tar, "w") as file:
        file.add(folder, TASK)
    shutil.rmtree(folder)
    monkeypatch.setitem(DecathlonDataset.resource, TASK, tar.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(tar.read_bytes()).hexdigest())
    return tar


def module(root, **kwargs):
    return DecathlonDataModule(TASK, [12, 10], str(root), classes={"first": 1}, split=Split((0.5, 0, 0.5)), **kwargs)


def test_fetched_once(published, tmp_path):
    root = tmp_path / "deep" / "root"
    data = module(root, download=True)
    assert not root.exists()  # making the object fetches nothing
    data.prepare_data()
    assert [p.name for p in root.iterdir()] == [TASK]
    published.unlink()
    data.setup("fit")
    assert len(data.cases["train"]) == 2
    module(root).prepare_data()
    assert len(module(root, download=True).listed.cases) == 4


def test_asking_for_the_cases_fetches_too(published, tmp_path):
    assert len(module(tmp_path / "root", download=True).cases["test"]) == 2


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path))
    assert DecathlonDataModule(TASK, [8, 8]).dataset == str(tmp_path / "decathlon" / TASK)
    monkeypatch.setenv("HERE", str(tmp_path / "here"))
    assert DecathlonDataModule(TASK, [8, 8], "$HERE").dataset == str(tmp_path / "here" / TASK)


def test_not_there_and_not_to_be_fetched(tmp_path):
    with pytest.raises(ValueError, match=rf"{TASK} is not in .*. Set `download: true`, or unpack http\S+\.tar there"):
        module(tmp_path).prepare_data()


@pytest.mark.parametrize("failure", ["network", "damaged", "no tar"])
def test_what_cannot_be_fetched_leaves_nothing(published, tmp_path, monkeypatch, failure):
    if failure == "network":

        def fail(*_args, **_kwargs):
            raise URLError("Name or service not known")

        monkeypatch.setattr("monai.apps.utils._download_with_progress", fail)
    elif failure == "damaged":
        published.write_bytes(published.read_bytes()[:2000])
    else:
        published.write_bytes(b"no tar")
        monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(b"no tar").hexdigest())
    message = rf"{TASK} cannot be fetched from file:\S+ \(.*fetch the file elsewhere and unpack it in .*root\."
    with pytest.raises(ValueError, match=message) as caught:
        module(tmp_path / "root", download=True).prepare_data()
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_other_ranks_wait_for_the_first(published, tmp_path, monkeypatch):
    data = module(tmp_path / "root", download=True)
    first = module(tmp_path / "root", download=True)
    monkeypatch.setattr(decathlon_data_module, "is_first_rank", lambda: False)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        with monkeypatch.context() as context:
            context.setattr(decathlon_data_module, "is_first_rank", lambda: True)
            first.prepare_data()

    monkeypatch.setattr(decathlon_data_module.time, "sleep", wait)
    data.prepare_data()
    assert waits == [1]
    assert (tmp_path / "root" / TASK / "dataset.json").exists()


def test_unknown_task():
    with pytest.raises(ValueError, match=r"`task` must be one of Task01_BrainTumour, .*, got 'Task99_Toe'"):
        DecathlonDataModule("Task99_Toe", [8, 8])
