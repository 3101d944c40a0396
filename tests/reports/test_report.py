import csv
import html
import inspect
import io
import json
import os
import re
import socket
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lit_continual.cli.print_report import print_report
from lit_continual.files.whole_files import remedy
from lit_continual.reports import matrix_table, report, write_report
from lit_continual.reports.comparison import Column, Line
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.overlays import caption, overlays_figure, scored, slice_name
from lit_continual.reports.side_by_side import side_by_side_figure
from lit_continual.runs.case_scores import CaseScores
from lit_continual.runs.run import Run
from tests.marks import slow_but
from tests.processes import no_report

DICE = [[0.9512, None], [0.4134, 0.8464]]
MM = [[1.25, None], [7.5, 2.75]]
MATRIX = {"dice": DICE, "assd": MM, "hd95": [[4 * (v or 0) or None for v in row] for row in MM]}
FILES = {
    *(f"{kind}_{score}.png" for kind in ("matrix", "forgetting") for score in MATRIX),
    *(f"matrix_{score}.csv" for score in MATRIX),
    *("report.html", "report.json", "scores.csv", "classes.csv", "tables.tex", "overlays.png"),
}


@pytest.fixture(scope="module")
def plain_text():
    return lambda page: " ".join(html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|wbr).*?>", "", page))).split())


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def page(make_runs):
    return write_report([make_runs(matrix=MATRIX)])


def test_page_csv_json_latex_and_png_tell_the_same_numbers(page, plain_text):
    folder = page.parent
    assert (page.name, folder.name, folder.parent.name) == ("report.html", "report", "run")
    assert {file.name for file in folder.iterdir()} == FILES

    text = plain_text(page.read_text("utf-8"))
    assert "humerus 0.951 — scapula 0.413 0.846" in text  # the heat map
    assert "0.630 +0.538 \N{MINUS SIGN}0.538 — 0.951 → 0.413 0.846 → 0.846" in text  # the headline
    assert "5.12 +6.25 \N{MINUS SIGN}6.25 — 1.25 → 7.50" in text

    assert read(folder / "matrix_dice.csv") == [
        {"run": "lwfseg", "seed": "0", "after": "humerus", "humerus": "0.9512", "scapula": ""},
        {"run": "lwfseg", "seed": "0", "after": "scapula", "humerus": "0.4134", "scapula": "0.8464"},
    ]
    scores = {(row["score"], row["measure"]): row["value"] for row in read(folder / "scores.csv")}
    assert float(scores["dice", "acc"]) == pytest.approx((0.4134 + 0.8464) / 2)
    assert float(scores["assd", "bwt"]) == pytest.approx(-6.25)
    assert scores["dice", "intransigence"] == ""
    assert float(scores["dice", "last humerus"]) == 0.4134

    content = json.loads((folder / "report.json").read_text("utf-8"))
    assert content["runs"][0]["matrix"]["dice"] == DICE
    assert content["comparison"]["dice"][0]["values"]["forgetting"] == pytest.approx(0.9512 - 0.4134)

    tables = (folder / "tables.tex").read_text("utf-8")
    assert r"after scapula & 0.413 & 0.846 \\" in tables
    assert r"lwfseg & 0.630 & 0.538 & $-$0.538 & 0.951 & 0.413 & 0.846 & 0.846 \\" in tables
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 4


def test_page_asks_for_no_other_file(page):
    page = page.read_text("utf-8")
    sources = re.findall(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?([^"'\s>)]+)""", page)
    assert len(sources) == 4  # three curves and the overlays
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "://" not in page


def test_special_characters_stand_as_text(make_run, plain_text):
    names = (("50% <b>$x$</b> & y_1", ("a<b",)), ("{c}~^\\", ("$c$",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = write_report([make_run(name="<i>run</i>_&", experiences=names)]).parent
    page, tables = (folder / "report.html").read_text("utf-8"), (folder / "tables.tex").read_text("utf-8")
    assert "<b>$x$" not in page
    assert "<i>run" not in page
    assert "<unet>" not in page
    assert "&lt;unet&gt; &amp; friends" in page
    assert "50% <b>$x$</b> & y_1 → {c}~^\\" in plain_text(page)
    assert r"50\% <b>\$x\$</b> \& y\_1" in tables
    assert r"\{c\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in tables


@pytest.mark.parametrize("steps", [0, 1])
def test_an_unfinished_run_is_reported_as_far_as_it_came(make_run, plain_text, steps):
    page = write_report([make_run(steps=steps)])
    assert f"is not finished: {steps} of 2 experiences" in plain_text(page.read_text("utf-8"))
    rows = read(page.parent / "matrix_dice.csv")
    assert [bool(row["humerus"]) for row in rows] == [steps > 0, False]


def test_several_runs_stand_side_by_side(make_run, plain_text):
    runs = [make_run(f"lwf{seed}", seed=seed) for seed in range(2)]
    runs += [make_run(mode, name=mode, mode=mode, overlays=False) for mode in ("joint", "single")]
    page = write_report([*runs, runs[0]])
    assert page.parent == runs[0].parent / "report"
    text = plain_text(page.read_text("utf-8"))
    assert "lwfseg, mean of 2 seeds" in text
    assert "the reference is joint." in text
    assert {"overlays_1.png", "overlays_2.png"} == {file.name for file in page.parent.glob("overlays*")}
    assert len(read(page.parent / "matrix_dice.csv")) == 8
    values = {(r["run"], r["measure"]): r["value"] for r in read(page.parent / "scores.csv") if r["score"] == "dice"}
    for seed in range(2):
        assert float(values[f"lwfseg, seed {seed}", "intransigence"]) == pytest.approx(
            np.mean(
                [
                    float(values["joint", f"last {e}"]) - float(values[f"lwfseg, seed {seed}", f"first {e}"])
                    for e in ("humerus", "scapula")
                ]
            )
        )


def test_a_run_that_is_named_twice_stands_once(make_run, capsys):
    run = make_run()
    print_report(run, run.parent / "." / run.name, run / ".." / run.name)
    assert capsys.readouterr().out.count("ACC") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_failure_leaves_the_old_report(make_run, monkeypatch):
    run = make_run(overlays=False)
    page = run / "report" / "report.html"
    page.parent.mkdir()
    page.write_text("the last report")
    seen = []

    def full(runs, folder):
        seen.extend(file.name for file in folder.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_latex", full)
    with pytest.raises(OSError, match=r"`.*report` \(No space left on device\); make room or name another folder"):
        write_report([run])
    assert "scores.csv" in seen  # it failed half-way
    assert [(file.name, file.read_text()) for file in page.parent.iterdir()] == [("report.html", "the last report")]
    assert [file.name for file in run.iterdir() if "report" in file.name] == ["report"]


def test_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="`runs` is empty; give at least one run folder"):
        write_report([])
    with pytest.raises(ValueError, match="`runs` is empty; give at least one run folder"):
        matrix_table([])
    with pytest.raises(ValueError, match="is not a run folder"):
        write_report([tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_terminal_shows_matrices_and_what_follows(make_run):
    runs = [make_run(matrix=MATRIX), make_run("other", name="other", steps=1)]
    console = Console(file=io.StringIO(), width=120)
    console.print(matrix_table(runs))
    shown = console.file.getvalue()
    assert re.search(r"scapula\s*│\s*0.413\s*│\s*0.846", shown)
    assert "ACC 0.630   BWT \N{MINUS SIGN}0.538   forgetting +0.538" in shown
    assert "running, 1 of 2 experiences" in shown
    assert "lwfseg: Dice" in shown.splitlines()[0]
    assert "other: Dice" in shown.splitlines()[0]


def test_overlay_is_drawn_in_millimetres(make_run):
    overlay = Overlay.load(make_run() / "overlays" / "1_1.npz")
    assert overlay.image.shape == (60, 110)
    assert overlay.size == (180.0, 110.0)


@pytest.mark.parametrize("content", [b"not a zip", b""])
def test_a_damaged_overlay_is_named(make_run, content):
    run = make_run()
    (run / "overlays" / "0_0.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"`.*0_0.npz` cannot be read .*; delete it, and the report leaves it out"):
        overlays_figure(Run.load(run))


def test_an_overlay_whose_shapes_disagree_is_named(make_run):
    path = make_run() / "overlays" / "0_0.npz"
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{**content, "truth": content["truth"][:, :-1]})
    with pytest.raises(ValueError, match=r"truth \(1, 95, 96\).* do not fit; delete it"):
        Overlay.load(path)


def test_structures_that_are_absent_or_fill_the_slice_are_drawn(make_run):
    run = make_run()
    path = run / "overlays" / "1_0.npz"
    with np.load(path) as stored:
        content = dict(stored)
    image = np.full_like(content["image"], np.nan)
    np.savez(path, **{**content, "image": image, "truth": content["truth"] * 0, "prediction": content["truth"] * 0 + 1})
    overlays_figure(Run.load(run)).savefig(io.BytesIO())


def test_tables_show_the_volumes_on_which_the_baseline_is_best_and_worst(make_run):
    run = Run.load(make_run(matrix={"dice": [[0.9, None], [0.5, 0.8]]}))
    path = run.folder / "overlays" / "1_0.npz"
    with np.load(path) as stored:
        first = dict(stored)
    patients = sorted({case.patient for case in run.cases if (case.after, case.on) == (1, 0)})
    slices = [{**first, "patient": np.array(patient)} for patient in patients]
    np.savez(path, **{k + (f"_{n}" if n else ""): v for n, s in enumerate(slices) for k, v in s.items()})
    dice = {case.patient: case.values["dice"] for case in run.cases if (case.after, case.on) == (1, 0)}
    figure = side_by_side_figure([Line("fine-tuning", (run,), ()), Line("other", (run,), ())], "fine-tuning")
    assert {"humerus, best", "humerus, worst", "scapula"} <= {text.get_text() for text in figure.texts}
    shown = [axes.get_xlabel() for axes in figure.axes[::3]]  # the image that stands at the left of each row
    assert [words.partition(",")[0] for words in shown[:2]] == [max(dice, key=dice.get), min(dice, key=dice.get)]


def test_two_volumes_of_one_patient_both_count(make_run):
    run = Run.load(make_run(matrix={"dice": [[0.9, None], [0.5, 0.8]]}))
    twins = [("knee", 0.9), ("hip", 0.3)]
    cases = [CaseScores(1, 0, "p", "humerus", {"dice": dice, "hd95": 1.0}, volume) for volume, dice in twins]
    run = replace(run, cases=tuple(cases))
    column = Column("dice", "humerus", label="humerus")
    assert column.value(run, []) == pytest.approx(0.6)
    assert column.patients([run]) == {"p": pytest.approx(0.6)}
    path = run.folder / "overlays" / "1_0.npz"
    with np.load(path) as stored:
        first = {**stored, "patient": np.array("p")}
    slices = [{**first, "volume": np.array(volume)} for volume, _ in twins]
    np.savez(path, **{k + (f"_{n}" if n else ""): v for n, s in enumerate(slices) for k, v in s.items()})
    overlays = Overlay.load_all(path)
    assert [scored(run, 1, 0, overlay) for overlay in overlays] == ["Dice 0.900", "Dice 0.300"]
    figure = side_by_side_figure([Line("fine-tuning", (run,), ())], "fine-tuning")
    assert {"humerus, best", "humerus, worst"} <= {text.get_text() for text in figure.texts}


def test_images_that_methods_made_are_shown_close_to_the_region_in_shades_around_it(make_runs):
    runs = [Run.load(make_runs(name=name)) for name in ("a", "b")]
    truth = np.zeros((1, 60, 40), bool)
    truth[:, 20:30, 2:10] = True
    for run, value in zip(runs, (10.0, 11.0), strict=True):
        for path in (run.folder / "overlays").glob("*.npz"):
            with np.load(path) as stored:
                content = dict(stored)
            image = np.where(truth[0], value, 1.0)
            shapes = {"image": image, "truth": truth, "prediction": truth * False, "classes": np.array(["bladder"])}
            np.savez(path, **{**content, **shapes, "spacing": np.array([5.0, 10.0])})
    figure = side_by_side_figure([Line("v1-net", (runs[0],), ()), Line("v2-net", (runs[1],), ())], "v1-net")
    assert [text.get_text() for text in figure.legends[0].texts] == ["region"]
    for first, second in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        for axes, value in ((first, 10.0), (second, 11.0)):
            (shown,) = axes.images
            assert shown.get_clim() == pytest.approx((7.5, 12.5))  # of the first, for all
            assert shown.get_array().shape == (22, 14)  # 30 mm; half of it, as far as there is an image
            assert shown.get_array().max() == value


def test_a_long_name_gives_way_to_the_number_of_the_slice(make_run):
    run = Run.load(make_run())
    overlay = replace(Overlay.load_all(run.overlay(0, 0))[0], patient="shoulder-00000008", slice=14)
    assert slice_name(overlay, 28) == "shoulder-00000008, slice 14"
    assert slice_name(overlay, 20) == "shoul…0008, slice 14"
    assert caption(run, 0, 0, replace(overlay, patient="x" * 40)) == "xxxxxxxxx…xxxxxxxx, slice 14"


def test_what_stands_in_for_the_report_in_other_tests_takes_what_it_takes():
    assert list(inspect.signature(no_report).parameters) == list(inspect.signature(write_report).parameters)


@pytest.mark.usefixtures("undrawn")
def test_what_killed_reports_left_is_removed_and_nothing_else(make_run, tmp_path):
    run = make_run(overlays=False)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = socket.gethostname()
    names = {f".report-{process.pid}-{host}-abc_12": False, f".report-{os.getpid()}-{host}-abc_12": True}
    names |= {f".report-{process.pid}-another-abc_12": True, ".report-of-mine": True, ".reports": True}
    for name in names:
        (run / name).mkdir()
    write_report([run])
    assert {name: (run / name).exists() for name in names} == names


@pytest.mark.usefixtures("undrawn")
def test_a_report_falls_on_nothing_that_is_no_report(make_run, tmp_path):
    run, folder = make_run(overlays=False), tmp_path / "mine"
    folder.mkdir()
    (folder / "scores.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"scores.csv is there already and of no report"):
        write_report([run], folder)
    assert [path.name for path in folder.iterdir()] == ["scores.csv"]
    (folder / "scores.csv").unlink()
    write_report([run], folder)
    write_report([run], folder)
    with pytest.raises(ValueError, match=r"scores.csv is a file, and --output needs a folder"):
        write_report([run], folder / "scores.csv")


@pytest.mark.parametrize(
    ("number", "words"),
    slow_but(
        [(28, "make room"), (13, "get the permission"), (30, "may be written"), (5, "check the disk")],
        (28, "make room"),
        (13, "get the permission"),
    ),
)
@pytest.mark.usefixtures("undrawn")
def test_what_keeps_a_report_from_being_written_has_its_remedy(make_run, tmp_path, monkeypatch, number, words):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    run = make_run(overlays=False)
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match=rf"cannot be written.*{os.strerror(number)}.*{words}") as caught:
        write_report([run])
    assert remedy(caught.value) == ""  # the command line adds none


def test_a_link_for_a_config_takes_no_text_of_this_machine_along(make_run, tmp_path):
    run = make_run(overlays=False)
    (tmp_path / "secret").write_text("s3cr3t")
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(
        ValueError, match=r"config.yaml` cannot be read \(it is a symbolic link\); remove it or restore"
    ):
        write_report([run])
    assert not (run / "report").exists()


@pytest.mark.parametrize("number", [1e308, -1e308, 10.0**31])
def test_numbers_that_no_score_reaches_are_undefined_or_refused(make_run, number):
    run = make_run(matrix={"dice": [[number, None], [-number, 0.5]]}, overlays=False, patients=0)
    np.testing.assert_array_equal(Run.load(run).matrix["dice"], [[np.nan, np.nan], [np.nan, 0.5]])
    described = json.loads((run / "run.json").read_text())
    for baseline in (number, 10**400):
        described["scores"]["dice"]["baseline"] = baseline
        (run / "run.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=r"run.json` cannot be read \(it holds the number -?1[e0]"):
            Run.load(run)


@pytest.mark.parametrize("name", ["report.html", "scores.csv", "tables.tex"])
def test_a_folder_in_the_place_of_a_file_leaves_the_report_as_it_was(make_run, name):
    run = make_run(overlays=False)
    (run / "report").mkdir()
    (run / "report/report.html").write_text("of an earlier report")
    (run / "report" / name).unlink(missing_ok=True)
    (run / "report" / name).mkdir()
    before = sorted((run / "report").iterdir())
    with pytest.raises(ValueError, match=f"{name} is there already and of no report"):
        write_report([run])
    assert sorted((run / "report").iterdir()) == before


def test_pictures_of_many_experiences_are_left_out_as_they_would_take_minutes(make_run, monkeypatch):
    run = make_run(overlays=False)
    monkeypatch.setattr("lit_continual.reports.report.DRAWN", 1)
    found = write_report([run])
    assert not list(found.parent.glob("*.png"))
    assert "experiences are not drawn" in found.read_text("utf-8")
    assert (found.parent / "matrix_dice.csv").is_file()
