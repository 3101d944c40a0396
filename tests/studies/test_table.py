import csv
import json
import os
import re
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from lit_continual.cli import main
from lit_continual.runs.run_folder import RunFolder
from lit_continual.studies.cells import Workers
from lit_continual.studies.layout import read_layout
from lit_continual.studies.table import RunTable

FIT = [sys.executable, str(Path(__file__).parent / "fake_fit.py")]
LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


@pytest.fixture
def compare(stream, tmp_path, monkeypatch):
    """Write a table over the tiny stream, and run it with a fit that is none."""
    monkeypatch.setenv("FAKE_FIT_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("lit_continual.studies.launch.Workers", partial(Workers, command=FIT))
    stream(name="fine")
    stream(LWF, name="lwf")

    def run(*options, **changed):
        described = {
            "methods": {"fine-tuning": {"config": "fine.yaml"}, "LwfSeg": {"config": "lwf.yaml"}},
            "columns": {"old": {"experience": "ball"}, "new": {"experience": -1}, "BWT": {"measure": "bwt"}},
            "seeds": [0, 1],
            **changed,
        }
        (tmp_path / "table.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
        main(["compare", "--config", str(tmp_path / "table.yaml"), f"--output={tmp_path / 'out'}", *options])
        return rows(tmp_path / "out/table/table.csv")

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def begun(tmp_path):
    return Counter(tuple(line.rsplit(" ", 2)[:2]) for line in (tmp_path / "log").read_text().splitlines())


def entry(found, method, column, case="all"):
    (line,) = [r for r in found if (r["case"], r["method"], r["column"]) == (case, method, column)]
    return line


def test_a_table_has_means_over_seeds_tests_over_patients_and_the_papers_numbers(compare, tmp_path, capsys):
    methods = {"fine-tuning": {"config": "fine.yaml", "paper": [[0.1, None, -0.9]]}, "LwfSeg": {"config": "lwf.yaml"}}
    found = compare("--workers=2", methods=methods, source="somebody, Table 1")
    line = entry(found, "fine-tuning", "old")
    seeds = [0.9 - 0.1 * abs(0.01 - 0.03) + 0.01 * seed - 0.2 for seed in (0, 1)]
    assert float(line["mean"]) == pytest.approx(sum(seeds) / 2)
    assert float(line["std"]) == pytest.approx(0.01 / 2**0.5)
    assert (line["seeds"], line["paper"], line["p"]) == ("2", "0.1", "")
    assert float(entry(found, "fine-tuning", "BWT")["mean"]) == pytest.approx(sum(seeds) / 2 - 0.9)
    better = entry(found, "LwfSeg", "old")
    assert float(better["difference"]) == pytest.approx(0.2)
    assert float(better["p"]) == pytest.approx(stats.wilcoxon([0.2, 0.21, 0.22, 0.23, 0.24, 0.25]).pvalue)
    assert better["patients"] == "6"
    assert entry(found, "LwfSeg", "BWT")["p"] == ""
    shown = capsys.readouterr().out
    assert "0.903 ± 0.007*" in shown
    assert "paper 0.100" in shown
    assert "somebody, Table 1" in shown
    page, tex = ((tmp_path / "out/table" / name).read_text() for name in ("table.html", "table.tex"))
    assert "paper 0.100" in page
    assert "http" not in page.replace("http-equiv", "")
    assert r"0.903 $\pm$ 0.007*" in tex
    assert len(rows(tmp_path / "out/table/runs.csv")) == 4


def test_no_number_loses_its_end_on_a_narrow_terminal(compare, capsys, monkeypatch):
    columns = {f"forgetting {n}": {"measure": "acc"} for n in range(10)}
    compare(columns=columns)
    wide = re.findall(r"\d\.\d{3}", capsys.readouterr().out)
    assert len(wide) == 4 * len(columns)  # mean and deviation of two methods
    monkeypatch.setenv("COLUMNS", "60")
    compare(columns=columns)
    assert sorted(re.findall(r"\d\.\d{3}", capsys.readouterr().out)) == sorted(wide)


def test_means_over_patients_and_a_curve_over_steps(compare, tmp_path, capsys):
    found = compare(spread="patients", curve="val/dice")
    line = entry(found, "fine-tuning", "old")
    patients = [0.9 - 0.1 * 0.02 + 0.005 - 0.2 - 0.001 * i for i in range(6)]  # each the mean of seeds 0 and 1
    assert float(line["mean"]) == pytest.approx(np.mean(patients))
    assert float(line["std"]) == pytest.approx(np.std(patients, ddof=1))
    assert line["seeds"] == "2"
    assert float(entry(found, "fine-tuning", "BWT")["std"]) == pytest.approx(0.01 / 2**0.5)
    assert "over patients, each averaged over 2 seeds" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out/table/curve_1.png").exists()


def test_columns_are_drawn_over_an_option_that_the_methods_set(compare, tmp_path):
    lr = "model.optimizer.lr"
    methods = {"alone": {"config": "lwf.yaml"}}
    methods |= {f"lr {value}": {"config": "fine.yaml", "options": {lr: value}} for value in (0.04, 0.01)}
    compare(methods=methods, over=lr)
    found = RunTable(tmp_path / "table.yaml", read_layout(tmp_path / "table.yaml"), tmp_path / "out").found()
    new = {value: [0.9 - 0.1 * abs(value - 0.03) + 0.01 * seed for seed in (0, 1)] for value in (0.04, 0.01)}
    assert found.drawn["new"]["all"] == {value: pytest.approx(numbers) for value, numbers in new.items()}
    assert list(found.drawn) == ["old", "new", "BWT"]
    assert (tmp_path / "out/table/over.png").exists()
    assert f"over {lr}" in (tmp_path / "out/table/table.html").read_text().lower()
    refused(compare, "none of the methods sets", methods=methods, over="model.optimizer.momentum")
    listed = {"a": {"config": "fine.yaml", "options": {"model.x": [1]}}}
    refused(compare, "`over` is model.x, which is .* in method a", methods=listed, over="model.x")


def test_a_method_without_a_config_is_the_run_that_was_prepared(compare, tmp_path):
    methods = {"fine-tuning": {"paper": [[0.1, None, None]]}, "LwfSeg": {"config": "lwf.yaml"}}
    found = compare(methods=methods, prepare={"fine-tuning": {"config": "fine.yaml"}})
    assert begun(tmp_path) == {(method, seed): 1 for method in methods for seed in "01"}
    assert float(entry(found, "fine-tuning", "new")["mean"]) == pytest.approx(0.903)
    refused(compare, "method else has no `config`: only a run of `prepare`", methods={"else": {}})
    changed = {"fine-tuning": {"options": {"seed": 1}}}
    refused(compare, "has no options", methods=changed, prepare={"fine-tuning": {"config": "fine.yaml"}})


def test_training_time_is_counted_against_a_method(compare, tmp_path):
    columns = {"saved": {"measure": "time_saved", "against": "fine-tuning"}}
    found = compare(columns=columns)
    assert float(entry(found, "fine-tuning", "saved")["mean"]) == 0.0
    assert float(entry(found, "LwfSeg", "saved")["mean"]) == pytest.approx(75)
    refused(compare, "`time_saved` goes with `against`, a method", columns={"x": {"measure": "time_saved"}})
    refused(compare, "`against` is y, which", columns={"x": {"measure": "time_saved", "against": "y"}})


def test_columns_of_what_a_stream_costs_and_of_what_it_learnt(compare):
    costs = {name: {"measure": name} for name in ("seconds", "memory", "checkpoint", "plasticity")}
    found = compare(columns=costs)
    of = {(row["method"], row["column"]): float(row["mean"]) for row in found}
    assert of["fine-tuning", "seconds"] == 8.0  # of two experiences
    assert of["LwfSeg", "seconds"] == 2.0
    assert of["LwfSeg", "memory"] == 1.5  # what the last experience says: it has all that is kept
    assert of["LwfSeg", "checkpoint"] == 3.0
    new = [0.9 - 0.1 * abs(0.01 - 0.03) + 0.01 * seed for seed in (0, 1)]
    assert of["fine-tuning", "plasticity"] == pytest.approx((0.9 + sum(new) / 2) / 2)  # the first, as its file says


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_a_change_concerns_its_runs_only(compare, tmp_path):
    compare()
    assert set(begun(tmp_path).values()) == {1}
    compare("--seeds", "0", "1", "2")
    assert begun(tmp_path) == {(method, seed): 1 for method in ("fine-tuning", "LwfSeg") for seed in "012"}
    config = json.loads((tmp_path / "lwf.yaml").read_text())
    (tmp_path / "lwf.yaml").write_text(yaml.safe_dump(config) + "# a remark\n")
    compare()
    assert sum(begun(tmp_path).values()) == 6
    config["trainer"]["max_epochs"] = 3
    (tmp_path / "lwf.yaml").write_text(yaml.safe_dump(config))
    compare()
    assert begun(tmp_path)["LwfSeg", "0"] == begun(tmp_path)["LwfSeg", "1"] == 2
    assert sum(begun(tmp_path).values()) == 8


def test_no_workers_show_what_is_there(compare, tmp_path):
    found = compare("--workers=0")
    assert {line["mean"] for line in found} == {""}
    assert not (tmp_path / "log").exists()


def test_the_page_says_whose_scores_it_has(compare, tmp_path):
    compare()
    page = tmp_path / "out/table/table.html"
    assert "over the test patients" in page.read_text(encoding="utf-8")
    for path in (tmp_path / "out").rglob("run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "evaluated": "val"}))
    compare("--workers=0")
    assert "over the validation patients" in page.read_text(encoding="utf-8")
    assert "of each experience the validation volumes" in page.read_text(encoding="utf-8")


START = "{prepare.source}/experiences/0_ball/model.ckpt"


@pytest.mark.slow
def test_runs_that_others_start_from_are_made_first_and_shared(compare, tmp_path):
    started = {"config": "lwf.yaml", "options": {"stream.start": START}}
    prepare = {"source": {"config": "fine.yaml"}, "second": started}
    last = {"config": "lwf.yaml", "options": {"stream.start": START.replace("source", "second")}}
    other = {"prepare": {"source": {"trainer.max_epochs": 1}}}
    cases = {"A": {}, "B": {"options": {"data.batch_size": 2}}, "C": other}
    compare("--workers=3", methods={"a": started, "b": started, "c": last}, prepare=prepare, cases=cases)
    count = begun(tmp_path)  # a fit that finds its start unfinished fails
    assert count["source", "0"] == count["source", "1"] == 2  # one for cases A and B, one for C
    assert count["second", "0"] == 2
    assert count["a", "0"] == count["b", "0"] == count["c", "0"] == 3


def test_a_part_of_a_table_shares_its_runs_with_the_whole(compare, tmp_path):
    methods = {name: {"config": "fine.yaml"} for name in "abc"}
    methods["c"]["paper"] = [[0.1, 0.1], [0.2, 0.2]]
    table = {"methods": methods, "columns": {"old": {"experience": 0}, "new": {"experience": 1}}, "seeds": [0]}
    table["cases"] = {"first case": {}, "second": {"options": {"trainer.max_epochs": 3}}}
    found = compare("--cases", "second", "--methods", "c", **table)
    assert {(line["case"], line["method"]) for line in found} == {("second", "a"), ("second", "c")}  # a: the baseline
    assert entry(found, "c", "old", "second")["paper"] == "0.2"
    assert begun(tmp_path) == {("a", "0"): 1, ("c", "0"): 1}
    assert {line["method"] for line in compare(**table)} == {"a", "b", "c"}
    assert set(begun(tmp_path).values()) == {2}  # each once a case


def test_each_seed_is_a_fold_where_an_option_says_so(compare, tmp_path):
    options = {"trainer.callbacks": [{**LWF, "init_args": {**LWF["init_args"], "name": "fold {seed}"}}]}
    folds = {"config": "lwf.yaml", "options": {**options, "data.split.seed": "{seed}"}}
    compare(methods={"fine-tuning": {"config": "fine.yaml"}, "folds": folds}, seeds=[3, 4])
    for seed in (3, 4):
        (path,) = (tmp_path / "out/all/folds").glob(f"seed_{seed}-*/given.json")
        given = json.loads(path.read_text())
        assert given["data.split.seed"] == str(seed)
        assert f'"fold {seed}"' in given["trainer.callbacks"]


def test_one_source_for_all_seeds(compare, tmp_path):
    prepare = {"source": {"config": "fine.yaml", "options": {"seed_everything": 7}}}
    compare(methods={"a": {"config": "lwf.yaml", "options": {"stream.start": START}}}, prepare=prepare)
    assert begun(tmp_path) == {("source", "7"): 1, ("a", "0"): 1, ("a", "1"): 1}


@pytest.mark.slow
def test_a_case_may_set_options_of_one_method(compare, tmp_path):
    cases = {"A": {"options": {"data.batch_size": 2}, "methods": {"LwfSeg": {"data.batch_size": 3}}}, "B": {}}
    compare(cases=cases)
    given = {
        path.parts[-4:-2]: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/*/seed_0*/given.json")
    }
    sizes = {place: options.get("data.batch_size") for place, options in given.items()}
    assert sizes == {("A", "fine-tuning"): "2", ("A", "LwfSeg"): "3", ("B", "fine-tuning"): None, ("B", "LwfSeg"): None}


def test_options_that_name_classes_reach_the_runs_as_they_were_written(compare, tmp_path):
    rate = {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}
    experiences = [{"name": "ball", "classes": {"ball": 1}, "model": rate}, {"name": "box", "classes": {"box": 2}}]
    compare(methods={"a": {"config": "fine.yaml", "options": {"stream.experiences": experiences}}})
    given = json.loads(next((tmp_path / "out/all/a").glob("seed_0*/given.json")).read_text())
    assert json.loads(given["stream.experiences"]) == experiences


def test_failures_are_told_and_the_rest_is_shown(compare, tmp_path, capsys):
    methods = {"fine-tuning": {"config": "fine.yaml"}, "failing": {"config": "lwf.yaml"}}
    with pytest.raises(SystemExit, match="2 runs failed or were not begun; the same command tries them again"):
        compare(methods=methods)
    shown = capsys.readouterr().out
    assert shown.count("There is no such thing (all output: ") == 2
    assert "failing (0 of 2 seeds)" in " ".join(shown.split())
    assert entry(rows(tmp_path / "out/table/table.csv"), "fine-tuning", "old")["seeds"] == "2"


def refused(compare, said, **changed):
    with pytest.raises(ValueError, match=said):
        compare(**changed)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"print_config": ""}, r"all, fine-tuning, seed 0: --print_config= prints something in place of a fit"),
        ({"help": ""}, r"--help= prints something"),
        ({"ckpt_path": "x.ckpt"}, r"all, fine-tuning, seed 0: --ckpt_path is for an ordinary fit"),
        ({"trainer.fast_dev_run": True}, r"A stream under `trainer.fast_dev_run` would leave"),
    ],
)
def test_an_option_that_no_stream_takes_is_refused_before_anything_runs(compare, tmp_path, option, said):
    refused(compare, said, methods={"fine-tuning": {"config": "fine.yaml", "options": option}}, seeds=[0])
    assert not (tmp_path / "out").exists()


def test_names_of_methods_are_no_references(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {}")
    methods = {name: {"config": "a.yaml"} for name in ("{prepare.x}", "{seed}")}
    described = {"methods": methods, "columns": {"old": {"score": "dice", "experience": 0}}, "seeds": [5]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(described))
    table = RunTable(tmp_path / "table.yaml", read_layout(tmp_path / "table.yaml"), tmp_path / "out")
    assert [cell.arguments[-1] for cell in table.runs.values()] == [f"--stream.name={name}" for name in methods]


def test_sections_that_were_emptied_are_as_if_they_were_left_out(tmp_path):
    """`options:` with nothing behind it is what remains when its lines are taken out."""
    methods = "methods: {a: {config: a.yaml, options: , paper: }}\ncolumns: {old: {score: dice, experience: 0}}\n"
    (tmp_path / "table.yaml").write_text(methods)
    plain = read_layout(tmp_path / "table.yaml")
    names = ("cases", "prepare", "options", "seeds", "baseline", "name", "source", "spread", "curve", "over", "slurm")
    for name in names:
        (tmp_path / "table.yaml").write_text(f"{methods}{name}:\n")
        assert read_layout(tmp_path / "table.yaml") == plain
    (tmp_path / "table.yaml").write_text(f"{methods}cases: {{one: {{options: , methods: , prepare: }}}}\n")
    assert read_layout(tmp_path / "table.yaml").cases["one"].options == {}


DAMAGED = ["[]", "null", '"x"', "{}", '{"experiences": 3}', '{"experiences": [{"seconds": "x"}]}']


def test_a_damaged_run_is_told_and_begun_anew_or_not_by_fit(compare, tmp_path):
    compare("--launcher=print", seeds=[0, 1, 2])
    words = (tmp_path / "out/commands/stage_01.txt").read_text().split()
    folders = {Path(word) for word in words if word.startswith(str(tmp_path / "out/all"))}
    for folder, said in zip(sorted(folders), DAMAGED, strict=True):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(said)
    compare(seeds=[0, 1, 2])
    assert begun(tmp_path) == {(name, seed): 1 for name in ("fine-tuning", "LwfSeg") for seed in "012"}


def test_a_case_is_in_the_folder_of_the_table_whatever_it_is_called(compare, tmp_path):
    compare("--launcher=print", cases={name: {} for name in ("..", ".", "", "x" * 300)}, seeds=[0])
    words = (tmp_path / "out/commands/stage_01.txt").read_text().split()
    folders = {Path(word) for word in words if word.startswith(str(tmp_path / "out"))}
    assert len(folders) == 4  # one that three names share, and that of the long one, for each method
    for folder in folders:
        assert folder.relative_to(tmp_path / "out").parts[-3] not in ("..", "out")
        folder.mkdir(parents=True, exist_ok=True)
        assert folder.resolve().parents[2] == tmp_path / "out"


@pytest.mark.parametrize("output", ["file", "commands", "mine"])
def test_commands_fall_on_nothing_of_others(compare, tmp_path, output):
    mine = {"file": tmp_path / "out", "commands": tmp_path / "out/commands", "mine": tmp_path / "out/commands/mine.txt"}
    mine[output].parent.mkdir(parents=True, exist_ok=True)
    mine[output].write_text("mine")
    with pytest.raises(ValueError, match=r"is a file, and --output needs a folder|is there already, and of no table"):
        compare("--launcher=print")
    assert mine[output].read_text() == "mine"


def test_many_workers_take_no_memory(compare):
    assert len(compare("--workers=1024", seeds=[0])) == 6
    with pytest.raises(ValueError, match="`workers` must be at most 1024, got 10000000000"):
        compare("--workers=10000000000", seeds=[0])


def test_what_cannot_run_is_refused_before_anything_does(compare, tmp_path):
    fine = {"config": "fine.yaml"}
    refused(compare, "table.yaml: Option 'methud' is not accepted", methud=1)
    refused(compare, "table.yaml, `methods`, a: Option 'confg' is not accepted", methods={"a": {"confg": "x"}})
    refused(compare, "method a has no `config`: only a run of `prepare`", methods={"a": {}})
    refused(compare, "`prepare`, a: .*arguments are required: config", prepare={"a": {}})
    refused(compare, "`columns`, x: A column has either an `experience` or a `measure`", columns={"x": {}})
    refused(compare, "`methods` is empty", methods={})
    refused(compare, "`seeds` has one twice", seeds=[0, 0])
    for part in ("cases", "methods"):
        with pytest.raises(ValueError, match=f"table.yaml has no nothing among its `{part}`: "):
            compare(f"--{part}", "nothing")
    refused(compare, r"`seeds` are \[0, -1\], and a seed is from 0 to 4294967295", seeds=[0, -1])
    for option in ("--workers=-1", "--gpus=-1"):
        for launcher in ("local", "slurm", "print"):
            with pytest.raises(ValueError, match=rf"`{option[2:-3]}` must be 0 or more, got -1"):
                compare(option, f"--launcher={launcher}")
    for name, value in {"hours": float("nan"), "gpus": -1, "requeues": -1, "partition": "a\n#SBATCH --x"}.items():
        refused(
            compare, f"`slurm`: .*{name}.* -1|`hours` must be above 0|line break in 'partition'", slurm={name: value}
        )
    refused(
        compare,
        "method a sets `trainer.default_root_dir`, which the table does",
        methods={"a": {**fine, "options": {"trainer.default_root_dir": "elsewhere"}}},
    )
    refused(compare, "`baseline` is b, which is none of the methods a", methods={"a": fine}, baseline="b")
    refused(compare, "method a sets `seed_everything`", methods={"a": {**fine, "options": {"seed_everything": 1}}})
    refused(compare, "`options` sets `seed_everything`, which", options={"seed_everything": 1})
    refused(compare, "`paper` of method a needs 1 lists, one a case, of 3", methods={"a": {**fine, "paper": [[1.0]]}})
    refused(compare, "case A has options for `prepare` x, which", cases={"A": {"prepare": {"x": {}}}})
    refused(compare, "case A has options for `methods` x, which", cases={"A": {"methods": {"x": {}}}})
    refused(compare, "There is no file .*nowhere.yaml", methods={"a": {"config": "nowhere.yaml"}})
    start = {**fine, "options": {"stream.start": "{prepare.x}/model.ckpt"}}
    refused(compare, r"all a starts from \{prepare.x\}, but `prepare` has nothing before it", methods={"a": start})
    refused(compare, r"prepare x starts from \{prepare.x\}", methods={"a": start}, prepare={"x": start})
    wrong = {**fine, "options": {"trainer.max_epohcs": 1}}
    refused(compare, "all, a, seed 0: unrecognized arguments: --trainer.max_epohcs=1. Did you", methods={"a": wrong})
    refused(compare, "column x: the score is dcie, and .* has dice", columns={"x": {"score": "dcie", "measure": "acc"}})
    refused(compare, "column x: the experience is 2, and .* has 2", columns={"x": {"experience": 2}})
    misspelt = {"x": {"experience": "bal"}}
    refused(compare, "column x: the experience is bal, and the runs have ball, box", columns=misspelt)
    none = {**fine, "options": {"stream.experiences": []}}
    refused(compare, "the config has no `stream.experiences`", methods={"a": none})
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "out").exists()


SHIPPED = sorted((Path(__file__).parents[2] / "configs/tables").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_tables_are_short_and_their_options_known(file, tmp_path):
    assert len(file.read_text().splitlines()) <= 90  # of several configs
    main(["compare", "--config", str(file), "--workers=0", f"--output={tmp_path}"])
    table = RunTable(file, read_layout(file), tmp_path)
    assert len(table.runs) == len(table.layout.cases) * len(table.layout.methods) * len(table.layout.seeds)


class BegunError(Exception):
    """A run has been rehearsed, and its folder is begun."""


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_each_method_and_each_case_of_shipped_tables_can_begin(file, tmp_path, monkeypatch):
    def begin(*_, **__):
        raise BegunError

    monkeypatch.setattr(RunFolder, "start", begin)
    table = RunTable(file, read_layout(file), tmp_path)
    of_method, of_case = ({key[k]: cell for key, cell in table.runs.items()} for k in (1, 0))
    chosen = [*of_method.values(), *of_case.values()]
    chosen += [table.cells[folder] for cell in chosen for folder in cell.after]
    for cell in {cell.folder: cell for cell in chosen if not cell.after}.values():  # else a checkpoint is not there yet
        if "${LIT_CONTINUAL_DATA}" in cell_text(cell) and "LIT_CONTINUAL_DATA" not in os.environ:
            pytest.skip("needs real data in LIT_CONTINUAL_DATA")
        with pytest.raises(BegunError):
            main(["fit", *cell.arguments, f"--trainer.default_root_dir={cell.folder}"])


def cell_text(cell):
    """The arguments of a run, and what its configs say."""
    configs = [argument.removeprefix("--config=") for argument in cell.arguments if argument.startswith("--config=")]
    return " ".join([*cell.arguments, *(Path(config).read_text() for config in configs)])


@pytest.mark.slow
def test_a_real_table_ends_with_a_page_and_pictures(stream, tmp_path):
    stream(name="fine")
    stream(LWF, name="lwf")
    options = {"trainer.max_epochs": 1, "data.split.fractions": [0.5, 0.0, 0.5]}
    box = [{"name": "box", "classes": {"box": 2}, "data": {"split": {"part": [1, 2]}}}]
    described = {
        "options": options,
        "seeds": [0],
        "prepare": {"source": {"config": "fine.yaml"}},
        "methods": {
            "fine-tuning": {"config": "fine.yaml"},
            "from source": {"config": "lwf.yaml", "options": {"stream.start": START, "stream.experiences": box}},
        },
        "columns": {
            "old": {"experience": "ball"},
            "new": {"experience": "box"},
            "ASSD": {"experience": "box", "score": "assd"},
        },
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    command = ["compare", "--config", str(tmp_path / "table.yaml"), "--output", str(tmp_path / "out"), "--workers=2"]
    main(command)
    found = rows(tmp_path / "out/table/table.csv")
    assert float(entry(found, "fine-tuning", "old")["mean"]) >= 0
    assert entry(found, "from source", "old")["mean"] == ""
    assert float(entry(found, "from source", "new")["mean"]) >= 0
    assert (tmp_path / "out/table/overlays_1.png").exists()
    (run,) = (tmp_path / "out/all/fine-tuning").iterdir()
    shutil.rmtree(run)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.ckpt")}
    main(command)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run.exists()
