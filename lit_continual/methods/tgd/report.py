"""How redundant a network's kernels are: tables, histograms, and outputs without the redundant ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_continual.reports.figures import GREY, INK, open_frame, panels, plain, shorten
from lit_continual.reports.html import picture, render
from lit_continual.reports.report import png, renewed
from lit_continual.reports.tables import write_rows

_COLUMNS, _BINS = 5, np.linspace(0, 1, 21)
_BAR, _MARK = "#0072b2", "#d55e00"


@dataclass(frozen=True, eq=False)
class Dropped:
    """One slice of an image, as the network answers with and without its redundant kernels.

    Attributes:
        name: What image it is.
        image: ``(H, W)``.
        intact: What the whole network makes of it, ``(H, W)``.
        pictures: The same without the kernels below each threshold.
        errors: Root mean square difference to the intact output, over the volume: in the unit of the image, or of
            probabilities.
        unchanged: That of the image itself, which a denoiser without a kernel leaves as it is; ``None`` for labels.
        labels: Whether outputs are label maps, of the network's probabilities.
    """

    name: str
    image: NDArray[Any]
    intact: NDArray[Any]
    pictures: Mapping[float, NDArray[Any]]
    errors: Mapping[float, float]
    unchanged: float | None
    labels: bool


@dataclass(frozen=True, eq=False)
class KernelReport:
    """What there is to say of the kernels of a network.

    Attributes:
        name: The checkpoint.
        layers: For each convolution the scores of its kernels, infinite where they must stay as they are.
        freed: For each threshold the share of all parameters below it.
        notes: What could not be followed.
        dropped: What becomes of an image.
    """

    name: str
    layers: Mapping[str, NDArray[np.float64]]
    freed: Mapping[float, float]
    notes: Sequence[str]
    dropped: Dropped | None = None


def write_kernel_report(report: KernelReport, folder: Path, inputs: Iterable[str] = ()) -> Path:
    """Write ``kse.html``, ``layers.csv``, ``kernels.csv`` and pictures into a folder, and return the page.

    Raises:
        ValueError: If one would fall on one of the ``inputs``, or on what is there and of no such report.
        OSError: If the files cannot be written; the folder is then as it was.
    """
    pictures = {"histograms.png": png(_histograms(report))}
    if report.dropped:
        pictures["outputs.png"] = png(_outputs(report.dropped))
        pictures["errors.png"] = png(_errors(report.dropped))
    with renewed(folder, inputs) as aside:
        for name, content in pictures.items():
            (aside / name).write_bytes(content)
        rows = _rows(report)
        _table(aside / "layers.csv", [*rows[0]], (row.values() for row in rows))
        kernels = ((name, n, score) for name, scores in report.layers.items() for n, score in enumerate(scores))
        _table(aside / "kernels.csv", ("layer", "kernel", "score"), kernels)
        if report.dropped:
            errors = ((phi, report.freed[phi], error) for phi, error in report.dropped.errors.items())
            _table(aside / "errors.csv", ("phi", "share", "rms_difference"), errors)
        shown = {name.removesuffix(".png"): picture(content) for name, content in pictures.items()}
        text = render("kernels.html.j2", Path(__file__).parent, report=report, rows=rows, pictures=shown)
        (aside / "kse.html").write_text(text, "utf-8")
    return folder / "kse.html"


def kernel_table(report: KernelReport) -> RenderableType:
    """What ``rich`` prints: the kernels of each layer below each threshold, and the parameters that it frees."""
    shown = Table("layer", "kernels", "held", *(f"φ {phi:g}" for phi in report.freed), header_style="dim")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in _rows(report):
        shares = (f"{row[f'phi {phi:g}']:.0%}" for phi in report.freed)
        shown.add_row(Text(row["layer"]), str(row["kernels"]), str(row["held"]), *shares)
    shown.add_section()
    shown.add_row("all parameters", "", "", *(f"{share:.1%}" for share in report.freed.values()))
    if report.dropped:
        shown.add_row("RMS difference without", "", "", *(f"{error:.3g}" for error in report.dropped.errors.values()))
    return Group(shown, Text("\n".join(["Share of kernels with a score below φ, which TGD retrains.", *report.notes])))


def _rows(report: KernelReport) -> list[dict[str, Any]]:
    """A row a layer: kernels, those held, range of the others' scores, and the share of kernels below each phi."""
    rows = []
    for name, scores in report.layers.items():
        finite = scores[np.isfinite(scores)]
        low, middle, high = np.percentile(finite, (0, 50, 100)) if finite.size else (np.nan,) * 3
        row = {"layer": name, "kernels": len(scores), "held": len(scores) - finite.size}
        row |= {"minimum": low, "median": middle, "maximum": high}
        rows.append(row | {f"phi {phi:g}": float((scores < phi).mean()) for phi in report.freed})
    return rows


def _table(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    lines = ([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    write_rows(path, header, lines)


def _histograms(report: KernelReport) -> Figure:
    lines = -(-len(report.layers) // _COLUMNS)
    figure = Figure(figsize=(2.1 * _COLUMNS, 1.35 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, _COLUMNS, squeeze=False, sharex=True).ravel()
    for axes in grid[len(report.layers) :]:
        axes.set_axis_off()
    for axes, (name, scores) in zip(grid, report.layers.items(), strict=False):
        finite = scores[np.isfinite(scores)]
        axes.hist(finite, _BINS, color=_BAR)
        axes.set_title(plain(shorten(name, 28)), fontsize=7.5, color=INK, loc="left")
        if not finite.size:
            axes.text(0.5, 0.5, "held", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)
        for phi in report.freed:
            axes.axvline(phi, color=_MARK, linewidth=0.8, linestyle="--")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True) if finite.size else NullLocator())
        open_frame(axes)
        axes.set_axisbelow(True)
        axes.tick_params(labelbottom=True)
        axes.set_xlim(0, 1)
    return figure


def _outputs(dropped: Dropped) -> Figure:
    shown = {"image": dropped.image, "all kernels": dropped.intact}
    shown |= {f"without those below {phi:g}": output for phi, output in dropped.pictures.items()}
    height, width = np.rot90(dropped.image).shape
    figure, grid = panels(len(shown), 3, (3.2, 3.2 * height / width + 0.25))
    low, high = np.percentile(dropped.image, (1, 99.5)) if dropped.labels else (0.0, dropped.image.max())
    colours = "gray" if dropped.labels else "gray_r"  # as PET is read
    for axes, (title, output) in zip(grid.ravel(), shown.items(), strict=False):
        axes.set_axis_off()
        labels = dropped.labels and title != "image"
        axes.imshow(np.rot90(dropped.image if labels else output), cmap=colours, vmin=low, vmax=max(high, low + 1e-6))
        if labels:
            film = np.ma.masked_equal(np.rot90(output), 0)
            axes.imshow(film, cmap="tab10", vmin=1, vmax=10, alpha=0.55, interpolation="nearest")
        axes.set_title(title, fontsize=9, color=INK, loc="left")
    return figure


def _errors(dropped: Dropped) -> Figure:
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, *dropped.errors], [0, *dropped.errors.values()], "o-", color=_BAR, linewidth=1.6)
    unit = "probability" if dropped.labels else "unit of the image"
    if dropped.unchanged is not None:
        axes.axhline(dropped.unchanged, color=_MARK, linewidth=0.8, linestyle="--")
        axes.text(0, dropped.unchanged, "the image itself", va="bottom", fontsize=8, color=_MARK)
    axes.set_ylabel(f"RMS difference, {unit}", fontsize=8, color=INK)
    axes.set_xlabel("kernels below φ dropped", fontsize=8, color=INK)
    axes.set_ylim(bottom=0)
    open_frame(axes)
    axes.set_axisbelow(True)
    return figure
