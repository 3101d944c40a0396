"""The commands: each a function of its arguments, its first line of documentation the help."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lit_continual.cli.parser import Parser
from lit_continual.cli.print_report import print_report
from lit_continual.files.printing import show
from lit_continual.files.whole_files import is_first_rank

IMPORTED = ("lit_continual.cli.continual_cli", "lit_continual.reports.report")  # by a fit

# Lightning takes seconds to import, so each command imports what it runs in its own function.


def fit(arguments: Sequence[str]) -> Any:
    """Learn a stream of experiences one after another, or run one ordinary fit."""
    return _lightning("fit", arguments)


def validate(arguments: Sequence[str]) -> Any:
    """Score a checkpoint on the validation cases of the data, or of each experience."""
    return _lightning("validate", arguments)


def test(arguments: Sequence[str]) -> Any:
    """Score a checkpoint on the test cases of the data, or of each experience."""
    return _lightning("test", arguments)


def _lightning(command: str, arguments: Sequence[str]) -> Any:
    from lit_continual.cli.continual_cli import ContinualCLI

    cli = ContinualCLI(command, arguments, COMMANDS[command].__doc__)
    cli.run()
    return cli


def adapt(arguments: Sequence[str]) -> None:
    """Adapt a checkpoint to one study: a segmenter by a few annotated slices, a denoiser by its noise."""
    from lit_continual.tools.adapt.adapt import adapt as run

    parser = _parser(adapt)
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Segmenter or Denoiser, which is left as it is.")
    parser.add_argument("study", type=str, help="An image to segment; or noise realisations of one, or an acquisition.")
    parser.add_argument("--slices", type=int, nargs="+", help="Slices that are annotated, counted from 0.")
    parser.add_argument("--classes", type=str, nargs="+", help="Classes that are annotated; by default all.")
    parser.add_function_arguments(run, skip={"checkpoint", "study", "slices", "classes", "overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="Replace what is there already.")
    show(f"Adapted: {run(**parser.parsed(arguments))}")


def cache(arguments: Sequence[str]) -> None:
    """Show the volumes that `cache: disk` has kept, or remove those of a data set or a patient."""
    parser = _parser(cache)
    commands = parser.add_subcommands()
    listing = Parser(description="Show how much is kept, by folder of images.")
    commands.add_subcommand("show", listing, help=listing.description)
    clearing = Parser(description="Remove what is kept: all of it, or of one data set, or of one patient.")
    clearing.add_argument("--dataset", type=str | None, default=None, help="A data set, or a folder of images.")
    clearing.add_argument("--patient", type=str | None, default=None, help="Whose.")
    commands.add_subcommand("clear", clearing, help=clearing.description)
    given = parser.parsed(arguments)
    from lit_continual.cli.show_cache import show_cache
    from lit_continual.data.cache.cached_volumes import clear

    if given["subcommand"] == "show":
        show_cache()
    else:
        dataset, patient = given["clear"]["dataset"], given["clear"]["patient"]
        gone, stay = clear(dataset, patient)
        if not gone and not stay and (dataset or patient):
            named = {"the data set": dataset, "patient": patient}
            whose = " and ".join(f"{what} {name}" for what, name in named.items() if name)
            raise ValueError(f"The cache holds no volume of {whose}. `cache show` lists what there is.")
        in_use = f"; {stay} are in use by running processes and stay" if stay else ""
        show(f"{gone} volumes are gone from the cache{in_use}.")


def compare(arguments: Sequence[str]) -> None:
    """Run a table of methods by cases by seeds, and show it."""
    parser = _parser(compare)
    parser.add_argument("--config", type=Path, required=True, help="The table, such as configs/tables/lwfseg.yaml.")
    _add_launch(parser)
    parser.add_argument("--seeds", type=int, nargs="+", help="Seeds in place of those of the table.")
    parser.add_argument("--cases", type=str, nargs="+", help="Cases of the table to run, in place of all.")
    parser.add_argument("--methods", type=str, nargs="+", help="Methods to run beside the baseline, in place of all.")
    parser.add_argument("--output", type=Path | None, default=None, help="Folder of the runs and the table.")
    given = parser.parsed(arguments)
    from lit_continual.cli.options_of_fit import OptionsOfFit
    from lit_continual.studies.table import compare as run

    run(**_launched(given), parse=OptionsOfFit().parse)


def export(arguments: Sequence[str]) -> None:
    """Write a checkpoint in the format of another program, such as nnU-Net."""
    from lit_continual.tools.export import export as run

    parser = _parser(export)
    parser.add_argument("checkpoint", type=str, help="A checkpoint, such as experiences/*/model.ckpt.")
    parser.add_function_arguments(run, skip={"checkpoint", "overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="Replace the folder that is there already.")
    show(f"Exported: {run(**parser.parsed(arguments))}")


def init(arguments: Sequence[str]) -> None:
    """Look at data of your own, and write a config that learns them."""
    parser = _parser(init)
    parser.add_argument("datasets", nargs="+", type=str, help="Folders, lists or tables, in the order of learning.")
    parser.add_argument("--output", type=str, default="config.yaml", help="The config.")
    parser.add_argument("--memory", type=float, default=8.0, help="GB of the device, for patch and batch size.")
    parser.add_argument("--exemplars", type=int, default=0, help="Training samples to keep of each class; 0 for none.")
    parser.add_argument("--by", type=Literal["datasets", "classes"] | None, default=None, help="An experience is one.")
    parser.add_argument("--overwrite", action="store_true", help="Replace a config that is there already.")
    given = parser.parsed(arguments)
    from lit_continual.tools.init.write_config import write_config as run

    path = run(**given)
    show(f"Written: {path}. Next: lit-continual fit --config {shlex.quote(str(path))}")


def kse(arguments: Sequence[str]) -> None:
    """Score the kernels of a checkpoint: what TGD would retrain at each threshold."""
    from lit_continual.tools.kse import report_kernels as run

    parser = _parser(kse)
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Segmenter or a Denoiser.")
    parser.add_argument("--image", type=str | list[str], nargs="+", help="An image to try it on; one file a channel.")
    several, what = float | list[float], "Thresholds on the scores, from 0 to 1."
    parser.add_argument("--phis", type=several, nargs="+", default=[0.3, 0.4, 0.5, 0.6], help=what)
    parser.add_function_arguments(run, skip={"checkpoint", "image", "phis"})
    given = parser.parsed(arguments)
    given |= {name: _flat(given[name]) for name in ("image", "phis")}
    show(f"Kernels: {run(**given)}")


def memory(arguments: Sequence[str]) -> None:
    """Show the exemplars of a run, or forget one patient's."""
    parser = _parser(memory)
    commands = parser.add_subcommands()
    listing = Parser(description="Show what a memory holds, and check every file against its checksum.")
    listing.add_argument("folder", type=str, help="A memory, such as RUN/memory.")
    listing.add_argument("--exemplars", action="store_true", help="List every exemplar and why it was kept.")
    commands.add_subcommand("show", listing, help=listing.description)
    forget = Parser(description="Remove all exemplars of one patient.")
    forget.add_argument("folder", type=str, help="A memory, such as RUN/memory.")
    forget.add_argument("--patient", type=str, required=True, help="Whose; `show` lists the patients.")
    commands.add_subcommand("forget", forget, help=forget.description)
    given = parser.parsed(arguments)
    from lit_continual.cli.show_memory import show_memory
    from lit_continual.methods.rehearsal.exemplar_memory import ExemplarMemory

    options = given[given["subcommand"]]
    exemplars = ExemplarMemory(options["folder"])
    if given["subcommand"] == "show":
        show_memory(exemplars, options["exemplars"])
    else:
        from lit_continual.data.cache.cached_volumes import clear

        exemplars.require()
        gone, stay = clear(patient=options["patient"])  # first, as this may be killed, and then begins anew
        count = exemplars.forget(options["patient"])
        show(f"{count} exemplars of {options['patient']} are gone from {exemplars.folder}.", soft_wrap=False)
        if gone or stay:
            show(f"Of the cached volumes of {options['patient']}, {gone} are gone and {stay} in use.", soft_wrap=False)


def predict(arguments: Sequence[str]) -> None:
    """Segment new images with a checkpoint; no config needed."""
    from lit_continual.tools.predict import predict as run

    parser = _parser(predict)
    parser.add_argument("checkpoint", type=str, help="Checkpoint of a Segmenter, such as experiences/*/model.ckpt.")
    parser.add_argument("images", type=str, help="A folder of images or DICOM series, a list or a table.")
    parser.add_function_arguments(run, skip={"checkpoint", "images", "overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="Replace predictions that are there already.")
    folder = run(**parser.parsed(arguments))
    if is_first_rank():
        show(f"Predictions: {folder}")


def report(arguments: Sequence[str]) -> None:
    """Write the report of one run, or of several side by side."""
    parser = _parser(report)
    parser.add_argument("runs", nargs="+", type=str, help="Folders of runs; several are set side by side.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder of the report.")
    given = parser.parsed(arguments)
    print_report(*map(Path, given["runs"]), output=Path(given["output"]) if given["output"] else None)


def sweep(arguments: Sequence[str]) -> None:
    """Run a W&B sweep file without a server, and show it."""
    parser = _parser(sweep)
    parser.add_argument("--config", type=Path, required=True, help="The W&B sweep file.")
    _add_launch(parser)
    parser.add_argument("--count", type=int | None, default=None, help="Most trials; by default the file's run_cap.")
    parser.add_argument("--output", type=Path | None, default=None, help="Folder of the sweep.")
    parser.add_argument("--csv", action="store_true", help="Track by CSV alone, whatever the file's command says.")
    given = parser.parsed(arguments)
    from lit_continual.cli.options_of_fit import OptionsOfFit
    from lit_continual.studies.sweep import sweep as run

    run(**_launched(given), parse=OptionsOfFit().parse)


def cell(arguments: Sequence[str]) -> None:
    """Run one fit of a table or sweep if it is not finished: what `--launcher print` writes."""
    parser = _parser(cell)
    parser.add_argument("folder", type=Path, help="Folder of the run; the arguments of its `fit` follow after `--`.")
    parser.add_argument("--threads", type=str | None, default=None, help="OMP_NUM_THREADS of the fit.")
    parser.add_argument("--group", type=str, default="", help="Group of its run in W&B.")
    end = [*arguments, "--"].index("--")
    given = parser.parsed(arguments[:end])
    from lit_continual.studies.cell_command import run_cell as run

    run(**given, arguments=arguments[end + 1 :])


def _flat(values: Sequence[Any] | None) -> list[Any]:
    """The values of an option that takes several, ``0.3 0.4`` or ``[0.3, 0.4]``."""
    return [one for value in values or () for one in (value if isinstance(value, list) else [value])]


def _add_launch(parser: Parser) -> None:
    parser.add_argument("--workers", type=int | None, default=None, help="Runs at a time, 1 here; 0 only shows them.")
    parser.add_argument("--launcher", type=Literal["local", "slurm", "print"], default="local", help="What runs them.")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of this machine that a run sees; 0 for all.")
    parser.add_argument("--new-processes", action="store_true", help="Let each run import for itself, not fork.")


def _launched(given: dict[str, Any]) -> dict[str, Any]:
    """Put the options of a launcher together."""
    from lit_continual.studies.launch import Launch

    modules = () if given.pop("new_processes") else IMPORTED
    launch = Launch(given.pop("launcher"), given.pop("workers"), given.pop("gpus"), modules)
    return {**given, "launch": launch}


def _parser(command: Callable[..., None]) -> Parser:
    return Parser(prog=f"lit-continual {command.__name__}", description=command.__doc__)


COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    command.__name__: command
    for command in (init, fit, validate, test, adapt, cache, cell, compare, export, kse, memory, predict, report, sweep)
}
