"""What each method made of the same slices."""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, nan

import numpy as np
from matplotlib.figure import Figure

from lit_continual.reports.comparison import Line
from lit_continual.reports.figures import shorten
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.overlays import bar, caption, legend, panel, scored, slice_name, text
from lit_continual.runs.run import Run

_LEFT, _TOP, _FOOT, _GAP, _PAGE = 0.42, 0.62, 0.2, 0.1, 10.8  # inches


def side_by_side_figure(lines: Sequence[Line], baseline: str) -> Figure | None:
    """Draw slices (rows): the image, and truth and prediction of each method in the end (columns).

    Of each experience, the volumes on which the baseline scores best and worst; one, where it scores the same on all.
    Images that the methods made themselves, such as denoised ones, are shown close to the region that is marked, in
    shades around what the first has in it: what a network makes up there would not be seen otherwise.
    The runs of the first seed are shown. ``None`` if nothing is finished that stored a slice.
    """
    runs = {line.method: line.runs[0] for line in lines if line.runs}
    rows = [*_rows(runs, baseline)]
    if not rows:
        return None
    own = [_own_images(row) for *_, row in rows]
    for (*_, row), made in zip(rows, own, strict=True):
        row |= {method: overlay.close_up() for method, overlay in row.items()} if made else {}
    columns = [*runs] if all(own) else ["", *runs]
    wide = min(max((_PAGE - _LEFT) / len(columns) - _GAP, 1.2), 2.4)
    talls = [max(wide * o.size[0] / o.size[1] for o in row.values()) for *_, row in rows]
    width = max(_LEFT + len(columns) * (wide + _GAP), 4.2)
    height = _TOP + sum(talls) + len(talls) * (_FOOT + _GAP)
    figure, top = Figure(figsize=(width, height)), _TOP
    legend(figure, region=all(own))
    for column, method in enumerate(columns):
        text(figure, _LEFT + column * (wide + _GAP) + wide / 2, _TOP - 0.1, shorten(method, int(wide * 13.5)), 9)
    for (name, which, row), tall, made in zip(rows, talls, own, strict=True):
        title = f"{name}, {which}" if which else name
        text(figure, 0.24, top + tall / 2, shorten(title, int(tall * 13.5)), 9, rotation=90)
        first = next(iter(row.values()))
        uptake = _uptake(first) if made else None
        for column, method in enumerate(columns):
            overlay = row.get(method, first if not method and not made else None)
            if overlay is None:
                continue
            left = _LEFT + column * (wide + _GAP)
            axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
            named = not method or (overlay is first and made)
            words = slice_name(overlay, int(wide * 19)) if named else _caption(runs[method], name, overlay, first)
            panel(axes, overlay, words, truth=bool(method), prediction=bool(method), uptake=uptake)
            if named:
                bar(axes, overlay, bright=not made)
        top += tall + _FOOT + _GAP
    return figure


def _rows(runs: Mapping[str, Run], baseline: str) -> Iterator[tuple[str, str, dict[str, Overlay]]]:
    """Experience, which of its volumes, and its slice as each method segments it in the end."""
    for name in dict.fromkeys(e.name for run in runs.values() for e in run.experiences):
        found = {method: slices for method, run in runs.items() if (slices := _slices(run, name))}
        reference = baseline if baseline in found else next(iter(found), "")
        for which, volume in _chosen(runs[reference], name, list(found[reference])) if reference else ():
            yield name, which, {method: slices[volume] for method, slices in found.items() if volume in slices}


def _own_images(row: Mapping[str, Overlay]) -> bool:
    """Whether what the methods show are images of their own making, and not one that they segment."""
    first, *others = row.values()
    return any(other.whose == first.whose and not np.array_equal(other.image, first.image) for other in others)


def _uptake(overlay: Overlay) -> tuple[float, float]:
    """Shades for the region that is marked in a slice, without its brightest and darkest tenths; or for all of it."""
    if not overlay.truth.any():
        return 0.0, float(np.nanmax(overlay.image))
    low, median, high = map(float, np.percentile(overlay.image[overlay.truth.any(0)], (10, 50, 90)))
    return max(low - median / 4, 0.0), high + median / 4


def _slices(run: Run, name: str) -> dict[tuple[str, str], Overlay]:
    """The slice of each volume of an experience, by patient and volume."""
    known = name in [e.name for e in run.experiences]
    path = run.overlay(*_at_last(run, name)) if known else None
    return {overlay.whose: overlay for overlay in Overlay.load_all(path)} if path else {}


def _at_last(run: Run, name: str) -> tuple[int, int]:
    """Row and column of the result matrix that say how well an experience is known in the end."""
    on = [e.name for e in run.experiences].index(name)
    return run.last_at(on), on


def _chosen(run: Run, name: str, volumes: Sequence[tuple[str, str]]) -> list[tuple[str, tuple[str, str]]]:
    """The volumes on which a run scores best and worst; the first one, where no two differ."""
    score = run.scores[0]
    found: dict[tuple[str, str], list[float]] = {}
    for case in run.cases:
        if (case.after, case.on) == _at_last(run, name):
            found.setdefault((case.patient, case.volume), []).append(case.values.get(score.name, nan))
    means = {v: float(np.mean(found[v])) for v in volumes if v in found and isfinite(np.mean(found[v]))}
    order = sorted(means, key=lambda volume: means[volume], reverse=score.higher_is_better)
    if not order or means[order[0]] == means[order[-1]]:
        return [("", volumes[0])]
    return [("best", order[0]), ("worst", order[-1])]


def _caption(run: Run, name: str, overlay: Overlay, first: Overlay) -> str:
    """What the volume scored; and which it is, where it is not the one whose image stands at the left."""
    same = (*overlay.whose, overlay.slice) == (*first.whose, first.slice)
    return (scored if same else caption)(run, *_at_last(run, name), overlay)
