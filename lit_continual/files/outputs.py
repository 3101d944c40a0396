"""What a command writes never falls on what it reads, nor unasked on what is there."""

import os
from collections.abc import Iterable
from pathlib import Path

AnyPath = str | os.PathLike[str]


def require_apart(outputs: Iterable[AnyPath], inputs: Iterable[AnyPath], option: str = "--output") -> None:
    """Check that no output is an input.

    Args:
        outputs: Files that will be written, or folders of which every file may be.
        inputs: Files and folders that are read.
        option: What names the outputs.

    Raises:
        ValueError: If one is, under whatever name: links are followed.

    Example:
        >>> require_apart(["scan.nii.gz"], ["./scan.nii.gz"])
        Traceback (most recent call last):
        ValueError: The input ./scan.nii.gz would be overwritten. Choose another --output than ...
    """
    read: dict[Path, AnyPath] = {}
    identities: dict[tuple[int, int], AnyPath] = {}
    for path in inputs:
        read.setdefault(Path(path).resolve(), path)
        if (identity := _identity(path)) is not None:
            identities.setdefault(identity, path)
    for path in outputs:
        identity = _identity(path)
        found = read.get(Path(path).resolve(), identities.get(identity) if identity else None)
        if found is not None:
            raise ValueError(
                f"The input {found} would be overwritten. Choose another {option} than {Path(path).parent}."
            )


def require_replaceable(folder: AnyPath, inputs: Iterable[AnyPath], option: str = "--output") -> None:
    """Check that a folder that is written in place of all that is in it holds no input, and lies in none.

    Raises:
        ValueError: If it does, or the command runs in it.
    """
    place, here = Path(folder).resolve(), Path.cwd()
    read = {**{Path(path).resolve(): path for path in inputs}, **{Path(os.path.abspath(p)): p for p in inputs}}
    for path, given in {here: "", **read}.items():
        if path.is_relative_to(place) or (path != here and place.is_relative_to(path)):
            what = f"input {given}" if given else "folder in which the command runs"
            raise ValueError(f"The {what} would be overwritten. Choose another {option} than {folder}.")


def require_new(outputs: Iterable[AnyPath], overwrite: bool) -> None:
    """Check that no output is there already, unless it is to be replaced.

    Raises:
        ValueError: If one is, and ``overwrite`` is not set, or it is a device or a pipe.
    """
    there = [path for path in outputs if os.path.lexists(path)]
    if odd := [path for path in map(Path, there) if path.exists() and not (path.is_file() or path.is_dir())]:
        raise ValueError(f"{odd[0]} is a device or a pipe, which no file can replace. Choose another --output.")
    there = [] if overwrite else there
    if there:
        more = f" and {len(there) - 1} more files are" if len(there) > 1 else " is"
        raise ValueError(f"{there[0]}{more} there already. Add --overwrite to replace, or choose another --output.")


def require_folder(path: AnyPath, option: str = "--output") -> None:
    """Check that a path is that of a folder, there or to be made.

    Raises:
        ValueError: If it, or what it should lie in, is a file.
    """
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, and {option} needs a folder. Choose another {option}.")


def _identity(path: AnyPath) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
