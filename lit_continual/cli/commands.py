"""The commands beside ``fit``, ``validate`` and ``test``, which need no model, data or trainer in their config."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.table import Table

from lit_continual.cli.parser import Parser
from lit_continual.methods.rehearsal.exemplar import Exemplar
from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory
from lit_continual.reports import matrix_table, write_report
from lit_continual.studies.sweep import sweep
from lit_continual.studies.table import compare
from lit_continual.tools.adapt import adapt
from lit_continual.tools.kse import study_kernels
from lit_continual.tools.predict import predict


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


def _adapt(**arguments: Any) -> None:
    Console().print(f"Adapted: {adapt(**arguments)}", soft_wrap=True, highlight=False)


def _adapt_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Denoiser, which is left as it is.")
    parser.add_argument("study", type=str, help="Noise realisations of one study, or an acquisition to split.")
    parser.add_function_arguments(adapt, skip={"checkpoint", "study"})


def _kse(**arguments: Any) -> None:
    Console().print(f"Kernels: {study_kernels(**arguments)}", soft_wrap=True, highlight=False)


def _kse_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Segmenter or a Denoiser.")
    parser.add_function_arguments(study_kernels, skip={"checkpoint"})


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


def _memory(subcommand: str, **arguments: Any) -> None:
    memory, options = ExemplarMemory(arguments[subcommand].folder), arguments[subcommand]
    if subcommand == "forget":
        count = memory.forget(options.patient)
        Console().print(f"{count} exemplars of {options.patient} are gone from {memory.folder}.", highlight=False)
    else:
        show_memory(memory, options.exemplars)


def show_memory(memory: ExemplarMemory, exemplars: bool = False) -> None:
    """Print what a memory holds: a row a class of each experience, a row a patient, and on request a row an exemplar.

    Raises:
        ValueError: If there is no memory in the folder, or an exemplar is missing or damaged.
    """
    memory.require()
    stored = memory.exemplars
    by_class, by_patient = (
        Table("experience", "class", "exemplars", "MB"),
        Table("patient", "exemplars", "MB", "source"),
    )
    for name, facts in memory.experiences.items():
        for label in facts["classes"]:
            own = [e for e in stored if e.experience == name and label in e.picked_for]
            by_class.add_row(name, label, str(len(own)), _megabytes(own))
    for patient, source in dict.fromkeys((e.patient, e.source) for e in stored):
        own = [e for e in stored if (e.patient, e.source) == (patient, source)]
        by_patient.add_row(patient, str(len(own)), _megabytes(own), source)
    listing = Table("experience", "patient", "slice", "classes", "score", "why", "file")
    for e in stored if exemplars else []:
        score, z = ", ".join(f"{value:.3g}" for value in e.score.values()), "all" if e.slice is None else str(e.slice)
        listing.add_row(e.experience, e.patient, z, ", ".join(e.classes), score, e.why, e.file)
    free = ". Exemplar-free: nothing of any patient is kept" if memory.manifest.get("exemplar_free") else ""
    console = Console()
    for part in (f"{memory.folder}: {len(stored)} exemplars, {_megabytes(stored)} MB{free}.", by_class):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    for table in (by_patient, listing):
        if table.rows:
            console.print(table)
    for exemplar in stored:
        memory.load(exemplar)  # says what is missing or damaged


def _megabytes(exemplars: Iterable[Exemplar]) -> str:
    return f"{sum(exemplar.bytes for exemplar in exemplars) / 1e6:.2f}"


def _memory_arguments(parser: LightningArgumentParser) -> None:
    commands = parser.add_subcommands()
    show = Parser(description="Show what a memory holds, and check every file against its checksum.")
    show.add_argument("folder", type=str, help="A memory, such as RUN/memory.")
    show.add_argument("--exemplars", action="store_true", help="List every exemplar and why it was kept.")
    commands.add_subcommand("show", show, help=show.description)
    forget = Parser(description="Remove all exemplars of one patient.")
    forget.add_argument("folder", type=str, help="A memory, such as RUN/memory.")
    forget.add_argument("--patient", type=str, required=True, help="Whose; `show` lists the patients.")
    commands.add_subcommand("forget", forget, help=forget.description)


TOOLS = {
    "adapt": Tool("Retrain a denoiser on the study that it is to denoise.", _adapt_arguments, _adapt),
    "compare": Tool("Run a table of methods by cases by seeds, and show it.", _compare_arguments, compare, parses=True),
    "kse": Tool("Score the kernels of a checkpoint: what TGD would retrain at each threshold.", _kse_arguments, _kse),
    "memory": Tool("Show the exemplars of a run, or forget one patient's.", _memory_arguments, _memory),
    "predict": Tool("Segment new images with a checkpoint; no config needed.", _predict_arguments, _predict),
    "report": Tool("Write the report of one run, or of several side by side.", _report_arguments, _report),
    "sweep": Tool("Run a W&B sweep file without a server, and show it.", _sweep_arguments, sweep, parses=True),
}
