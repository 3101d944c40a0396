import json
from pathlib import Path

import numpy as np
import pytest

from lit_continual.runs.experience import facts_in, require_own
from lit_continual.runs.run import Run


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_reads_what_the_stream_wrote(make_run):
    run = Run.load(
        make_run(matrix={"dice": [[0.95, None], [0.91, 0.85]], "assd": [[1, None], [2, 3]], "hd95": [[4, 5], [6, 7]]})
    )
    assert (run.name, run.mode, run.seed, run.finished, run.steps) == ("lwfseg", "continual", 0, True, 2)
    assert [e.name for e in run.experiences] == ["humerus", "scapula"]
    assert list(run.experiences[1].classes) == ["scapula"]
    assert [(s.name, s.higher_is_better, s.unit) for s in run.scores][1] == ("assd", False, "mm")
    np.testing.assert_array_equal(run.matrix["dice"], [[0.95, np.nan], [0.91, 0.85]])
    assert len(run.cases) == 3 * 4
    assert run.overlay(1, 0).name == "1_0.npz"
    assert run.overlay(0, 1) is None
    assert run.config.startswith("seed_everything: 0")


def test_a_run_that_has_just_begun_has_no_steps(make_run):
    folder = make_run(steps=0)
    for name in ("matrix.json", "cases.csv", "config.yaml"):
        (folder / name).unlink()
    run = Run.load(folder)
    assert (run.steps, run.finished, run.cases, run.config) == (0, False, (), "")
    assert np.isnan(run.matrix["dice"]).all()


def test_numbers_that_are_not_finite_are_undefined(make_run):
    folder = make_run()
    edit(folder / "matrix.json", dice=[[float("inf"), None], [0.5, float("nan")]])
    np.testing.assert_array_equal(Run.load(folder).matrix["dice"], [[np.nan, np.nan], [0.5, np.nan]])


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"`.*nowhere` is not a run folder: it has no `run.json`; give a folder"):
        Run.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", r"run.json` cannot be read \(.*\); restore it from a copy, or begin anew"),
        ("run.json", "[]", r"run.json` has format None, and this version reads format 1"),
        ("run.json", '{"format": 2}', r"run.json` has format 2, and this version reads format 1.*install"),
        ("run.json", '{"format": 1}', r"run.json` is incomplete or damaged \(no 'experiences'\); restore"),
        ("matrix.json", "{}", r"matrix.json` holds no matrix of numbers for `dice` \(no 'dice'\); restore"),
        ("matrix.json", '{"dice": [["a"]]}', r"matrix.json` holds no matrix of numbers for `dice`"),
        ("matrix.json", '{"dice": [[0.5]]}', r"matrix of shape \(1, 1\) for `dice`.* names 2 experiences"),
        (
            "cases.csv",
            "after,on,patient,class,dice,hd95\n0,x,a,b,1,1\n",
            r"cases.csv` is damaged \(.*'x'\); restore",
        ),
        ("cases.csv", "after,on,patient,class,dice,hd95\n0,7,a,b,1,1\n", r"damaged \(experience 7, and there are 2\)"),
        ("cases.csv", "after,on,patient,class,dice\n0,0,a,b,1\n", r"damaged \(no 'hd95'\)"),
        (
            "cases.csv",
            "after,on,patient,class,dice,hd95\n0,0,a\n",
            r"cases.csv` is damaged \(a line with 3 fields\)",
        ),
    ],
)
def test_names_the_damaged_file_and_the_remedy(make_run, file, content, message):
    folder = make_run()
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Run.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 10**6), ("threads", 0), ("threads", "4"), ("threads", None), ("settings", 3), ("changes", 3)],
)
def test_what_a_run_is_gone_on_with_is_of_its_type_and_size(make_run, name, value):
    """A million threads would be started, and text ended in a traceback."""
    folder = make_run()
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**described, name: value}))
    with pytest.raises(ValueError, match=rf"damaged \(`{name}` is {value!r}\)"):
        Run.load(folder)


NOTED = [None, 3, {}, {"epochs": 1, "steps": 2}, {"epochs": 1, "steps": "x", "seconds": 1.0}]
NOTED += [{"epochs": 1, "steps": -2, "seconds": 1.0}, {"epochs": 1, "steps": 2, "seconds": float("nan")}]


@pytest.mark.parametrize("facts", NOTED)
def test_what_a_checkpoint_says_of_its_fit_is_checked(facts):
    with pytest.raises(ValueError, match=r"model.ckpt (does not say|says that `\w+` is).*Remove it to learn it again"):
        facts_in({"experience": facts}, Path("model.ckpt"))
    known = {"epochs": 1, "steps": 2, "seconds": 1.0}
    assert facts_in({"experience": {**known, "other": 3}}, Path("model.ckpt")) == known


def test_a_finished_run_without_its_matrix_is_damaged(make_run):
    folder = make_run()
    (folder / "matrix.json").unlink()
    with pytest.raises(ValueError, match=r"it has no `matrix.json`"):
        Run.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "other"}, "mode 'other' is none of continual, joint, single"),
        ({"experiences": [{"name": "a", "classes": []}] * 2}, "each needs a name of its own"),
        ({"experiences": []}, "each needs a name of its own"),
        ({"scores": {}}, "it names no score"),
        ({"scores": ["dice"]}, "incomplete or damaged"),
    ],
)
def test_rejects_what_no_stream_writes(make_run, changes, message):
    folder = make_run()
    edit(folder / "run.json", **changes)
    with pytest.raises(ValueError, match=message):
        Run.load(folder)


def test_a_checkpoint_says_whose_it_is():
    path, said = Path("model.ckpt"), {"index": 1, "name": "box", "epochs": 2}
    for content in ({"experience": said}, {"experience": {"epochs": 2}}, {"experience": None}, {}):  # old ones do not
        require_own(content, path, 1, "box")
    for index, name in ((0, "box"), (1, "ball")):
        with pytest.raises(ValueError, match=r"model.ckpt is the checkpoint of experience 1, 'box', and lies in the"):
            require_own({"experience": said}, path, index, name)
