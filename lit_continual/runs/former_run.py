"""The run that another one takes the place of: kept aside until that has trained, and put back if it is refused."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lit_continual.files.whole_files import is_first_rank

#: What belongs to a run in its folder. What says that it is there comes last.
PARTS = (
    "experiences", "memory", "overlays", "report", "logs", "cases.csv", "matrix.json", "config.yaml", "run.json",
)  # fmt: skip


class FormerRun:
    """What was in a folder before ``--overwrite``; a process may be killed anywhere in each of these.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.aside, self.dropped = folder, folder / ".overwritten", folder / ".overwritten.removed"

    @property
    def exists(self) -> bool:
        """Whether there is one that can be put back."""
        return self.aside.is_dir() and not self.aside.is_symlink()  # whoever made a link chose where it leads

    def recover(self) -> None:
        """End what a process that was killed has left half done."""
        remove(self.dropped)
        there = [(place / PARTS[-1]).exists() for place in (self.folder, self.aside)]
        if self.exists and there != [True, True]:  # else a new run is there, which has not trained yet
            self.put_back()

    def set_aside(self) -> None:
        """Move the run aside; of one that has not trained, the one that it was to take the place of."""
        if self.exists:
            self.put_back()
        remove(self.aside)
        self.aside.mkdir(exist_ok=True)
        for name in PARTS:
            if (self.folder / name).exists() or (self.folder / name).is_symlink():
                (self.folder / name).rename(self.aside / name)

    @contextlib.contextmanager
    def there_after_errors(self) -> Iterator[None]:
        """Put it back if the block fails; a signal leaves it aside, for --resume to go on with the new one."""
        try:
            yield
        except Exception:
            if self.exists and is_first_rank():
                self.put_back()
            raise

    def put_back(self) -> None:
        """Move it back, in the place of what a new one has begun."""
        if (self.aside / PARTS[-1]).exists():  # else it was not all moved, and what is there is its own
            remove(self.folder / PARTS[-1])
        for name in PARTS:
            if (self.aside / name).exists() or (self.aside / name).is_symlink():
                remove(self.folder / name)
                (self.aside / name).rename(self.folder / name)
        shutil.rmtree(self.aside, ignore_errors=True)

    def drop(self) -> None:
        """Remove it, as the new one has trained."""
        if self.exists:
            remove(self.dropped)
            self.aside.rename(self.dropped)
            remove(self.dropped)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
