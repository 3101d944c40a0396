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
    for (on, row), tall in zip(rows.items(), talls, strict=True):
        name = next(iter(runs.values())).experiences[on].name
        text(figure, 0.24, top + tall / 2, shorten(name, int(tall * 11)), 9, rotation=90)
        for column, method in enumerate(columns):
            overlay = row.get(method, next(iter(row.values())))
            if method and method not in row:
                continue
            left = _LEFT + column * (wide + _GAP)
            axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
            words = _caption(runs[method], on, overlay) if method else f"{shorten(overlay.patient, 18)}"
            panel(axes, overlay, words, truth=bool(method), prediction=bool(method))
            if not method:
                bar(axes, overlay)
        top += tall + _FOOT + _GAP
    return figure


def _rows(runs: Mapping[str, Run]) -> dict[int, dict[str, Overlay]]:
    """Per experience, the slice as each method segments it in the end."""
    rows: dict[int, dict[str, Overlay]] = {}
    for method, run in runs.items():
        for on in range(len(run.experiences)):
            if path := run.overlay(run.last_at(on), on):
                rows.setdefault(on, {})[method] = Overlay.load(path)
    return dict(sorted(rows.items()))


def _caption(run: Run, on: int, overlay: Overlay) -> str:
    """What the volume scored; whose it is stands below the image."""
    return caption(run, run.last_at(on), on, overlay).partition(", ")[2].partition(", ")[2] or "—"
