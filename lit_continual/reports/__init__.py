"""Tables, plots and the HTML page of a run."""

from lit_continual.reports.comparison import Column, Comparison, Spread, lines_of
from lit_continual.reports.comparison_files import comparison_table, write_comparison
from lit_continual.reports.logged import logged_values
from lit_continual.reports.report import write_report
from lit_continual.reports.sweep import Sweep, Trial, sweep_table, write_sweep
from lit_continual.reports.terminal import matrix_table

__all__ = [
    "Column",
    "Comparison",
    "Spread",
    "Sweep",
    "Trial",
    "comparison_table",
    "lines_of",
    "logged_values",
    "matrix_table",
    "sweep_table",
    "write_comparison",
    "write_report",
    "write_sweep",
]
