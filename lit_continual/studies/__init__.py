"""Many fits, each a process and a folder: tables of methods, and sweeps over options."""

from lit_continual.studies.cells import Cell, Workers, run_cells
from lit_continual.studies.layout import Layout, read_layout
from lit_continual.studies.sweep_file import SweepFile, read_sweep
from lit_continual.studies.table import RunTable
from lit_continual.studies.trials import Trials

__all__ = ["Cell", "Layout", "RunTable", "SweepFile", "Trials", "Workers", "read_layout", "read_sweep", "run_cells"]
