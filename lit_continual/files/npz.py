"""Arrays of an ``.npz``: written, and read of somebody else's, looked at from the outside before it is unpacked."""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LARGEST = 2_000_000_000  # bytes of all arrays that are read
KINDS = "biufcSU?"  # of numbers and text
MOST, LONGEST = 10_000, 20_000  # files in the archive, and bytes of a header

Shape = tuple[int, ...]


def write_npz(file: str | Path | IO[bytes], arrays: Mapping[str, NDArray[Any]], compress: bool = False) -> None:
    """Write arrays of any names as `numpy.savez` does, which takes some names for its own arguments.

    Args:
        file: The path, or a file that is open.
        arrays: The arrays by name, of numbers or text.
        compress: Write less, which takes longer.

    Raises:
        ValueError: If an array holds objects.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                npy.write_array(part, np.asanyarray(array), allow_pickle=False)


class Npz:
    """What an ``.npz`` says that it holds, and its arrays one by one.

    Args:
        file: The path, or the content.
        largest: Bytes of all its arrays at most.

    Raises:
        ValueError: If it is no archive of arrays, or holds more, or something else, than it may.

    Example:
        >>> buffer = io.BytesIO()
        >>> np.savez(buffer, image=np.zeros((2, 3), np.float32))
        >>> archive = Npz(buffer.getvalue())
        >>> archive.shapes, archive.read("image").shape
        ({'image': (2, 3)}, (2, 3))
    """

    def __init__(self, file: Path | bytes, largest: int = LARGEST) -> None:
        self.file = file
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        try:
            with zipfile.ZipFile(self._opened()) as archive:
                parts = archive.infolist()
                if len(parts) > MOST or sum(part.file_size for part in parts) > largest:
                    raise ValueError(f"it unpacks to more than {MOST} arrays or {largest / 1e6:.0f} MB")
                for part in parts:
                    self._look_at(archive, part)
        except ValueError:
            raise
        except _BROKEN as error:
            raise ValueError(_said(error)) from error

    def _opened(self) -> Path | IO[bytes]:
        if isinstance(self.file, bytes):
            return io.BytesIO(self.file)
        if not self.file.is_file():
            raise ValueError("it is no file")
        return self.file

    def _look_at(self, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
        name = part.filename.removesuffix(".npy")
        with archive.open(part) as file:
            shape, dtype = _header(file)
            size = file.tell() + math.prod(shape) * dtype.itemsize
        if name in self.shapes or not part.filename.endswith(".npy") or dtype.kind not in KINDS:
            raise ValueError(f"{name[:LONGEST_NAME]!r} in it is no array of numbers or text of its own name")
        if size != part.file_size:
            raise ValueError(f"{name[:LONGEST_NAME]!r} in it has another size than its shape {shape}")
        self.shapes[name], self.dtypes[name] = shape, dtype

    def require(self, kinds: Mapping[str, tuple[str, int]]) -> None:
        """Check that arrays are there, each with its kind of ``dtype`` and its number of axes.

        Args:
            kinds: For each name the letters of ``dtype.kind`` that it may have, and how many axes.

        Raises:
            ValueError: If they are not.
        """
        for name, (letters, axes) in kinds.items():
            if name not in self.shapes:
                raise ValueError(f"no {name!r}")
            if self.dtypes[name].kind not in letters or len(self.shapes[name]) != axes:
                raise ValueError(f"{name!r} is {self.dtypes[name]} of shape {self.shapes[name]}")

    def read(self, name: str) -> NDArray[Any]:
        """Unpack an array.

        Raises:
            ValueError: If it is damaged, or not there.
        """
        if name not in self.shapes:
            raise ValueError(f"no {name!r}")
        try:
            with zipfile.ZipFile(self._opened()) as archive, archive.open(f"{name}.npy") as file:
                found: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        except ValueError:
            raise
        except _BROKEN as error:
            raise ValueError(_said(error)) from error
        return found


LONGEST_NAME = 80  # characters of a name in an error
#: What the standard library and numpy raise over a broken archive.
_BROKEN = (
    OSError, EOFError, RuntimeError, NotImplementedError, MemoryError, SyntaxError, TypeError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _header(file: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"it has an array of format {version}")
    shape, _, dtype = read(file, max_header_size=LONGEST)
    if any(n < 0 for n in shape):
        raise ValueError(f"it has an array of shape {shape}")
    return shape, dtype


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
