"""A table for the terminal, and as CSV, LaTeX and an HTML page with pictures."""

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.comparison import Comparison, Entry, Line, runs_of
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

    These are ``overlays_<number>.png`` and ``curve_<number>.png`` of each setting, and ``over.png``, as far as there is
    something to draw. Return the page.

    Raises:
        OSError: If they cannot be written; the folder is then as it was.
    """
    with renewed(folder) as aside:
        figures = {"over": over_option_figure(found.over.rpartition(".")[2], found.drawn)}
        for number, lines in enumerate(found.settings.values(), start=1):
            figures[f"overlays_{number}"] = side_by_side_figure(lines, found.baseline)
            figures[f"curve_{number}"] = training_figure(lines, found.curve) if found.curve else None
        pictures = {name: png(figure) for name, figure in figures.items() if figure is not None}
        for name, content in pictures.items():
            (aside / f"{name}.png").write_bytes(content)
        columns = ["case", "method", "column", "mean", "std", "seeds", "paper", "difference", "p", "patients"]
        write_rows(aside / "table.csv", columns, _entries(found))
        write_rows(aside / "runs.csv", ["case", "method", "seed", *found.columns, "folder"], _runs(found))
        (aside / "table.tex").write_text(_latex(found), "utf-8")
        shown = {name: picture(content) for name, content in pictures.items()}
        split = {run.evaluated for lines in found.settings.values() for run in runs_of(lines)}
        parts = {"runs": [*_runs(found)], "legend": _legend(found), "streams": _streams, "pictures": shown}
        parts["split"] = "validation" if split == {"val"} else "test"
        text = render("comparison.html.j2", found=found, **parts)
        (aside / "table.html").write_text(text, "utf-8")
    return folder / "table.html"


def comparison_table(found: Comparison) -> RenderableType:
    """What ``rich`` prints: a table a setting, with the paper's numbers below ours."""
    parts: list[RenderableType] = []
    for setting, lines in found.settings.items():
        shown = Table(title=Text(setting, style="bold"), title_justify="left", header_style="dim")
        labels = [Text(found.label(line)) for line in lines]
        rows = [[_with_paper(entry, score) for entry, score in found.scored(line)] for line in lines]
        shown.add_column("method", overflow="fold", min_width=_longest(labels))
        for heading, column in zip(found.columns, zip(*rows, strict=True), strict=True):
            shown.add_column(Text(heading), justify="right", overflow="fold", min_width=_longest(column))
        for label, row in zip(labels, rows, strict=True):
            shown.add_row(label, *row)
        parts.append(shown)
    return Group(*parts, Text(_legend(found), style="dim"))


def _longest(cells: Iterable[Text]) -> int:
    """The longest word, so that no number loses its end on a narrow terminal."""
    return max((len(word) for cell in cells for word in cell.plain.split()), default=0)


def _with_paper(entry: Entry, score: Score) -> Text:
    text = Text(entry.text(score))
    return text.append(f"\npaper {score.text(entry.paper)}", style="dim") if isfinite(entry.paper) else text


def _streams(lines: Sequence[Line]) -> Iterable[str]:
    return dict.fromkeys(" → ".join(e.name for e in run.experiences) for run in runs_of(lines))


def _legend(found: Comparison) -> str:
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    over = seeds if found.spread == "seeds" else f"patients, each averaged over {seeds}"
    parts = [f"Mean ± standard deviation (n - 1) over {over}"]
    if any(entry.differs for lines in found.settings.values() for line in lines for entry in line.entries):
        parts.append(f"* differs from {found.baseline} (Wilcoxon over patients, p < 0.05, not corrected)")
    if found.source:
        parts.append(f"below: {found.source}")
    return "; ".join(parts) + "."


def _entries(found: Comparison) -> Iterable[Sequence[Any]]:
    for setting, lines in found.settings.items():
        for line in lines:
            for heading, e in zip(found.columns, line.entries, strict=True):
                test = [e.test.difference, e.test.p_value, e.test.cases] if e.test else [None] * 3
                yield [setting, line.method, heading, e.mean, e.std, e.seeds, e.paper, *test]


def _runs(found: Comparison) -> Iterable[Sequence[Any]]:
    for setting, lines in found.settings.items():
        for line in lines:
            for run in line.runs:
                values = [column.value(run, runs_of(lines)) for column in found.columns.values()]
                yield [setting, line.method, run.seed, *values, str(run.folder)]


def _latex(found: Comparison) -> str:
    parts = ["% Needs \\usepackage{booktabs}."]
    for setting, lines in found.settings.items():
        body = []
        for line in lines:
            body.append([found.label(line), *(entry.text(score) for entry, score in found.scored(line))])
            if any(isfinite(entry.paper) for entry in line.entries):
                body.append(["  (paper)", *(score.text(entry.paper) for entry, score in found.scored(line))])
        parts.append(tabular(f"{found.name}, {setting}. {_legend(found)}", ["", *found.columns], body))
    return "\n\n".join(parts) + "\n"
