"""Write the report of one run, or of several side by side."""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_continual.files.folder_aside import aside
from lit_continual.files.outputs import require_apart, require_folder
from lit_continual.files.whole_files import FULL, REMEDIES, in_one_line
from lit_continual.reports.curves import curves_figure
from lit_continual.reports.figures import DPI
from lit_continual.reports.latex import write_latex
from lit_continual.reports.matrices import matrix_figure
from lit_continual.reports.overlays import overlays_figure
from lit_continual.reports.page import DRAWN, overlay_files, page
from lit_continual.reports.summary import experiences_of, scores_of
from lit_continual.reports.tables import write_csv, write_json
from lit_continual.runs.run import Run


def write_report(runs: Sequence[Path | str], folder: Path | str | None = None) -> Path:
    """Write one self-contained HTML page on the runs, and the same as CSV, JSON, LaTeX and PNG beside it.

    ``report.html`` is the page; ``matrix_<score>.csv``, ``scores.csv``, ``classes.csv``, ``report.json``,
    ``tables.tex``, ``matrix_<score>.png``, ``forgetting_<score>.png`` and ``overlays.png`` (``overlays_1.png``, ... in
    the order of the runs, where there are several) hold its parts. A run that is not finished is reported as far as it
    came. Everything is made in a folder aside, and only then moved in, file by file and the page last.

    Args:
        runs: Run folders, in the order to show them. Runs of one name that differ in their seed are also averaged;
            a joint or single run on the same experiences is the reference of the others for intransigence.
        folder: Where to write. By default ``report`` in the run's folder, and for several runs ``report`` beside the
            first.

    Returns:
        Path of ``report.html``.

    Raises:
        ValueError: If there is no run, a folder is not a run folder, or is damaged, or ``folder`` holds other things.
        OSError: If the files cannot be written; the folder is then as it was.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    if not folders:
        raise ValueError("`runs` is empty; give at least one run folder.")
    loaded = [Run.load(run) for run in folders]
    beside = folders[0] if len(folders) == 1 else folders[0].parent
    if folder is None and (beside / "report").is_symlink():  # whoever made the run chose where it leads
        raise ValueError(f"{beside / 'report'} is a link. Remove it, or give the folder of the report by --output.")
    folder = Path(folder) if folder is not None else beside / "report"
    with renewed(folder, [file for run in folders for file in run.iterdir() if file.is_file()]) as aside:
        _write(loaded, aside)
    return folder / "report.html"


@contextlib.contextmanager
def renewed(folder: Path, inputs: Iterable[Path | str] = ()) -> Iterator[Path]:
    """Yield a folder aside whose files are moved into ``folder`` when the block ends, pages last.

    Args:
        folder: Where to; files of an earlier report, which its page names, are replaced.
        inputs: Files that are read, and may not be among those that are written.

    Raises:
        ValueError: If a file would fall on one that is read, or that is there and of no report.
        OSError: If the files cannot be written; the folder is then as it was.
    """
    require_folder(folder)
    try:
        with aside(folder) as place:
            yield place
            files = sorted(place.iterdir(), key=lambda file: file.suffix == ".html")
            targets = [folder / file.name for file in files]
            require_apart(targets, inputs)
            there = [target for target in targets if os.path.lexists(target)]
            if (there and not targets[-1].exists()) or (there := [target for target in there if target.is_dir()]):
                raise ValueError(f"{there[0]} is there already and of no report. Choose another --output.")
            folder.mkdir(exist_ok=True)
            for file, target in zip(files, targets, strict=True):
                os.replace(file, target)
    except OSError as error:
        what = REMEDIES.get(error.errno or 0, "Name another folder")
        what = "make room or name another folder" if error.errno in FULL else what[0].lower() + what[1:]
        raise OSError(
            f"The report cannot be written to `{folder}` ({error.strerror or in_one_line(error)}); {what}."
        ) from error


def _write(runs: Sequence[Run], folder: Path) -> None:
    pictures = {}
    for score in scores_of(runs) if len(experiences_of(runs)) <= DRAWN else []:
        pictures[f"matrix_{score.file}.png"] = png(matrix_figure(runs, score))
        pictures[f"forgetting_{score.file}.png"] = png(curves_figure(runs, score))
    for run, name in zip(runs, overlay_files(runs), strict=True):
        if figure := overlays_figure(run):
            pictures[name] = png(figure)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    write_csv(runs, folder)
    write_json(runs, folder)
    write_latex(runs, folder)
    (folder / "report.html").write_text(page(runs, pictures), "utf-8")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    FigureCanvasAgg(figure)  # a figure of its own, unknown to pyplot
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()
