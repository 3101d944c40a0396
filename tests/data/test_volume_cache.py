import json
import multiprocessing
import os
import pickle
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lit_continual.cli import main
from lit_continual.data import Augmentation, Loading, PatchDataset, Preprocessing, SegmentationDataModule, Split
from lit_continual.data.cache.cached_files import CachedFiles, Lease, used_names
from lit_continual.data.cache.cached_volumes import cached_volumes, clear
from lit_continual.data.cache.volume_cache import VolumeCache, volumes_folder
from lit_continual.data.case_lists.cases import Case
from lit_continual.windows.sliding_window import slide
from tests.largest_tensor import largest_tensor
from tests.processes import context

FLIP = {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0}
SHAPE = (32, 24, 40)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    return volumes_folder()


@pytest.fixture
def cases(tmp_path):
    """Cases whose files hold a number each, which ``load`` makes a volume of."""

    def make(count, name="set"):
        found = []
        for k in range(count):
            path = tmp_path / name / f"{k}.txt"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_text(str(k))
            found.append(Case((path,), None, f"{name}-{k}"))
        return found

    return make


def load(case, shape=SHAPE):
    """Of the size of 150 kB, with a class in a box."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(int(case.images[0].read_text())))
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, 4:9, 5:12, 10:20] = 1
    return {"image": (image - image.mean()) / image.std(), "label": label, "classes": ("a",), "patient": case.patient}


SIZE = 4 * 32 * 24 * 40 + 32 * 24 * 40  # bytes, give or take the head of a file


def limit(monkeypatch, volumes):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE_GB", str((volumes + 0.5) * SIZE / 1e9))


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in ("image", "label"))


@pytest.mark.parametrize("patch", [None, (16, 16), (16, 16, 8)])
@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_any_number_of_threads_loads_the_same_volumes_in_order(cases, keep, patch):
    plain = [load(case) for case in cases(7)]
    found = [VolumeCache(cases(7), load, keep, f"{n}", "them", patch, threads=n) for n in (1, 3)]
    found.append(VolumeCache(cases(7), load, keep, "3", "them", patch, threads=3))  # from what is there, if on disk
    for volumes in found:
        assert [v["patient"] for v in volumes] == [f"set-{k}" for k in range(7)]
        assert all(equal(*pair) for pair in zip(volumes, plain, strict=True))
        assert [one.slices for one in volumes.foregrounds] == [(*[False] * 10, *[True] * 10, *[False] * 20)] * 7 * bool(
            patch
        )


def test_threads_are_as_many_as_asked_and_compute_as_the_first_does(cases):
    """Sums depend on how many threads of torch share them, and so the number must not be another in a thread."""
    at_work, most, inside, lock = 0, 0, set(), threading.Lock()

    def slow(case):
        nonlocal at_work, most
        with lock:
            at_work, most = at_work + 1, max(most, at_work + 1)
        inside.add(torch.get_num_threads())
        time.sleep(0.01)
        with lock:
            at_work -= 1
        return load(case)

    VolumeCache(cases(8), slow, threads=3)
    assert (most, inside) == (3, {torch.get_num_threads()})


def test_a_bad_file_stops_the_loading(cases):
    begun = []

    def fail(case):
        begun.append(case.patient)
        if case.patient in ("set-1", "set-2"):
            raise ValueError(f"{case.patient} cannot be read")
        time.sleep(0.01)
        return load(case)

    with pytest.raises(ValueError, match=r"^set-1 cannot be read$"):
        VolumeCache(cases(50), fail, threads=2)
    assert len(begun) < 10


def test_loading_is_checked():
    with pytest.raises(ValueError, match=r"`threads` must be 1 or more, got 0"):
        Loading(threads=0)


def test_the_longest_unused_makes_room(cases, folder, monkeypatch):
    first, second = VolumeCache(cases(2), load, "disk"), VolumeCache(cases(2, "other"), load, "disk")
    paths = [*first.volumes, *second.volumes]
    first.close()
    second.close()
    for age, path in zip((3, 4, 1, 2), paths, strict=True):  # the second of the first is the oldest
        os.utime(path, (time.time() - 100 * age, path.stat().st_mtime))
    VolumeCache(cases(2), load, "disk").close()  # now it is not
    limit(monkeypatch, 4)
    VolumeCache(cases(1, "third"), load, "disk").close()
    assert [path.exists() for path in paths] == [True, True, True, False]
    limit(monkeypatch, 1)
    VolumeCache(cases(1, "fourth"), load, "disk").close()
    assert len(list(folder.glob("*.pt"))) == 1
    assert list((folder / "used").iterdir()) == []


def test_what_is_in_use_stays_and_too_little_room_is_said(cases, folder, monkeypatch):
    limit(monkeypatch, 3)
    mine, plain = VolumeCache(cases(3), load, "disk"), [load(case) for case in cases(3)]
    with pytest.raises(
        ValueError, match=r"The volumes in use take .* GB of .*, and another of .* GB is more than its"
    ) as e:
        VolumeCache(cases(1, "other"), load, "disk")
    assert "Raise LIT_CONTINUAL_CACHE_GB" in str(e.value)
    assert all(equal(*pair) for pair in zip(mine, plain, strict=True))
    assert [path.suffix for path in folder.iterdir() if path.is_file()] == [".pt"] * 3  # and nothing half written
    mine.close()
    assert len(VolumeCache(cases(1, "other"), load, "disk")) == 1


@pytest.mark.parametrize("given", ["much", "-1", "0", "nan"])
def test_a_limit_is_a_positive_number(cases, monkeypatch, given):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE_GB", given)
    with pytest.raises(
        ValueError, match=f"LIT_CONTINUAL_CACHE_GB must be a positive number of gigabytes, got '{given}'"
    ):
        VolumeCache(cases(1), load, "disk")


def test_without_a_limit_half_of_the_free_disk_is_used(cases, folder, monkeypatch):
    monkeypatch.delenv("LIT_CONTINUAL_CACHE_GB", raising=False)
    free = 3.5 * SIZE

    def disk_usage(path):
        held = sum(file.stat().st_size for file in folder.glob("*.pt"))
        return type("Usage", (), {"free": 2 * free - held})

    monkeypatch.setattr("lit_continual.data.cache.cached_files.shutil.disk_usage", disk_usage)
    VolumeCache(cases(3), load, "disk").close()
    VolumeCache(cases(2, "other"), load, "disk").close()
    assert len(list(folder.glob("*.pt"))) == 3


def hold(folder, names, held, end):
    Lease(folder, names)
    held.set()
    end.wait()


def test_another_process_keeps_what_it_uses_until_it_is_gone(cases, folder, monkeypatch):
    ours = VolumeCache(cases(2), load, "disk")
    names = [path.name for path in ours.volumes]
    ours.close()
    held, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, names[:1], held, end))
    other.start()
    assert held.wait(600)
    limit(monkeypatch, 1)
    with pytest.raises(ValueError, match="more than its limit"):
        VolumeCache(cases(1, "other"), load, "disk")
    assert [path.name for path in folder.glob("*.pt")] == names[:1]
    assert clear() == (0, 1)
    other.kill()  # its lease stays behind
    other.join()
    VolumeCache(cases(1, "other"), load, "disk").close()
    assert names[0] not in {path.name for path in folder.glob("*.pt")}


def test_a_process_of_another_machine_counts_as_long_as_it_gives_signs_of_life(cases, folder):
    cache = VolumeCache(cases(1), load, "disk")
    (lease,) = (folder / "used").iterdir()
    content = json.loads(lease.read_text())
    cache.close()
    content["process"]["host"] = "elsewhere"
    lease.write_text(json.dumps(content))
    assert used_names(folder) == set(content["names"])
    os.utime(lease, (0, 0))
    assert used_names(folder) == set()
    (folder / "used" / "x.json").write_text("{")
    assert used_names(folder) == set()


def test_a_file_that_is_taken_while_it_is_removed_comes_back(cases, folder, monkeypatch):
    cache = VolumeCache(cases(1), load, "disk")
    (path,) = cache.volumes
    cache.close()
    leases, replace = [], os.replace

    def take_then_replace(source, target):
        if not leases and str(source) == str(path):
            leases.append(None)
            leases.append(Lease(folder, [path.name]))
        replace(source, target)

    monkeypatch.setattr(os, "replace", take_then_replace)
    assert not CachedFiles(folder).remove(path)
    assert path.exists()
    leases[1].release()
    assert CachedFiles(folder).remove(path)
    assert [p for p in folder.iterdir() if p.is_file()] == []


def test_a_damaged_file_is_made_anew_and_one_that_is_gone_is_said(cases):
    cache = VolumeCache(cases(2), load, "disk")
    paths = list(cache.volumes)
    cache.close()
    paths[0].write_bytes(paths[0].read_bytes()[:1000])
    again = VolumeCache(cases(2), load, "disk")
    assert equal(again[0], load(cases(1)[0]))
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"was removed while it was in use. Run the command again"):
        again[1]


def test_what_was_let_go_is_not_asked_for(cases):
    for keep in ("memory", "disk"):
        cache = VolumeCache(cases(2), load, keep)
        cache.close()
        with pytest.raises(RuntimeError, match="were let go when the fit or the evaluation was over"):
            cache[0]
    assert list(VolumeCache([], load)) == []


def test_two_ranks_take_from_each_other_and_wait_for_nobody(cases, monkeypatch):
    """Each begins with cases of its own; here the first has done its own before the second begins."""
    loaded = {0: [], 1: []}

    def of(rank, stop=99):
        def one(case):
            if len(loaded[rank]) == stop:
                raise KeyboardInterrupt  # which nobody waits for
            loaded[rank].append(case.patient)
            return load(case)

        return one

    with pytest.raises(KeyboardInterrupt):
        VolumeCache(cases(6), of(0, stop=3), "disk", place=(2, 0))
    VolumeCache(cases(6), of(1), "disk", place=(2, 1))
    assert loaded == {0: ["set-0", "set-2", "set-4"], 1: ["set-1", "set-3", "set-5"]}


def touched(path):
    """Bytes of a file that this process has mapped and looked at."""
    lines, found = Path("/proc/self/smaps").read_text().splitlines(), 0
    for k, line in enumerate(lines):
        if line.endswith(path.name):
            found += next(int(one.split()[1]) * 1024 for one in lines[k + 1 :] if one.startswith("Rss:"))
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
@pytest.mark.parametrize(("patch", "share"), [((128, 128), 0.2), ((16, 16, 16), 0.35)])
def test_a_patch_reads_the_part_of_a_file_that_it_lies_in(cases, patch, share, monkeypatch):
    """One slice of 400, or an eighth of the rows; a kernel maps up to 2 MB around what is looked at."""
    big = lambda case: load(case, (128, 128, 400))  # noqa: E731
    cache = VolumeCache(cases(1), big, "disk", patch_size=patch)
    dataset, (path,) = PatchDataset(cache, patch), cache.volumes
    held, read = [], torch.load

    def kept(*args, **options):  # so that what a sample has mapped stays mapped
        held.append(read(*args, **options))
        return held[-1]

    monkeypatch.setattr(torch, "load", kept)
    dataset[200 if len(patch) == 2 else 0]
    assert len(held) == 1  # it is opened once a sample
    assert 0 < touched(path) < share * path.stat().st_size
    held[0]["volume"]["image"].sum()
    assert touched(path) > 0.7 * path.stat().st_size  # the measure is one


def test_no_epoch_reads_a_volume_for_its_foreground(cases, monkeypatch):
    cache = VolumeCache(cases(2), load, "disk", patch_size=(8, 8, 8))
    monkeypatch.setattr(torch, "load", None)
    again = PatchDataset(cache, (8, 8, 8))
    assert again.foreground == [True] * 8


@pytest.mark.parametrize("patch", [pytest.param((16, 16), marks=pytest.mark.slow), (16, 16, 8)])
def test_cached_targets_lie_where_the_volumes_do(cases, folder, patch):
    caches = [VolumeCache(cases(2), load, keep, patch_size=patch) for keep in ("memory", "disk")]
    memory, disk = (PatchDataset(cache, patch, [FLIP]) for cache in caches)
    for dataset in (memory, disk):
        dataset.ask("teacher", lambda image: torch.cat([image.sin(), image.cos()], 1))
    answers = sorted(folder.glob("answers-*.pt"))
    assert len(answers) == len(disk.targets["teacher"]) == 2
    assert [a.dtype for a in disk.targets["teacher"]] == [torch.float16] * 2
    copy = pickle.loads(pickle.dumps(disk))  # as a spawned worker gets it
    for k in range(len(memory)):
        for dataset in (disk, copy):
            assert all(torch.equal(memory[k][name], dataset[k][name]) for name in ("image", "label", "teacher"))
    del copy
    assert sorted(folder.glob("answers-*.pt")) == answers
    disk.close()
    assert list(folder.glob("answers-*.pt")) == []
    assert len(list(folder.glob("*.pt"))) == 2


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_no_answer_is_whole_in_single_precision(cases, keep):
    torch.manual_seed(0)
    network, patch = torch.nn.Conv3d(1, 16, 3, padding=1), (8, 8, 8)
    dataset = PatchDataset(VolumeCache(cases(1), load, keep, patch_size=patch), patch)
    size = largest_tensor(lambda: dataset.ask("teacher", network))
    (answers,) = dataset.targets["teacher"]
    assert size <= answers.nbytes
    with torch.no_grad():
        expected = slide(network, load(cases(1)[0])["image"][None], patch)[0].half()
    assert torch.equal(answers, expected)


def test_a_full_disk_is_said_before_a_teacher_is_asked_on(cases, monkeypatch):
    cache = VolumeCache(cases(1), load, "disk", patch_size=(8, 8, 8))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        PatchDataset(cache, (8, 8, 8)).ask("teacher", lambda image: image)


def test_targets_of_a_process_that_was_killed_are_removed(cases, folder):
    VolumeCache(cases(1), load, "disk").close()
    (folder / "answers-1-0.pt").write_bytes(b"x")
    (folder / "a.pt.1.old").write_bytes(b"x")
    (folder / ".a.pt.2.part").write_bytes(b"x")
    os.utime(folder / "a.pt.1.old", (0, 0))
    VolumeCache(cases(1, "other"), load, "disk").close()
    assert {p.name for p in folder.iterdir() if p.suffix != ".pt"} == {"used", ".a.pt.2.part"}  # being written
    assert not list(folder.glob("answers-*"))


@pytest.fixture
def data(decathlon):
    def make(name="set", **options):
        split = Split((0.5, 0.25, 0.25))
        classes = {"first": 1, "second": 2}
        return SegmentationDataModule(str(decathlon(8, name)), [12, 10], classes, 4, split, cache="disk", **options)

    return make


def test_volumes_of_a_data_set_or_a_patient_are_cleared(data, folder, capsys):
    data("mine").setup("fit")
    theirs = data("theirs")
    theirs.setup("fit")
    theirs.teardown("fit")
    before = list(cached_volumes())
    assert len(before) == 12
    assert {volume.patient for volume in before if "mine" in volume.images[0].parts} == {
        volume.patient for volume in before if "theirs" in volume.images[0].parts
    }
    patient = before[0].patient
    main(["cache", "show"])
    assert "12 volumes" in capsys.readouterr().out
    main(["cache", "clear", "--dataset", str(Path(theirs.dataset)), "--patient", patient])
    assert "1 volumes are gone from the cache." in capsys.readouterr().out
    (Path(theirs.dataset) / "dataset.json").unlink()  # the folder is enough
    assert clear(str(theirs.dataset)) == (5, 0)
    assert {Path(volume.images[0]).parents[1].name for volume in cached_volumes()} == {"mine"}
    assert clear(str(theirs.dataset)) == (0, 0)
    assert sum(clear()) == 6
    assert len(list(folder.glob("*.pt"))) in (0, 6)  # by when the first was collected


def test_workers_read_what_one_process_does(data):
    augmentation = Augmentation((FLIP,))
    alone, helped = (data(augmentation=augmentation, num_workers=n, seed=0) for n in (0, 2))
    for one in (alone, helped):
        one.setup("fit")
    pairs = zip(alone.train_dataloader(), helped.train_dataloader(), strict=True)
    assert all(equal(*pair) for pair in pairs)


def private_bytes(pid):
    """Memory of a process that no other shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


class Sums(Dataset):
    """Looks at the whole of each volume."""

    def __init__(self, volumes):
        self.volumes = volumes

    def __len__(self):
        return len(self.volumes)

    def __getitem__(self, k):
        return float(self.volumes[k]["image"].sum())


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_workers_do_not_copy_volumes(cases, keep):
    """A forked worker that has looked at all of 80 MB takes no more than one that has looked at next to nothing."""
    taken = []
    for shape in ((8, 16, 24), (256, 256, 250)):
        (case,) = cases(1)
        volumes = VolumeCache([case], partial(load, shape=shape), keep, str(shape))
        loader = DataLoader(Sums(volumes), batch_size=None, num_workers=1, multiprocessing_context="fork")
        batches = iter(loader)
        assert next(batches) == float(volumes[0]["image"].sum())
        taken.append(max(private_bytes(child.pid) for child in multiprocessing.active_children()))
        del batches
    assert taken[1] - taken[0] < 40e6


def test_other_preprocessing_and_other_code_are_other_volumes(data, folder):
    class Mine(SegmentationDataModule):
        @staticmethod
        def _load_training(*options):
            return SegmentationDataModule._load_training(*options)

    given = data()
    mine = Mine(given.dataset, [12, 10], given.classes, split=given.split, cache="disk")
    counts = []
    for one in (given, data(preprocessing=Preprocessing("LPS")), mine):
        one.setup("fit")
        counts.append(len(list(folder.glob("*.pt"))))
    assert counts == [6, 12, 18]
