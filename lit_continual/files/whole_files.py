"""Files that are there whole or not at all: what a killed process or a full disk leaves is the old file."""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning_utilities.core.rank_zero import rank_zero_only

from lit_continual.files.bounded_yaml import load_bounded, safe_load
from lit_continual.files.printing import printable

TORCH_WRITER = ("inline_container.cc", "PytorchStreamWriter", "iostream error")  # what torch.save says of a full disk
AGAIN = "then run the command again; a fit goes on with --resume."
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What to do about a file that cannot be read or written, by what the system says of it.
REMEDIES = {
    **dict.fromkeys(FULL, "Free some space or choose another folder"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Get the permission for it or choose another folder"),
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "Choose a place whose links do not lead in a circle",
    errno.EROFS: "Choose a folder on a file system that may be written",
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR), "Move away what is in the place of the file"),
    errno.EIO: "Check the disk or choose a folder on another one",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (`ulimit -n 4096`) or take fewer workers"),
}
LARGEST = 64_000_000  # bytes of a file of text
LONGEST = 500  # characters that are said of an error
HIGHEST = 1e30  # of a number in a file of this package: its square is a number too
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # those of Lightning, in its order


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an exception.

    Raises:
        OSError: If the file cannot be written, with the path and the remedy; ``path`` is then as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.txt"
        >>> with replaced(path) as temporary:
        ...     _ = temporary.write_text("0.9")
        >>> path.read_text()
        '0.9'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs no file that is open for reading alone
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        _remove(temporary)
        if (said := unwritten(path, error)) is not None:
            raise said from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def part_of(name: str) -> str:
    """Return which file a file of this name is an unfinished part of, as a killed process leaves one; "" for none.

    Example:
        >>> part_of(".scores.txt.4711.part"), part_of("scores.txt")
        ('scores.txt', '')
    """
    found = re.fullmatch(r"\.(.+)\.\d+\.part", name)
    return found[1] if found else ""


def remove_parts(paths: Iterable[Path]) -> None:
    """Remove what killed processes have left of files that nobody else may be writing."""
    known = set(paths)
    for folder in {path.parent for path in known}:
        for part in folder.glob(".*.part"):
            if folder / part_of(part.name) in known:
                part.unlink(missing_ok=True)


def in_one_line(error: BaseException) -> str:
    r"""Return the first line of what an exception says; its type where it says nothing.

    Example:
        >>> in_one_line(EOFError()), in_one_line(RuntimeError("write failed:\nframe #0"))
        ('EOFError', 'write failed')
    """
    lines = [line.strip().rstrip(":.") for line in str(error).splitlines() if line.strip()]
    return printable(lines[0])[:LONGEST] if lines else type(error).__name__


@contextlib.contextmanager
def explaining(what: str, remedy: str, *kinds: type[BaseException]) -> Iterator[None]:
    """Say what cannot be done and what helps, with an error that says only why between them.

    Raises:
        ValueError: In place of an exception of these kinds.

    Example:
        >>> with explaining("scores.json is not valid JSON", "Restore it.", EOFError):
        ...     raise EOFError("it ends at once.")
        Traceback (most recent call last):
        ValueError: scores.json is not valid JSON (it ends at once). Restore it.
    """
    try:
        yield
    except kinds as error:
        raise ValueError(f"{what} ({in_one_line(error)}). {remedy}") from error


def unwritten(path: Path, error: BaseException) -> OSError | None:
    """Say of a file or folder that could not be written why, and the remedy; nothing of an error of another kind."""
    if isinstance(error, OSError) and error.errno is None and error.__cause__:  # of a file in the folder
        return unwritten(path, error.__cause__)
    if not (reason := _why_not_written(error)):
        return None
    what = remedy(error) or f"Choose another folder, {AGAIN}"
    return OSError(f"Cannot write {path} ({reason}); what was there before is unharmed. {what}")


def remedy(error: BaseException) -> str:
    """Return what to do about a file that could not be written; nothing where ``error`` does not say why.

    Example:
        >>> remedy(OSError(errno.EROFS, "Read-only file system"))
        'Choose a folder on a file system that may be written, then run the command again; a fit goes on with --resume.'
    """
    known = REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    if known is None and any(word in str(error) for word in TORCH_WRITER):
        return remedy(error.__context__) if error.__context__ else f"{REMEDIES[errno.ENOSPC]}, {AGAIN}"
    return f"{known}, {AGAIN}" if known else ""


def _why_not_written(error: BaseException | None) -> str:
    """Return why a write failed, or nothing if ``error`` is about something else."""
    if isinstance(error, OSError):
        return error.strerror or in_one_line(error)
    if error is not None and any(word in str(error) for word in TORCH_WRITER):
        return _why_not_written(error.__context__) or "only a part of it could be written"
    return ""


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # where its folder could not be made either
        path.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as JSON to ``path``, atomically; nan is not JSON and has to be None already."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike[str], errors: str = "strict") -> str:
    """Read a file of UTF-8 that somebody else may have written.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no ordinary file, is too large, or is not UTF-8.
    """
    file = os.stat(path)
    if not stat.S_ISREG(file.st_mode):
        raise ValueError("it is no file")
    if file.st_size > LARGEST:
        raise ValueError(f"it has {file.st_size / 1e6:.0f} MB, and {LARGEST / 1e6:.0f} MB are enough")
    try:
        return Path(path).read_bytes().decode("utf-8", errors)  # with the ends of lines that it has
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8: save it as such") from error


def parsed_json(text: str, finite: bool = False) -> Any:
    """Parse JSON.

    Args:
        text: The text.
        finite: Whether each number must be one to reckon with, as in files of this package: the standard library reads
            NaN and Infinity, which JSON does not know and which cannot be written again.

    Raises:
        ValueError: If it is no JSON, or nested too deeply.
    """
    number = _finite if finite else None
    try:
        text = text.removeprefix("\ufeff")  # which editors of Windows put before it
        return json.loads(text, parse_float=number, parse_int=number, parse_constant=number)
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    if not abs(value := float(text)) <= HIGHEST:
        raise ValueError(f"it holds the number {text[:30]}")
    return int(text) if text.lstrip("-").isdecimal() else value


def read_json(path: str | os.PathLike[str], finite: bool = False) -> Any:
    """Read ``path`` as JSON, see :func:`parsed_json`.

    Raises:
        ValueError: If it is not JSON, with the path.
    """
    with explaining(f"{path} is not valid JSON", "Restore the file or make it anew.", ValueError):
        return parsed_json(read_text(path), finite)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ValueError: If it is missing, not YAML, or something else.
    """
    try:
        found = load_bounded(read_text(path), safe_load)
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}. Check the path.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({in_one_line(error)}). Correct it.") from error
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"{path} holds {what}, and not names and their values. Correct it.")
    return found


def is_first_rank() -> bool:
    """Whether this process is the one of a distributed run that writes: by Lightning, else by the environment."""
    from_environment = next((rank for name in RANKS if (rank := os.environ.get(name)) is not None), 0)
    return int(getattr(rank_zero_only, "rank", from_environment)) == 0
