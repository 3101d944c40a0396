"""Tables, plots and the HTML page of a run."""

from lit_continual.reports.adaptation import write_adaptation
from lit_continual.reports.kernels import Dropped, KernelStudy, write_kernel_study
from lit_continual.reports.report import write_report
from lit_continual.reports.run import Run
from lit_continual.reports.terminal import matrix_table

__all__ = ["Dropped", "KernelStudy", "Run", "matrix_table", "write_adaptation", "write_kernel_study", "write_report"]
