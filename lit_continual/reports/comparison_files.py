"""A table for the terminal, and as CSV, LaTeX and an HTML page with pictures."""

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.comparison import Comparison, Entry, Line
from lit_continual.reports.html import picture, render
from lit_continual.reports.latex import tabular
from lit_continual.reports.logged import training_figure
from lit_continual.reports.over_option import over_option_figure
from lit_continual.reports.report import png, renewed
from lit_continual.reports.side_by_side import side_by_side_figure
from lit_continual.reports.tables import write_rows
from lit_continual.runs.score import Score


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Write ``table.html``, ``table.csv``, ``runs.csv``, ``table.tex``, and the pictures as PNG.

    These are ``overlays_<case>.png``, ``curve_<case>.png`` and ``over.png``, as far as there is something to draw.

    Returns:
        Path of the page.

    Raises:
        OSError: If they cannot be written; the folder is then as it was.
    """
    with renewed(folder) as aside:
        pictures: dict[tuple[str, str], bytes] = {}
        for number, (case, lines) in enumerate(found.cases.items(), start=1):
            figures = {
                "overlays": side_by_side_figure(lines, found.baseline),
                "curve": training_figure(lines, found.curve) if found.curve else None,
            }
            for kind, figure in figures.items():
                if figure is not None:
                    pictures[case, kind] = png(figure)
                    (aside / f"{kind}_{number}.png").write_bytes(pictures[case, kind])
        over = over_option_figure(found.over.rpartition(".")[2], found.drawn)
        if over is not None:
            pictures["", "over"] = png(over)
            (aside / "over.png").write_bytes(pictures["", "over"])
        columns = ["case", "method", "column", "mean", "std", "seeds", "paper", "difference", "p", "patients"]
        write_rows(aside / "table.csv", columns, _entries(found))
        write_rows(aside / "runs.csv", ["case", "method", "seed", *found.columns, "folder"], _runs(found))
        (aside / "table.tex").write_text(_latex(found), "utf-8")
        (aside / "table.html").write_text(_page(found, pictures), "utf-8")
    return folder / "table.html"


def comparison_table(found: Comparison) -> RenderableType:
    """What ``rich`` prints: a table a case, with the paper's numbers below ours."""
    parts: list[RenderableType] = []
    for case, lines in found.cases.items():
        shown = Table("method", title=Text(case, style="bold"), title_justify="left", header_style="dim")
        for heading in found.columns:
            shown.add_column(Text(heading), justify="right")
        for line in lines:
            shown.add_row(Text(_label(line, found)), *(_cell(e, s) for e, s in _scored(line, found)))
        parts.append(shown)
    return Group(*parts, Text(_legend(found), style="dim"))


def _scored(line: Line, found: Comparison) -> list[tuple[Entry, Score]]:
    return [(entry, found.score(heading)) for entry, heading in zip(line.entries, found.columns, strict=True)]


def _number(entry: Entry, score: Score) -> str:
    return score.text(entry.mean, entry.std) + ("*" if entry.differs else "")


def _cell(entry: Entry, score: Score) -> Text:
    text = Text(_number(entry, score))
    return text.append(f"\n{score.text(entry.paper)}", style="dim") if isfinite(entry.paper) else text


def _label(line: Line, found: Comparison) -> str:
    missing = found.seeds - len(line.runs)
    return f"{line.method} ({len(line.runs)} of {found.seeds} seeds)" if missing else line.method


def _legend(found: Comparison) -> str:
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    over = seeds if found.spread == "seeds" else f"patients, each averaged over {seeds}"
    parts = [f"Mean ± standard deviation (n - 1) over {over}"]
    if any(entry.differs for lines in found.cases.values() for line in lines for entry in line.entries):
        parts.append(f"* differs from {found.baseline} (Wilcoxon over patients, p < 0.05, not corrected)")
    if found.source:
        parts.append(f"below: {found.source}")
    return "; ".join(parts) + "."


def _entries(found: Comparison) -> Iterable[Sequence[Any]]:
    for case, lines in found.cases.items():
        for line in lines:
            for heading, e in zip(found.columns, line.entries, strict=True):
                test = [e.test.difference, e.test.p_value, e.test.cases] if e.test else [None] * 3
                yield [case, line.method, heading, e.mean, e.std, e.seeds, e.paper, *test]


def _runs(found: Comparison) -> Iterable[Sequence[Any]]:
    for case, lines in found.cases.items():
        everyone = [run for line in lines for run in line.runs]
        for line in lines:
            for run in line.runs:
                values = [column.value(run, everyone) for column in found.columns.values()]
                yield [case, line.method, run.seed, *values, str(run.folder)]


def _latex(found: Comparison) -> str:
    parts = ["% Needs \\usepackage{booktabs}."]
    for case, lines in found.cases.items():
        body = []
        for line in lines:
            body.append([_label(line, found), *(_number(e, s) for e, s in _scored(line, found))])
            if any(isfinite(entry.paper) for entry in line.entries):
                body.append(["  (paper)", *(s.text(e.paper) for e, s in _scored(line, found))])
        parts.append(tabular(f"{found.name}, {case}. {_legend(found)}", ["", *found.columns], body))
    return "\n\n".join(parts) + "\n"


def _page(found: Comparison, pictures: dict[tuple[str, str], bytes]) -> str:
    cases = [_case(case, found, pictures) for case in found.cases]
    runs = [[*line[:3], line[-1]] for line in _runs(found)]
    over = picture(pictures["", "over"]) if ("", "over") in pictures else None
    return render("comparison.html.j2", found=found, cases=cases, runs=runs, legend=_legend(found), over=over)


def _case(case: str, found: Comparison, pictures: dict[tuple[str, str], bytes]) -> dict[str, Any]:
    lines = found.cases[case]
    streams = [" → ".join(e.name for e in run.experiences) for line in lines for run in line.runs]
    rows = [
        {
            "label": _label(line, found),
            "baseline": line.method == found.baseline,
            "cells": [_html_cell(entry, score) for entry, score in _scored(line, found)],
        }
        for line in lines
    ]
    shown = {kind: picture(png) for (of, kind), png in pictures.items() if of == case}
    none = {"overlays": None, "curve": None}
    return {"name": case, "rows": rows, "streams": list(dict.fromkeys(streams)), **none, **shown}


def _html_cell(entry: Entry, score: Score) -> dict[str, Any]:
    test = entry.test
    return {
        "text": _number(entry, score),
        "paper": score.text(entry.paper) if isfinite(entry.paper) else "",
        "test": f"{score.text(test.difference, signed=True)}, p {test.p_value:.2g}" if test else "",
        "patients": f"{test.cases} patients" + f", {test.left_out} left out" * bool(test.left_out) if test else "",
    }
