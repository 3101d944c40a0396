"""Result matrices in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.summary import labels, measures
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score


def matrix_table(runs: Sequence[Path]) -> RenderableType:
    """What ``rich`` prints: matrices of the runs' first score side by side, with ACC, BWT and forgetting below each.

    Raises:
        ValueError: If there is no run, or a folder is not a run folder.
    """
    if not runs:
        raise ValueError("`runs` is empty; give at least one run folder.")
    loaded = [Run.load(folder) for folder in runs]
    score = loaded[0].scores[0]
    parts = [_matrix(run, label, score, loaded) for run, label in zip(loaded, labels(loaded), strict=True)]
    return Columns(parts, padding=(1, 3))


def _matrix(run: Run, label: str, score: Score, runs: Sequence[Run]) -> RenderableType:
    table = Table(title=Text(f"{label}: {score.title}", style="bold"), title_justify="left", header_style="dim")
    table.add_column("after ↓  on →")
    for experience in run.experiences:
        table.add_column(Text(experience.name), justify="right")
    R = run.values(score)
    for i, (experience, values) in enumerate(zip(run.experiences, R, strict=True)):
        cells = [Text(score.text(v), style="bold" if i == j else "") for j, v in enumerate(values)]
        table.add_row(Text(experience.name), *cells)
    found = measures(run, score, runs)
    below = f"ACC {score.text(found['acc'])}"
    below += "".join(f"   {title} {score.text(found[title.lower()], signed=True)}" for title in ("BWT", "forgetting"))
    state = "" if run.finished else f"   (running, {run.steps} of {len(run.experiences)} experiences)"
    return Group(table, Text(below + state))
