"""Where a sweep keeps its study: a journal that outlives a kill, on any file system."""

import os
from pathlib import Path
from typing import Any

from lit_continual.files.whole_files import in_one_line, replaced

NAME = "study.log"
OLD = "study.db"  # of versions that kept a study in SQLite, which is not for network file systems
STUDY = "sweep"


def open_journal(optuna: Any, folder: Path) -> Any:
    """Open the storage of a sweep's study, taken over from a ``study.db`` where there is one and no journal.

    Raises:
        ValueError: If the journal is damaged.
    """
    path, old = folder / NAME, folder / OLD
    remedy = "Restore it, or begin the sweep in another folder by --output."
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file. {remedy}")
    if (lock := Path(f"{path}.lock")).is_symlink():  # of no version, and waited for without end if it leads nowhere
        lock.unlink()
    try:
        if old.exists() and not path.exists():
            with replaced(path) as temporary:
                storage = _storage(optuna, temporary)
                optuna.copy_study(
                    from_study_name=STUDY, from_storage=f"sqlite:///{old}", to_storage=storage, to_study_name=STUDY
                )
        _mend(optuna, path)
        return _storage(optuna, path)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        damaged = path if path.exists() else old
        raise ValueError(f"{damaged} is damaged ({in_one_line(error)}). {remedy}") from error


def _storage(optuna: Any, path: Path) -> Any:
    journal = optuna.storages.journal
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=_lock(optuna, path)))


def _lock(optuna: Any, path: Path) -> Any:
    return optuna.storages.journal.JournalFileOpenLock(str(path))  # a file that one alone can make, also over NFS


def _mend(optuna: Any, path: Path) -> None:
    """Take away the half of a line that a killed process or a full disk has left at the end."""
    if not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock = _lock(optuna, path)
    lock.acquire()
    try:
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
