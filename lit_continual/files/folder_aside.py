"""Folders that are there whole or not at all, made aside; what killed processes have left there is removed."""

import contextlib
import glob
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lit_continual.files.process import Process
from lit_continual.files.whole_files import unwritten


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` that is removed when the block ends."""
    made_folder(folder.parent)
    _remove_left(folder)
    prefix = f".{folder.name}-{os.getpid()}-{socket.gethostname()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as made:
        yield Path(made)


def _remove_left(folder: Path) -> None:
    """Remove what processes that were killed have left beside a folder."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        found = re.fullmatch(rf"(\d+)-{re.escape(socket.gethostname())}-\w+", left.name[len(folder.name) + 2 :])
        if found and left.is_dir() and not left.is_symlink() and Process.of(int(found[1])).is_gone:
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path``, and of all in it, when the block ends well.

    Raises:
        OSError: If the folder cannot be written, with the path and the remedy; ``path`` is then as it was.
    """
    path = Path(os.path.abspath(path))
    try:
        with aside(path) as place:
            new, old = place / "new", place / "old"
            new.mkdir()  # with the permissions of any folder, which those aside have not
            yield new
            if os.path.lexists(path):
                os.replace(path, old)  # of a link the link
            try:
                os.replace(new, path)
            except OSError:
                if os.path.lexists(old):
                    os.replace(old, path)
                raise
    except (OSError, RuntimeError) as error:
        if (said := unwritten(path, error)) is not None:
            raise said from error
        raise


def made_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those around it, if it is not there.

    Raises:
        OSError: If it cannot be made, with the path and the remedy.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(Path(path), error) or error from error
