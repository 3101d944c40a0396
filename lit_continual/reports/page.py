"""The HTML page of a report."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from lit_continual.reports.figures import Scale, scale_of
from lit_continual.reports.html import picture, render
from lit_continual.reports.summary import MEASURES, class_means, experiences_of, labels, references, scores_of, summary
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

DRAWN = 50  # experiences, above which pictures of them take minutes and show nothing
_UNITS = ("B", "kB", "MB", "GB", "TB")


def page(runs: Sequence[Run], pictures: Mapping[str, bytes]) -> str:
    """Render the page, which holds everything it shows and asks for no other file.

    Args:
        runs: The runs, in the order to show them.
        pictures: PNG files by name: ``forgetting_<score>.png`` for each score, unless there are more than ``DRAWN``
            experiences, and those of :func:`overlay_files`.
    """
    sources = {name: picture(png) for name, png in pictures.items()}
    named = zip(runs, labels(runs), overlay_files(runs), strict=True)
    return render(
        "report.html.j2",
        names=list(dict.fromkeys(run.name for run in runs)),
        experiences=experiences_of(runs),
        reference=_reference(runs),
        scores=[_score(runs, score, sources.get(f"forgetting_{score.file}.png")) for score in scores_of(runs)],
        runs=[
            {"run": run, "label": label, "classes": _classes(run), "overlays": sources.get(file)}
            for run, label, file in named
        ],
        drawn=DRAWN,
        seconds=seconds_text,
        bytes=bytes_text,
    )


def overlay_files(runs: Sequence[Run]) -> list[str]:
    """Name of the picture of each run's overlays: ``overlays.png``, numbered where there are several runs."""
    return ["overlays.png"] if len(runs) == 1 else [f"overlays_{number}.png" for number in range(1, len(runs) + 1)]


def bytes_text(size: int | None) -> str:
    """A size in the largest unit that leaves a digit before the point.

    Example:
        >>> bytes_text(123_456), bytes_text(0), bytes_text(None)
        ('123.5 kB', '0 B', '—')
    """
    if size is None:
        return "—"
    power = max(min((len(str(int(size))) - 1) // 3, len(_UNITS) - 1), 0)
    return f"{size / 1000**power:.{1 if power else 0}f} {_UNITS[power]}"


def seconds_text(seconds: float | None) -> str:
    """A time as people say it.

    Example:
        >>> seconds_text(4.2), seconds_text(61.2), seconds_text(7384), seconds_text(None)
        ('4.2 s', '1 min 01 s', '2 h 03 min', '—')
    """
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _reference(runs: Sequence[Run]) -> str:
    """What the runs' intransigence is measured against, in words."""
    named = dict(zip(map(id, runs), labels(runs), strict=True))
    found = [tuple(named[id(other)] for other in references(run, runs)) for run in runs if run.mode == "continual"]
    found = list(dict.fromkeys(filter(None, found)))
    if not found:
        return "there is none, as no finished joint or single run on the same experiences is among the runs"
    if len(found) > 1 and all(len(names) == 1 for names in found):
        return f"the reference is the run of the same seed among {', '.join(names[0] for names in found)}"
    return f"the reference is {'; '.join(' averaged with '.join(names) for names in found)}"


def _score(runs: Sequence[Run], score: Score, curves: Mapping[str, Any] | None) -> dict[str, Any]:
    rows, scale = summary(runs, score), scale_of(runs, score)
    measures = [m for m in MEASURES if m != "fwt" or any(isfinite(row.values[m]) for row in rows)]
    shades = ", ".join(scale.colour(scale.low + (scale.high - scale.low) * i / 8)[0] for i in range(9))
    return {
        "score": score,
        "title": score.title,
        "higher": score.higher_is_better,
        "measures": measures,
        "rows": rows,
        "matrices": [_matrix(r, label, score, scale) for r, label in zip(runs, labels(runs), strict=True)],
        "scale": {"low": f"{scale.low:.3g}", "high": f"{scale.high:.3g}", "shades": shades},
        "curves": curves,
    }


def _matrix(run: Run, label: str, score: Score, scale: Scale) -> dict[str, Any]:
    lines = [(title, i, [float(value) for value in run.values(score)[i]]) for title, i in run.rows()]
    colours = {value: scale.colour(value) for *_, values in lines for value in values if isfinite(value)}
    return {"label": label, "run": run, "lines": lines, "colours": colours}


def _classes(run: Run) -> dict[str, Any] | None:
    """Per class and score, the mean over cases when its experience was learnt and after the last step."""
    if not run.cases:
        return None
    stages = {"continual": ("when learnt", "after the last step"), "joint": ("all together",), "single": ("alone",)}
    means = {(m.after, m.on, m.label, m.score): m for score in run.scores for m in class_means(run, score)}
    lines = []
    for on, label in dict.fromkeys((m.on, m.label) for m in sorted(means.values(), key=lambda m: m.on)):
        afters = dict.fromkeys([run.learnt_at(on), run.last_at(on)] if run.mode == "continual" else [run.last_at(on)])
        cells = [(s, means.get((after, on, label, s.name))) for s in run.scores for after in afters]
        if len(afters) < len(stages[run.mode]):  # the newest experience: its first score is its last
            cells = [cell for cell in cells for _ in stages[run.mode]]
        lines.append({"experience": run.experiences[on].name, "label": label, "cells": cells})
    return {"scores": [score.title for score in run.scores], "stages": stages[run.mode], "lines": lines}
