"""What each method made of the same slices."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lit_continual.reports.comparison import Line
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.overlays import bar, caption, legend, panel, text
from lit_continual.reports.run import Run
from lit_continual.reports.shades import shorten

_LEFT, _TOP, _FOOT, _GAP, _PAGE = 0.42, 0.62, 0.2, 0.1, 10.8  # inches


def side_by_side_figure(lines: Sequence[Line]) -> Figure | None:
    """Draw one slice an experience (rows): the image, and truth and prediction of each method in the end (columns).

    The runs of the first seed are shown. ``None`` if nothing is finished that stored a slice.
    """
    runs = {line.method: line.runs[0] for line in lines if line.runs}
    rows = _rows(runs)
    if not rows:
        return None
    columns = ["", *runs]
    wide = min(max((_PAGE - _LEFT) / len(columns) - _GAP, 1.2), 2.4)
    talls = [max(wide * o.size[0] / o.size[1] for o in row.values()) for row in rows.values()]
    width = max(_LEFT + len(columns) * (wide + _GAP), 4.2)
    height = _TOP + sum(talls) + len(talls) * (_FOOT + _GAP)
    figure, top = Figure(figsize=(width, height)), _TOP
    legend(figure)
    for column, method in enumerate(columns):
        text(figure, _LEFT + column * (wide + _GAP) + wide / 2, _TOP - 0.1, shorten(method, int(wide * 11)), 9)
    for (name, row), tall in zip(rows.items(), talls, strict=True):
        text(figure, 0.24, top + tall / 2, shorten(name, int(tall * 11)), 9, rotation=90)
        first = next(iter(row.values()))
        for column, method in enumerate(columns):
            overlay = row.get(method, first if not method else None)
            if overlay is None:
                continue
            left = _LEFT + column * (wide + _GAP)
            axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
            words = _caption(runs[method], name, overlay, first) if method else shorten(_slice(overlay), int(wide * 14))
            panel(axes, overlay, words, truth=bool(method), prediction=bool(method))
            if not method:
                bar(axes, overlay)
        top += tall + _FOOT + _GAP
    return figure


def _rows(runs: Mapping[str, Run]) -> dict[str, dict[str, Overlay]]:
    """Per experience, the slice as each method segments it in the end."""
    rows: dict[str, dict[str, Overlay]] = {}
    for method, run in runs.items():
        for on, experience in enumerate(run.experiences):
            if path := run.overlay(run.last_at(on), on):
                rows.setdefault(experience.name, {})[method] = Overlay.load(path)
    return rows


def _slice(overlay: Overlay) -> str:
    return f"{overlay.patient}, slice {overlay.slice}"


def _caption(run: Run, name: str, overlay: Overlay, first: Overlay) -> str:
    """What the volume scored; and which it is, where it is not the one whose image stands at the left."""
    on = [e.name for e in run.experiences].index(name)
    words = caption(run, run.last_at(on), on, overlay)
    return words.partition(", ")[2].partition(", ")[2] if _slice(overlay) == _slice(first) else words
