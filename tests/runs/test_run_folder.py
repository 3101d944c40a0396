import contextlib
import json
from math import nan
from pathlib import Path

import pytest

from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.experience import Experience
from lit_continual.runs.run_folder import RunFolder
from lit_continual.stream.stream import Stream

RUN = {
    "format": 1,
    "status": "running",
    "name": "tiny",
    "mode": "continual",
    "seed": 0,
    "experiences": [
        {"name": n, "classes": [n], "checkpoint": f"experiences/{i}_{n}/model.ckpt"} for i, n in enumerate("ab")
    ],
    "scores": {"dice": {"higher_is_better": True}, "hd95": {"higher_is_better": False}},
}


def started(path, resume=False, overwrite=False, **changes):
    folder = RunFolder(path)
    folder.start("seed: 0\n", json.loads(json.dumps({**RUN, **changes})), resume, overwrite)
    return folder


def rows(folder):
    return (folder.path / "cases.csv").read_text().splitlines()


def test_a_row_takes_the_place_of_what_a_kill_left_of_it(tmp_path):
    folder = started(tmp_path)
    folder.write_row(0, {"dice": {0: 0.5}, "hd95": {0: nan}}, [CaseScores(0, 0, "p", "a", {"dice": nan}, "v")])
    folder.write_row(1, {"dice": {0: 0.1, 1: 0.2}}, [CaseScores(1, 1, "p", "b", {"dice": 0.2}, "v")])
    folder.write_row(1, {"dice": {1: 0.25}}, [CaseScores(1, 1, "p", "b", {"dice": 0.25, "unasked": 1.0}, "v")])
    assert rows(folder) == ["after,on,patient,volume,class,dice,hd95", "0,0,p,v,a,,", "1,1,p,v,b,0.25,"]
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert written == {"dice": [[0.5, None], [None, 0.25]], "hd95": [[None, None], [None, None]]}


def test_what_is_noted_is_there_when_the_run_goes_on(tmp_path):
    folder = started(tmp_path)
    assert not folder.learnt(0)
    folder.note(0, epochs=1, steps=4, seconds=2.0)
    assert not folder.learnt(0)  # there is no checkpoint yet
    folder.checkpoint(0).parent.mkdir(parents=True)
    folder.checkpoint(0).touch()
    folder.note(0, evaluation_seconds=1.0)
    folder.note(device="cpu")
    again = started(tmp_path, resume=True)
    assert again.learnt(0)
    assert again.evaluated(0)
    assert not again.learnt(1)
    assert again.steps(2) == 4
    assert again.run["device"] == "cpu"


@pytest.mark.parametrize("written", [[], ["config.yaml"], ["config.yaml", "matrix.json"]])
def test_a_run_killed_in_its_first_writes_begins_anew(tmp_path, written):
    for name in written:
        (tmp_path / name).write_text("{}")
    (tmp_path / ".matrix.json.123.part").write_text("{")
    for resume in (False, True):
        folder = started(tmp_path, resume=resume)
        assert folder.matrices["dice"] == [[None, None], [None, None]]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "matrix.json", "run.json"]
        (tmp_path / "run.json").unlink()


def test_only_what_a_run_was_writing_is_taken_away(tmp_path):
    folder = started(tmp_path)
    mine = [".run.json.12.part", "overlays/.0_1.npz.3.part", "memory/.manifest.json.3.part"]
    mine += [f"memory/exemplars/.{'a' * 32}.npz.3.part", "experiences/0_a/.model.ckpt.3.part"]
    mine += ["experiences/0_a/resume/.resume.ckpt.3.part"]
    theirs = [".movie.mp4.part", ".run.json.part", "notes/.x.12.part", "experiences/0_a/.notes.txt.3.part", ".x.1.part"]
    for name in (*mine, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    started(tmp_path, resume=True)
    assert {name for name in (*mine, *theirs) if (tmp_path / name).exists()} == set(theirs)
    assert folder.run["name"] == "tiny"


def test_a_removal_that_was_killed_is_done_before_anything_begins(tmp_path):
    folder = started(tmp_path)
    folder.checkpoint(1).parent.mkdir(parents=True)
    (tmp_path / "experiences").rename(tmp_path / ".removed")  # as far as it came
    again = started(tmp_path, seed=3)
    assert again.run["seed"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "matrix.json", "run.json"]


def test_other_settings_are_found_where_the_config_is_gone_or_was_changed(tmp_path):
    config = "trainer: {max_epochs: 3}"
    folder = RunFolder(tmp_path)
    folder.start(config, json.loads(json.dumps(RUN)), False, False)
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 4}")
    with pytest.raises(ValueError, match=r"other settings: they, or its config.yaml, were changed since"):
        RunFolder(tmp_path).start("trainer: {max_epochs: 4}", RUN, True, False)
    assert RunFolder(tmp_path).start(config, RUN, True, False) == ""
    assert (tmp_path / "config.yaml").read_text() == config


def test_checkpoints_of_nobody_knows_which_run_are_not_gone_on_with(tmp_path):
    (tmp_path / "experiences/0_a").mkdir(parents=True)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"may hold checkpoints of a run, and there is no run\.json beside it"):
            started(tmp_path, **options)
    assert (tmp_path / "experiences/0_a").exists()


def test_facts_that_are_null_are_not_there(tmp_path):
    folder = started(tmp_path)
    folder.checkpoint(0).parent.mkdir(parents=True)
    folder.checkpoint(0).touch()
    folder.note(0, epochs=1, steps=None, seconds=1.0)
    assert not folder.learnt(0)
    assert folder.steps(1) == 0
    folder.note(0, steps=3)
    assert folder.learnt(0)


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    folder = started(tmp_path)
    folder.checkpoint(1).parent.mkdir(parents=True)
    folder.write_row(0, {"dice": {0: 0.5}}, [])
    (tmp_path / "notes.txt").write_text("mine")
    again = started(tmp_path, overwrite=True, seed=3)
    assert again.run["seed"] == 3
    again.begun()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.yaml", "matrix.json", "notes.txt", "run.json"]


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_that_is_refused_has_overwritten_nothing(tmp_path):
    folder = started(tmp_path)
    folder.write_row(0, {"dice": {0: 0.5}}, [])
    before = content(tmp_path)
    with contextlib.suppress(ValueError), folder.lock():
        again = started(tmp_path, overwrite=True, seed=3)
        again.resume_folder(0).mkdir(parents=True)
        again.withdraw()
        raise ValueError
    assert content(tmp_path) == before
    assert not (tmp_path / "experiences").exists()


@pytest.mark.parametrize("moves", range(9))
def test_killed_while_it_is_overwritten_or_put_back_the_old_run_is_there(tmp_path, monkeypatch, moves):
    """And killed once more as it is recovered; what the new one has begun to write is gone."""
    started(tmp_path).write_row(0, {"dice": {0: 0.5}}, [])
    before, rename, left = content(tmp_path), Path.rename, [moves]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(*arguments)

    monkeypatch.setattr(Path, "rename", killed)
    with contextlib.suppress(KeyboardInterrupt):
        started(tmp_path, overwrite=True)
        RunFolder(tmp_path).former.put_back()
        left[0] = -1
    for left[0] in (1, 99):
        with contextlib.suppress(KeyboardInterrupt):
            RunFolder(tmp_path).former.put_back() if RunFolder(tmp_path).former.exists else None
    assert content(tmp_path) == before


def test_a_run_that_overwrites_and_is_killed_before_its_first_step_is_gone_on_with_or_overwritten(tmp_path):
    before = content(started(tmp_path).path)
    started(tmp_path, overwrite=True, seed=3)
    assert started(tmp_path, resume=True, seed=3).run["seed"] == 3
    started(tmp_path, overwrite=True, seed=4)
    assert RunFolder(tmp_path).former.exists
    RunFolder(tmp_path).former.put_back()
    assert content(tmp_path) == before


def test_a_link_in_the_place_of_an_overwritten_run_leads_nowhere(tmp_path):
    folder, elsewhere = started(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "memory").mkdir()
    (folder.path / ".overwritten").symlink_to(elsewhere)
    started(folder.path, resume=True)
    started(folder.path, overwrite=True, seed=3).begun()
    assert [path.name for path in elsewhere.iterdir()] == ["memory"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"mode": "joint"}, {"scores": {"dice": {}}}, {"name": "other"}])
def test_another_run_is_not_gone_on_with(tmp_path, change):
    started(tmp_path)
    with pytest.raises(ValueError, match="holds another run than this config describes"):
        started(tmp_path, resume=True, **change)


def test_a_damaged_description_is_named(tmp_path):
    started(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json` cannot be read"):
        started(tmp_path, resume=True)


def test_paths_are_made_of_names_whatever_the_description_says(tmp_path):
    started(tmp_path)
    described = json.loads((tmp_path / "run.json").read_text())
    described["experiences"][0]["checkpoint"] = str(tmp_path / "elsewhere/x.ckpt")
    (tmp_path / "run.json").write_text(json.dumps(described))
    folder = started(tmp_path, resume=True)
    assert folder.checkpoint(0) == tmp_path / "experiences/0_a/model.ckpt"
    assert folder.resume_folder(0) == tmp_path / "experiences/0_a/resume"


BAD_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "../x",
    "a\nb",
    "a\x1b[2J",
    "C:x",
    " a",
    "a ",
    "a.",
    "a\u202eb",
    "a?",
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a" * 101])
def test_a_name_that_cannot_be_a_folders_is_refused(name):
    with pytest.raises(ValueError, match=r"cannot be called .*: its name is that of a folder. Use letters"):
        Stream([Experience(name)])


@pytest.mark.parametrize("name", ["left parotid", "GTV+", "Größe 2", "v1.5", "a" * 100])
def test_a_usual_name_is_taken(name):
    assert Stream([Experience(name)]).experiences[0].name == name


@pytest.mark.parametrize("text", [None, "", "elsewhere\n", "a,b\n1,2\n"])
def test_scores_of_cases_that_are_gone_are_not_written_over(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.run = {"experiences": [{}, {}], "scores": {"dice": {}}}
    folder.matrices = {"dice": [[None] * 2 for _ in range(2)]}
    if text is not None:
        (tmp_path / "cases.csv").write_text(text)
    folder.write_row(0, {"dice": {0: 0.5}}, [])  # what a first row finds is of nobody
    folder.run["experiences"][0]["evaluation_seconds"] = 1.0
    (tmp_path / "cases.csv").unlink()
    if text is not None:
        (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(ValueError, match=r"cases.csv` is (gone|damaged), and the scores .* with --overwrite"):
        folder.write_row(1, {"dice": {0: 0.5, 1: 0.5}}, [])
    assert json.loads((tmp_path / "matrix.json").read_text())["dice"][1] == [None, None]
