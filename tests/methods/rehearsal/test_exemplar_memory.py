import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_continual.data import Budget, Exemplar, ExemplarMemory
from lit_continual.files.folder_lock import FolderLock
from tests.processes import context


def picks(experience, count, label="bone", patients=3):
    """Exemplars whose arrays tell them apart, and for each a file of the same size."""
    result = []
    for rank in range(count):
        values = torch.full((1, 4, 4), 1000.0 * len(experience) + rank)
        sample = {"image": values, "label": values.to(torch.uint8), "patient": f"{experience} {rank % patients}"}
        sample |= {"classes": label, "slice": rank}
        result.append((Exemplar(experience, rank, {label: rank}, "list", sample["patient"], rank), sample))
    return result


def ranks(memory):
    return [(e.experience, e.rank) for e in memory.exemplars]


def stored(folder):
    """Everything in a memory, each sample checked and read."""
    memory = ExemplarMemory(folder)
    return {(e.experience, e.rank): memory.load(e)["image"].tolist() for e in memory.exemplars}


def orphans(folder):
    named = {e.file for e in ExemplarMemory(folder).exemplars}
    return {path.name for path in (folder / "exemplars").iterdir()} - named


@pytest.fixture
def memory(tmp_path):
    memory = ExemplarMemory(tmp_path / "memory")
    memory.add("first", ["bone"], picks("first", 4), Budget(), policy="Random")
    return memory


def test_what_was_stored_comes_back(memory):
    again = ExemplarMemory(memory.folder)
    for exemplar, (_, sample) in zip(again.exemplars, picks("first", 4), strict=True):
        found = again.load(exemplar)
        assert found.keys() == sample.keys()
        assert torch.equal(found["image"], sample["image"])
        assert found["label"].dtype == torch.uint8
        assert (found["patient"], found["slice"]) == (exemplar.patient, exemplar.slice)
    assert again.experiences == {"first": {"classes": ["bone"], "policy": "Random"}}
    assert again.manifest["exemplar_free"] is False


def test_the_same_samples_make_the_same_folder(memory, tmp_path):
    other = ExemplarMemory(tmp_path / "other")
    other.add("first", ["bone"], picks("first", 4), Budget(), policy="Random")
    files = {path.relative_to(memory.folder): path.read_bytes() for path in memory.folder.rglob("*.*")}
    assert files == {path.relative_to(other.folder): path.read_bytes() for path in other.folder.rglob("*.*")}


@pytest.mark.parametrize(
    ("budget", "first", "second"),
    [
        (Budget(samples=3), 3, 3),
        (Budget(samples=3, per_class=False), 2, 1),
        (Budget(samples=9), 4, 4),
        (Budget(), 4, 4),
        (Budget(volumes=1), 1, 1),
        (Budget(samples=0), 0, 0),
        (Budget(megabytes=0), 0, 0),
    ],
)
def test_budget_keeps_beginnings(memory, budget, first, second):
    memory.add("second", ["fat"], picks("second", 4, "fat"), budget)
    assert ranks(memory) == [("first", r) for r in range(first)] + [("second", r) for r in range(second)]
    assert memory.manifest["exemplar_free"] is budget.empty
    assert set(stored(memory.folder)) == set(ranks(memory))
    assert not orphans(memory.folder)


def test_megabytes_are_those_of_the_files(memory):
    size = memory.exemplars[0].bytes
    assert size == (memory.folder / "exemplars" / memory.exemplars[0].file).stat().st_size
    memory.add("second", ["fat"], picks("second", 4, "fat"), Budget(megabytes=5.5 * size / 1e6, per_class=False))
    assert ranks(memory) == [("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1)]
    memory.add("third", ["skin"], picks("third", 4, "skin"), Budget(megabytes=2 * size / 1e6))
    assert len(ranks(memory)) == 6


def test_a_class_of_two_experiences_shares_its_budget(memory):
    memory.add("second", ["bone"], picks("second", 9), Budget(samples=5))
    assert ranks(memory) == [("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1)]


def test_what_serves_two_classes_stays_while_one_needs_it():
    both = [Exemplar("e", r, {"a": r, **({"b": 0} if r == 3 else {})}, "list", "p") for r in range(4)]
    assert [e.rank for e in Budget(samples=2).kept(both, {"e": ["a", "b"]})] == [0, 1, 3]


def test_adding_again_changes_nothing(memory):
    budget = Budget(samples=5, per_class=False)
    memory.add("second", ["fat"], picks("second", 6, "fat"), budget)
    before = {path: path.read_bytes() for path in memory.folder.rglob("*.*")}
    memory.add("second", ["fat"], picks("second", 6, "fat"), budget)
    assert {path: path.read_bytes() for path in memory.folder.rglob("*.*")} == before


def test_begins_with_another_memory_once(memory, tmp_path):
    later = ExemplarMemory(tmp_path / "later")
    later.begin(memory.folder)
    assert stored(later.folder) == stored(memory.folder)
    assert later.path.read_bytes() == memory.path.read_bytes()
    later.add("second", ["fat"], picks("second", 2, "fat"), Budget())
    later.begin(memory.folder)
    assert len(stored(later.folder)) == 6
    with pytest.raises(ValueError, match=r"There is no memory in .*nowhere: it has no manifest.json"):
        later.begin(tmp_path / "nowhere")


def test_nothing_from_nobody(tmp_path):
    memory = ExemplarMemory(tmp_path / "none")
    assert memory.exemplars == []
    memory.add("first", ["bone"], [], Budget())
    assert memory.experiences == {"first": {"classes": ["bone"]}}


def test_a_patient_is_forgotten(memory):
    gone = [e.file for e in memory.exemplars if e.patient == "first 0"]
    assert memory.forget("first 0") == len(gone) == 2
    assert {e.patient for e in memory.exemplars} == {"first 1", "first 2"}
    assert not any((memory.folder / "exemplars" / file).exists() for file in gone)
    assert "first 0" not in memory.path.read_text()
    assert memory.manifest["experiences"]
    with pytest.raises(ValueError, match=r"holds nothing of patient first 0\. It holds first 1, first 2"):
        memory.forget("first 0")


def test_a_flipped_byte_and_a_missing_file_are_named(memory):
    exemplar = memory.exemplars[1]
    path = memory.folder / "exemplars" / exemplar.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{exemplar.file}, an exemplar, is damaged.*memory forget .*'first 1'"):
        memory.load(exemplar)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{exemplar.file}, an exemplar, is missing.*memory forget .*'first 1'"):
        memory.load(exemplar)
    memory.forget("first 1")
    assert len(stored(memory.folder)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"manifest\.json is not valid JSON"),
        ("[]", r"manifest\.json is no manifest of a memory of format 1"),
        ('{"format": 2}', r"manifest\.json is no manifest of a memory of format 1"),
        ('{"format": 1, "experiences": {}, "exemplars": [{}]}', r"manifest\.json has an entry with no 'experience'"),
    ],
)
def test_a_bad_manifest_is_named(memory, text, message):
    memory.path.write_text(text)
    with pytest.raises(ValueError, match=message):
        _ = memory.exemplars


def test_an_entry_that_stands_often_is_named(memory):
    """A file that is read as often would keep a fit from beginning."""
    manifest = json.loads(memory.path.read_text())
    last = manifest["exemplars"][-1]
    manifest["exemplars"] += [{**last, "picked_for": {}}] * 9999
    memory.path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"manifest.json has 10000 exemplars of rank {last['rank']} of 'first'. Re"):
        memory.require()


@pytest.mark.parametrize("call", range(6))
def test_a_full_disk_leaves_what_was_there(memory, monkeypatch, call):
    before, written = stored(memory.folder), iter(range(call))
    write = Path.write_bytes

    def fails(path, content):
        if next(written, None) is None:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    monkeypatch.setattr(Path, "write_text", lambda path, text, **_: fails(path, text.encode()))
    with pytest.raises(OSError, match=r"Cannot write .*No space left on device.*unharmed"):
        memory.add("second", ["fat"], picks("second", 4, "fat"), Budget())
    monkeypatch.undo()
    assert stored(memory.folder) == before
    assert not list(memory.folder.rglob("*.part"))
    memory.add("second", ["fat"], picks("second", 4, "fat"), Budget())
    assert len(stored(memory.folder)) == 8


def _killed(folder, n):
    """Add to a memory, and die at the n-th step on the disk."""
    left = iter(range(n))

    def dying(function):
        def step(*args, **kwargs):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return step

    os.replace, os.fsync = dying(os.replace), dying(os.fsync)
    Path.write_bytes, Path.unlink = dying(Path.write_bytes), dying(Path.unlink)
    ExemplarMemory(folder).add("second", ["bone"], picks("second", 26), Budget(samples=26))


@pytest.mark.slow
def test_killed_anywhere_it_holds_what_it_held_or_what_it_should(tmp_path):
    whole, memory, exits = ExemplarMemory(tmp_path / "whole"), ExemplarMemory(tmp_path / "killed"), []
    for each in (whole, memory):
        each.add("first", ["bone"], picks("first", 26), Budget(samples=26))
    before = stored(whole.folder)
    whole.add("second", ["bone"], picks("second", 26), Budget(samples=26))  # 13 files come and 13 go
    after = stored(whole.folder)
    assert len(before) == len(after) == 26
    for n in range(50):
        process = context.Process(target=_killed, args=(memory.folder, n))
        process.start()
        process.join()
        exits.append(process.exitcode)
        assert stored(memory.folder) in (before, after), n
        if stored(memory.folder) == after:  # begin again
            memory.add("second", ["bone"], [], Budget())
            memory.add("first", ["bone"], picks("first", 26), Budget())
    assert exits == [-signal.SIGKILL] * 50
    memory.add("second", ["bone"], picks("second", 26), Budget(samples=26))
    assert stored(memory.folder) == after
    assert not orphans(memory.folder)


def test_refuses_what_it_cannot_keep(memory):
    exemplar, sample = picks("second", 1)[0]
    with pytest.raises(ValueError, match=r"numbers and tuples of them, and `meta` of a sample is a dict"):
        memory.add("second", ["bone"], [(exemplar, {**sample, "meta": {}})], Budget())
    memory.add("second", ["bone"], [(exemplar, {**sample, "array": np.ones(2), "none": None})], Budget())
    assert memory.load(memory.exemplars[-1])["none"] is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"samples": 3, "volumes": 1}, "counts `samples` or whole `volumes`, got both"),
        ({"samples": -1}, "`samples` of a budget must not be negative, got -1"),
        ({"megabytes": -0.5}, "`megabytes` of a budget must not be negative"),
    ],
)
def test_a_wrong_budget_is_named(limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(**limits)


def _killed_while_forgetting(folder, n):
    left, unlink, replace = iter(range(n)), Path.unlink, os.replace

    def step(function, *args, **kwargs):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    Path.unlink = lambda path, **options: step(unlink, path, **options)
    os.replace = lambda *places: step(replace, *places)
    ExemplarMemory(folder).forget("first 0")


@pytest.mark.parametrize("n", range(3))
def test_a_patient_whose_removal_was_killed_is_removed_by_the_same_call(memory, n):
    gone = {e.file for e in memory.exemplars if e.patient == "first 0"}
    process = context.Process(target=_killed_while_forgetting, args=(memory.folder, n))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert memory.forget("first 0") == len(gone)
    assert not orphans(memory.folder)
    assert not gone & {path.name for path in memory.folder.rglob("*")}
    assert "first 0" not in memory.path.read_text()


def test_two_processes_that_forget_do_not_bring_back_what_the_other_forgets(memory, monkeypatch):
    commit = ExemplarMemory._commit

    def meanwhile(self, kept, facts):
        monkeypatch.undo()
        with pytest.raises(ValueError, match=r"memory is being written by process \d+ on .*Wait for it"):
            ExemplarMemory(memory.folder).forget("first 1")
        commit(self, kept, facts)

    monkeypatch.setattr(ExemplarMemory, "_commit", meanwhile)
    memory.forget("first 0")
    memory.forget("first 1")
    assert {e.patient for e in memory.exemplars} == {"first 2"}
    assert len(stored(memory.folder)) == 1


def test_a_run_that_is_under_way_may_have_read_who_is_forgotten(memory):
    before = stored(memory.folder)
    with FolderLock(memory.folder.parent).held():
        with pytest.raises(ValueError, match=r"is being written by process \d+ on .*Wait for it or end it"):
            memory.forget("first 0")
        memory.add("second", ["fat"], picks("second", 1, "fat"), Budget())  # which is the run itself
    assert len(stored(memory.folder)) == len(before) + 1


@pytest.mark.parametrize("place", ["exemplar", "another", "exemplars"])
def test_what_is_no_file_is_no_exemplar_and_stays(memory, place):
    first = next(e.file for e in memory.exemplars if e.patient == "first 0")
    folder = memory.folder / "exemplars"
    path = {"exemplar": folder / first, "another": folder / f"{'0' * 32}.npz", "exemplars": folder}[place]
    if place == "exemplars":
        shutil.rmtree(folder)
        folder.write_text("mine")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "mine").touch()
    assert memory.forget("first 0") == 2
    assert {e.patient for e in memory.exemplars} == {"first 1", "first 2"}
    assert path.exists()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1e200", f"1{'0' * 400}"])
@pytest.mark.parametrize("place", ["score", "values", "experiences"])
def test_numbers_that_cannot_be_written_again_are_refused_when_they_are_read(memory, number, place):
    manifest = json.loads(memory.path.read_text())
    first = manifest["exemplars"][0]
    {"score": first["score"], "values": first["values"], "experiences": manifest["experiences"]["first"]}[place][
        "x"
    ] = 7.5
    memory.path.write_text(json.dumps(manifest).replace("7.5", number))
    before = memory.path.read_bytes()
    for action in (memory.require, lambda: memory.forget("first 0")):
        with pytest.raises(ValueError, match=rf"json is not valid JSON \(it holds the number {number[:30]}\)"):
            action()
    assert memory.path.read_bytes() == before


def test_nobody_is_forgotten_where_there_is_no_memory(tmp_path):
    with pytest.raises(ValueError, match=r"There is no memory in .*: it has no manifest.json"):
        ExemplarMemory(tmp_path).forget("first 0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": torch.tensor([[0, 3]])}, r"'label' has the value 3, and 2 classes"),
        ({"label": torch.tensor([[0, -1]])}, r"'label' has the value -1, and 2 classes"),
        ({"label": torch.tensor([[0, 0.5]])}, r"'label' has the value 0.5, and 2 classes"),
        ({"label": torch.tensor([[0, torch.nan]])}, "'label' is nan or infinite"),
        ({"image": torch.tensor([[0, torch.inf]])}, "'image' is nan or infinite"),
        ({"label": torch.zeros(1, 3)}, r"'label' has the shape \(1, 3\), and 'image' \(1, 2\)"),
    ],
)
def test_what_no_data_set_gives_is_no_exemplar(memory, arrays, message):
    """Also where somebody has written the checksum anew."""
    sample = {"image": torch.zeros(1, 2), "label": torch.zeros(1, 2), "classes": ("a", "b"), **arrays}
    memory.add("c", ["a"], [(Exemplar("c", 0, {"a": 0}, "s", "p"), sample)], Budget())
    exemplar = next(e for e in memory.exemplars if e.experience == "c")
    with pytest.raises(ValueError, match=rf"npz is no exemplar \({message}\). Restore it from a copy"):
        memory.load(exemplar)
