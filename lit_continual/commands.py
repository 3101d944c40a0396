"""The commands beside ``fit``, ``validate`` and ``test``, which need no model, data or trainer in their config."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from lit_continual.prediction import predict
from lit_continual.reports import matrix_table, write_report
from lit_continual.sweep import sweep
from lit_continual.table import compare


@dataclass(frozen=True)
class Tool:
    """A command: one line of help, its arguments, what it runs with them."""

    help: str
    add_arguments: Callable[[LightningArgumentParser], None]
    run: Callable[..., Any]
    parses: bool = False  # whether `run` takes `parse`, which parses the arguments of a fit


@rank_zero_only
def announce(*runs: Path, output: Path | None = None) -> None:
    """Print the result matrices of runs side by side, write their report and name it."""
    console = Console()
    console.print(matrix_table(runs))
    console.print(f"Report: {write_report(runs, output)}", soft_wrap=True, highlight=False)


@rank_zero_only
def show_scores(found: Mapping[str, Mapping[str, float]], scores: Iterable[str]) -> None:
    """Print scores of a checkpoint, a row an experience; of the scores, those that were logged."""
    columns = [score for score in scores if any(score in values for values in found.values())]
    table = Table("experience", *columns)
    for name, values in found.items():
        table.add_row(name, *(f"{values[score]:.3f}" if score in values else "" for score in columns))
    Console().print(table)


def _report(runs: list[str], output: str | None) -> None:
    announce(*map(Path, runs), output=Path(output) if output else None)


def _report_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Folders of runs; several are set side by side.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder of the report.")


def _predict(**arguments: Any) -> None:
    Console().print(f"Predictions: {predict(**arguments)}", soft_wrap=True, highlight=False)


def _predict_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Segmenter, such as experiences/*/model.ckpt.")
    parser.add_argument("images", type=str, help="A folder of images, a Decathlon list or a CSV table.")
    parser.add_function_arguments(predict, skip={"checkpoint", "images"})


def _compare_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="The table, such as configs/tables/lwfseg.yaml.")
    parser.add_argument("--workers", type=int, default=1, help="Runs at a time; 0 shows what is there.")
    parser.add_argument("--seeds", type=int, nargs="+", help="Seeds in place of those of the table.")
    parser.add_argument("--output", type=Path | None, default=None, help="Folder of the runs and the table.")


def _sweep_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="The W&B sweep file.")
    parser.add_argument("--workers", type=int, default=1, help="Trials at a time; 0 shows what is there.")
    parser.add_argument("--count", type=int | None, default=None, help="Most trials; by default the file's run_cap.")
    parser.add_argument("--output", type=Path | None, default=None, help="Folder of the sweep.")
    parser.add_argument("--csv", action="store_true", help="Track by CSV alone, whatever the file's command says.")


TOOLS = {
    "compare": Tool("Run a table of methods by cases by seeds, and show it.", _compare_arguments, compare, parses=True),
    "predict": Tool("Segment new images with a checkpoint; no config needed.", _predict_arguments, _predict),
    "report": Tool("Write the report of one run, or of several side by side.", _report_arguments, _report),
    "sweep": Tool("Run a W&B sweep file without a server, and show it.", _sweep_arguments, sweep, parses=True),
}
