"""The report of finished runs, for the terminal and on disk."""

import sys
from pathlib import Path

from lit_continual.files.printing import printable, show
from lit_continual.files.whole_files import in_one_line, is_first_rank


def print_report(*runs: Path, output: Path | None = None) -> None:
    """Print the result matrices of runs side by side, each once, write their report and name it."""
    if is_first_rank():
        from lit_continual.reports.report import write_report  # pictures: a command that prints help draws none
        from lit_continual.reports.terminal import matrix_table

        once = list({run.resolve(): run for run in runs}.values())  # `runs/* runs/a` names one twice
        show(matrix_table(once), soft_wrap=False)
        show(f"Report: {write_report(once, output)}")


def report_of(run: Path) -> None:
    """Print and write the report of a run that has just been finished; one that cannot be written is no failure."""
    try:
        print_report(run)
    except Exception as error:
        sys.stderr.write(
            f"lit-continual: warning: the run in {printable(run)} is finished, but its report could not be made"
            f" ({in_one_line(error)}). Make it with `lit-continual report {printable(run)}`.\n"
        )
