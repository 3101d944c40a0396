"""What `validate` and `test` print of a stream."""

from collections.abc import Iterable, Mapping

from rich.table import Table

from lit_continual.files.printing import show
from lit_continual.files.whole_files import is_first_rank


def show_scores(found: Mapping[str, Mapping[str, float]], scores: Iterable[str]) -> None:
    """Print scores of a checkpoint, a row an experience; of the scores, those that were logged."""
    if not is_first_rank():
        return
    columns = [score for score in scores if any(score in values for values in found.values())]
    table = Table("experience", *columns)
    for name, values in found.items():
        table.add_row(name, *(f"{values[score]:.3f}" if score in values else "" for score in columns))
    show(table, soft_wrap=False)
