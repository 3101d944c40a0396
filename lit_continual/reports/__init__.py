"""Tables, plots and the HTML page of a run."""

from lit_continual.reports.comparison import Column as Column
from lit_continual.reports.comparison import Comparison as Comparison
from lit_continual.reports.comparison import Spread as Spread
from lit_continual.reports.comparison import lines_of as lines_of
from lit_continual.reports.comparison_files import comparison_table as comparison_table
from lit_continual.reports.comparison_files import write_comparison as write_comparison
from lit_continual.reports.logged import logged_values as logged_values
from lit_continual.reports.report import write_report as write_report
from lit_continual.reports.summary import MEASURES as MEASURES
from lit_continual.reports.summary import numbers_to_log as numbers_to_log
from lit_continual.reports.sweep import Sweep as Sweep
from lit_continual.reports.sweep import Trial as Trial
from lit_continual.reports.sweep import sweep_table as sweep_table
from lit_continual.reports.sweep import write_sweep as write_sweep
from lit_continual.reports.terminal import matrix_table as matrix_table
