import csv
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml

from lit_continual.cli import main
from lit_continual.studies.cells import Workers
from lit_continual.studies.sweep_file import read_sweep
from tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("deadline")
FIT = [sys.executable, str(Path(__file__).parent / "fake_fit.py")]
COMMAND = ["${env}", "lit-continual", "fit", "--config", "CONFIG", "${args}"]
RATES = {"model.optimizer.lr": {"values": [0.0, 0.01, 0.03, 0.1]}}
PARENT = """
import sys
from functools import partial
import lit_continual.studies.launch
from lit_continual.studies.cells import Workers
from lit_continual.cli import main
lit_continual.studies.launch.Workers = partial(Workers, command=[sys.executable, sys.argv[1]])
main(sys.argv[2:])
"""


@pytest.fixture
def sweep(stream, tmp_path, monkeypatch):
    """Write a sweep file over the tiny stream, and run it with a fit that is none."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("FAKE_FIT_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("lit_continual.studies.launch.Workers", partial(Workers, command=FIT))
    monkeypatch.setattr("lit_continual.studies.sweep.PAUSE", 0.02)

    def run(*options, **changed):
        command = [stream() if word == "CONFIG" else word for word in COMMAND]
        described = {"method": "grid", "metric": {"name": "stream/dice/acc", "goal": "maximize"}, "command": command}
        described |= {"parameters": {**RATES, "seed_everything": {"values": [0, 1, 2]}}, **changed}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in described.items() if v is not None}))
        main(["sweep", "--config", str(path), "--workers=2", f"--output={tmp_path / 'sweep'}", *options])
        return rows(tmp_path / "sweep/report/trials.csv"), rows(tmp_path / "sweep/report/sweep.csv")

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def begun(tmp_path):
    return Counter(tuple(line.split()[:2]) for line in (tmp_path / "log").read_text().splitlines())


@pytest.mark.slow
def test_a_grid_tries_everything_once_and_ends_with_means_over_seeds(sweep, tmp_path, capsys):
    few = {"model.optimizer.lr": {"values": [0.0, 0.1]}, "seed_everything": {"values": [0, 2]}}
    trials, points = sweep(parameters=few)
    tried = [(float(t["model.optimizer.lr"]), int(t["seed_everything"])) for t in trials]
    assert sorted(tried) == [(0.0, 0), (0.0, 2), (0.1, 0), (0.1, 2)]
    assert len(begun(tmp_path)) == 4
    for point in points:
        mean = 0.8 - 0.1 * abs(float(point["model.optimizer.lr"]) - 0.03) + 0.01
        assert float(point["stream/dice/acc mean"]) == pytest.approx(mean)
        assert float(point["stream/dice/acc std"]) == pytest.approx(0.02 / 2**0.5)
        assert point["stream/dice/acc n"] == "2"
    assert {t.name for t in (tmp_path / "sweep/report").iterdir()} >= {"sweep.html", "sweep.png"}
    assert {(tmp_path / f"sweep/trials/{i}/tracked").read_text() for i in range(4)} == {"offline sweep"}
    before = begun(tmp_path)
    assert sweep(parameters=few)[1] == points
    assert begun(tmp_path) == before
    assert "0.807 ± 0.014" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_draws_from_ranges_and_a_longer_one_goes_on(sweep, method):
    ranges = {
        "model.optimizer.lr": {"min": 0.001, "max": 0.1, "distribution": "log_uniform_values"},
        "trainer.max_epochs": {"min": 1, "max": 9},
        "data.batch_size": {"min": 2, "max": 8, "q": 2, "distribution": "q_uniform"},
        "stream.mode": {"values": ["joint", "single"]},
        "model.loss": {"value": None},
    }
    first, _ = sweep("--count=3", method=method, parameters=ranges)
    more, _ = sweep("--count=5", method=method, parameters=ranges)
    assert len(first) == 3
    assert [t["trial"] for t in more] == list("01234")
    assert more[:3] == first
    assert len({t["model.optimizer.lr"] for t in more}) == 5
    for trial in more:
        assert 0.001 <= float(trial["model.optimizer.lr"]) <= 0.1
        assert int(trial["trainer.max_epochs"]) in range(1, 10)
        assert int(trial["data.batch_size"]) in (2, 4, 6, 8)
        assert trial["stream.mode"] in ("joint", "single")


@pytest.mark.slow
def test_what_falls_behind_at_a_band_is_ended_early(sweep, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FIT_SECONDS", "2")
    stop = {"type": "hyperband", "min_iter": 2, "eta": 2}
    rates = {"model.optimizer.lr": {"values": [0.03, 1.0, 2.0, 3.0]}}
    trials, points = sweep(
        "--workers=1", early_terminate=stop, parameters=rates, metric={"name": "val/dice", "goal": "maximize"}
    )
    assert [t["complete"] for t in trials] == ["True", "False", "False", "False"]
    assert len(points) == 1
    assert all(float(t["val/dice"]) < 0.5 for t in trials[1:])
    assert capsys.readouterr().out.count("ended early") == 4
    again, _ = sweep(
        "--workers=1", early_terminate=stop, parameters=rates, metric={"name": "val/dice", "goal": "maximize"}
    )
    assert again == trials


@pytest.mark.slow
def test_a_trial_that_fails_is_told_leaves_the_rest_and_is_tried_again(sweep, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit, match=r"2 trials failed; the same command tries them again\."):
        sweep(name="failing", run_cap=2)
    assert capsys.readouterr().out.count("There is no such thing") == 2
    monkeypatch.setattr(
        "lit_continual.studies.launch.Workers", partial(Workers, command=[sys.executable, "-c", "pass", *FIT[1:]])
    )
    with pytest.raises(SystemExit):
        sweep(name="failing", run_cap=2)
    assert sorted(path.name for path in (tmp_path / "sweep/trials").iterdir()) == ["0", "1"]


def refused(sweep, said, *options, **changed):
    with pytest.raises(ValueError, match=said):
        sweep(*options, **changed)


def test_what_cannot_run_is_refused_before_anything_does(sweep, tmp_path):
    option = {"model.optimizer.learning": {"values": [1]}}
    refused(
        sweep, "sweep.yaml, with model.optimizer.learning 1: .*Option 'learning' is not accepted", parameters=option
    )
    refused(sweep, r"unrecognized arguments: --modle.lr=1", parameters={"modle.lr": {"values": [1]}})
    refused(
        sweep,
        r"with trainer.max_epochs abc: .*Expected a int",
        parameters={"trainer.max_epochs": {"values": [1, "abc"]}},
    )
    for name in ("stream.name", "trainer.default_root_dir", "resume"):
        refused(sweep, rf"sweep.yaml: `{name}` is set by the sweep, for each run. Remove it",
                parameters={name: {"values": ["a", "b"]}})  # fmt: skip
    seeds = {"seed_everything": {"min": 0, "max": 2**32}}
    refused(sweep, r"`seed_everything` must be from 0 to 4294967295, got 4294967296", "--count=2", method="random",
            parameters=seeds)  # fmt: skip
    for name, known in {
        "stream/dice/ac": "stream/dice/acc",
        "matrix/dce/ball": "matrix/dice/ball, matrix/dice/box",
    }.items():
        refused(sweep, f"the metric is {name}, and a stream logs {known}", metric={"name": name})
    refused(sweep, "a random sweep has no end. Give --count, or `run_cap`", method="random")
    refused(
        sweep,
        "a grid needs `values`, and model.optimizer.lr has a range",
        parameters={"model.optimizer.lr": {"min": 0.1, "max": 1.0}},
    )
    for part, said in {
        "`min` must be a number that is not above `max`, got 2": {"min": 2, "max": 1},
        "`min` must be a number that is not above `max`, got nan": {"min": float("nan"), "max": 1},
        "`min` must be a number that is not above `max`, got 0": {"min": 0, "max": float("inf")},
        "`min` of log_uniform_values must be above 0, got 0": {
            "min": 0,
            "max": 1,
            "distribution": "log_uniform_values",
        },
        "the ends of log_uniform are natural logarithms": {"min": 0, "max": 1000, "distribution": "log_uniform"},
        "`q` must be above 0, got 0": {"min": 0, "max": 1.0, "q": 0, "distribution": "q_uniform"},
    }.items():
        refused(sweep, f"parameter x: {part}", parameters={"x": said}, method="random")
    tens = {f"x{k}": {"values": list(range(10))} for k in range(12)}
    refused(sweep, "the grid has 1000000000000 trials, and 100000 are the most. Name fewer", parameters=tens)
    refused(sweep, "parameter x: it needs `value`, `values`, or `min` and `max`", parameters={"x": {"min": 2}})
    refused(sweep, "parameter x: nested", parameters={"x": {"parameters": {"y": {"value": 1}}}})
    refused(
        sweep,
        "The distribution normal cannot be searched",
        parameters={"x": {"min": 1, "max": 2, "distribution": "normal"}},
    )
    refused(
        sweep, r"`command` must be such as \[\$\{env\}, lit-continual, fit", command=["python", "train.py", "${args}"]
    )
    refused(sweep, '`method`|"method"', method="genetic")
    refused(sweep, "`run_cap` is 0, and a sweep has at least one trial", run_cap=0)
    refused(sweep, "--count is -3, and a sweep has at least one trial", "--count=-3")
    refused(sweep, "Option 'methud' is not accepted", methud="grid")
    refused(sweep, "either `min_iter`, or `max_iter` and `s`", early_terminate={"type": "hyperband", "max_iter": 9})
    refused(sweep, "`eta` must be a whole number", early_terminate={"type": "hyperband", "min_iter": 9, "eta": 1})
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "sweep").exists()


def test_another_sweep_in_the_folder_is_refused(sweep):
    sweep("--workers=0")
    refused(sweep, "holds a sweep with another parameters. Choose another folder", parameters=RATES)


def test_a_trial_whose_metric_is_undefined_ends_no_sweep(sweep, tmp_path, capsys):
    """The distance to a prediction that is empty is none, and is not logged."""
    trials, points = sweep(metric={"name": "stream/dice/intransigence"}, parameters=RATES)
    assert len(trials) == len(points) == 4
    assert {point["stream/dice/intransigence n"] for point in points} == {"0"}
    said = capsys.readouterr().out
    assert "stream/dice/intransigence nan" in said
    assert "—" in said
    assert sweep(metric={"name": "stream/dice/intransigence"}, parameters=RATES) == (trials, points)
    assert set(begun(tmp_path).values()) == {1}


def test_a_metric_that_is_never_logged_is_named_with_those_that_are(sweep):
    refused(
        sweep,
        r"The metric val/dcie was never logged .* which has matrix/dice/ball, stream/dice/acc, val/dice",
        metric={"name": "val/dcie"},
    )


@pytest.mark.slow
def test_twelve_trials_killed_twice_end_with_twelve_finished_none_twice(sweep, tmp_path, monkeypatch):
    sweep("--workers=0")  # writes the file
    monkeypatch.setenv("FAKE_FIT_SECONDS", "2")
    command = [sys.executable, "-c", PARENT, FIT[1], "sweep", "--config", str(tmp_path / "sweep.yaml"), "--workers=2"]
    command += [f"--output={tmp_path / 'sweep'}"]
    for wanted in (3, 7):
        parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda wanted=wanted: (tmp_path / "log").exists() and sum(begun(tmp_path).values()) >= wanted)
        assert parent.poll() is None
        parent.kill()
        parent.wait(600)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)
    trials = rows(tmp_path / "sweep/report/trials.csv")
    assert len(trials) == len({(t["model.optimizer.lr"], t["seed_everything"]) for t in trials}) == 12
    assert all(t["complete"] == "True" for t in trials)
    assert sorted(os.listdir(tmp_path / "sweep/trials"), key=int) == [str(i) for i in range(12)]
    assert set(begun(tmp_path).values()) == {1}
    assert len(begun(tmp_path)) == 12


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "configs/sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
@pytest.mark.filterwarnings("ignore")  # wandb's own: it leaves the file open
def test_shipped_sweeps_are_what_the_wandb_client_takes(file, tmp_path, monkeypatch, capsys):
    sweeps, utils = (pytest.importorskip(f"wandb.{name}") for name in ("apis.public.sweeps", "sdk.launch.sweeps.utils"))
    described = utils.load_sweep_config(str(file))
    if hasattr(sweeps, "_validate_config_and_fill_distribution"):  # of its newer releases
        filled = sweeps._validate_config_and_fill_distribution(described)
        assert filled["parameters"].keys() == described["parameters"].keys()
    ours, chosen = read_sweep(file), read_sweep(file).samples()[-1]
    flags = utils.create_sweep_command_args({"args": {n: {"value": v} for n, v in chosen.items()}})["args"]
    assert sorted(set(flags)) == sorted(
        a for a in ours.arguments(chosen) if a.split("=")[0] in {f.split("=")[0] for f in flags}
    )
    # As the agent makes it: nothing but ${args}, ${env}, ${program} and ${interpreter} stands for something.
    command = [
        part
        for word in utils.create_sweep_command(list(described["command"]))
        for part in (flags if word == "${args}" else [word])
    ]
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as ended:
        main([*command[command.index("fit") :], "--print_config"])
    assert ended.value.code in (0, None)
    assert json.dumps(yaml.safe_load(capsys.readouterr().out)["trainer"]["default_root_dir"])


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "configs/sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_shipped_sweeps_fit_the_schema_of_wandbs_engine(file):
    engine = pytest.importorskip("sweeps.config.cfg")  # not a dependency; for who has it
    assert engine.schema_violations_from_proposed_config(yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"min": 0, "max": 4}, (int, "int_uniform")),
        ({"min": 0.0, "max": 4}, (float, "uniform")),
        ({"min": 0, "max": 4, "distribution": "uniform"}, (int, "uniform")),
    ],
)
def test_whole_numbers_stay_whole_whatever_union_types_others_have_made(tmp_path, section, kind):
    """Python hands out one union for all orders of its types, and a reader tries them in that order."""
    described = {"method": "random", "metric": {"name": "stream/dice/acc"}, "parameters": {"a.b": section}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**described, "command": COMMAND}))
    parameter = read_sweep(tmp_path / "sweep.yaml").parameters["a.b"]
    assert (type(parameter.min), parameter.distribution) == kind
