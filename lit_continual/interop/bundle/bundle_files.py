"""The files of a MONAI bundle, in a folder or in a zip, each read up to a bound."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lit_continual.files.bounded_yaml import load_bounded, safe_load
from lit_continual.files.printing import printable
from lit_continual.files.whole_files import explaining, parsed_json
from lit_continual.runs.checkpoints.load_checkpoint import load_checkpoint

METADATA, WEIGHTS, LICENSE = "configs/metadata.json", "models/model.pt", "LICENSE"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
LONGEST = 1_000_000  # bytes of a text
LARGEST = 16 * 2**30  # bytes of the weights
DENSEST = 200  # times its size that a file may unpack to, where that is much
MUCH = 100_000_000  # bytes
MOST = 10_000  # files in a zip
_NESTED = ("model", "state_dict", "network")  # under which a file may hold the weights
#: What the standard library raises over a broken archive.
_BROKEN = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class BundleFiles:
    """What is read of a bundle: a few files by their names, of which none leads anywhere else.

    Args:
        path: The folder, or a zip of it.

    Raises:
        ValueError: If it is no bundle, or its zip is damaged or unpacks to more than it may.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members = {} if path.is_dir() else self._listed()
        for name in (METADATA, WEIGHTS):
            if not self._has(name):
                raise ValueError(
                    f"{path} is no MONAI bundle with weights: it has no {name}. Add that file, or give another bundle."
                )

    def _listed(self) -> dict[str, zipfile.ZipInfo]:
        """The members of a zip by their names in the bundle, which may lie in a folder of the zip."""
        with (
            explaining(f"{self.path} cannot be read as a zip", "It may be truncated; fetch it again.", *_BROKEN),
            zipfile.ZipFile(self.path) as archive,
        ):
            parts = archive.infolist()
        roots = [part.filename.removesuffix(METADATA) for part in parts if part.filename.endswith(METADATA)]
        if len(parts) > MOST or not roots:
            raise ValueError(
                f"{self.path} is no zip of a MONAI bundle: it has {len(parts)} files and no {METADATA}. Give another."
            )
        root = min(roots, key=len)
        return {p.filename.removeprefix(root): p for p in parts if p.filename.startswith(root)}

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file() if self.path.is_dir() else name in self._members

    def _bytes(self, name: str, most: int) -> bytes:
        """Read a file whole.

        Raises:
            ValueError: If it is damaged, or larger than ``most``.
        """
        with explaining(f"{name} in {self.path} cannot be read", "Fetch the bundle again.", *_BROKEN):
            if self.path.is_dir():
                with (self.path / name).open("rb") as file:
                    found = file.read(most + 1)
            else:
                part = self._members[name]
                if part.file_size > max(MUCH, DENSEST * part.compress_size):
                    raise ValueError(f"{name} in {self.path} unpacks to {part.file_size / 1e6:.0f} MB. Fetch it again.")
                with zipfile.ZipFile(self.path) as archive, archive.open(part) as file:
                    found = file.read(most + 1)
        if len(found) > most:
            raise ValueError(f"{name} in {self.path} has more than {most / 1e6:.0f} MB. Give another bundle.")
        return found

    def text(self, name: str) -> str:
        """The text of a file; nothing where there is none.

        Raises:
            ValueError: If it is too long, or is no text.
        """
        if not self._has(name):
            return ""
        try:
            return self._bytes(name, LONGEST).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} in {self.path} is no text in UTF-8. Write it anew.") from error

    def license(self) -> str:
        """The text of the license, which goes wherever the model does.

        Raises:
            ValueError: As :meth:`text`, and if it is a link out of the bundle, to what may be nobody's business.
        """
        if self.path.is_dir() and not (self.path / LICENSE).resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{LICENSE} in {self.path} is a link to elsewhere. Copy the text there, or remove it.")
        return self.text(LICENSE)

    def mapping(self, name: str) -> dict[str, Any]:
        """What a file of JSON or YAML holds.

        Raises:
            ValueError: If that is no mapping, or cannot be read.
        """
        with explaining(
            f"{name} in {self.path} cannot be read", "Correct it, or give another bundle.", ValueError, yaml.YAMLError
        ):
            text = self.text(name)
            found = parsed_json(text) if name.endswith(".json") else load_bounded(text, safe_load)
        if not isinstance(found, dict):
            raise ValueError(f"{name} in {self.path} holds a {type(found).__name__}, not names and values. Correct it.")
        return found

    def config(self) -> tuple[str, dict[str, Any]]:
        """The name of the config of inference, and what it holds.

        Raises:
            ValueError: If there is none.
        """
        name = next((name for name in CONFIGS if self._has(name)), None)
        if name is None:
            raise ValueError(
                f"{self.path} has no {CONFIGS[0]}, which says what the network is. Add it, or give another bundle."
            )
        return name, self.mapping(name)

    def weights(self) -> Mapping[str, Any]:
        """The weights of the network.

        Raises:
            ValueError: If the file cannot be read as tensors by name.
        """
        with self._weights_file() as file:
            try:
                found: Any = load_checkpoint(file)
            except ValueError as error:
                raise ValueError(str(error).replace(str(file), f"{WEIGHTS} in {self.path}")) from error
        nested: list[Mapping[str, Any]] = [found[key] for key in _NESTED if isinstance(found.get(key), Mapping)]
        return nested[0] if nested else found

    @contextmanager
    def _weights_file(self) -> Iterator[Path]:
        if self.path.is_dir():
            yield self.path / WEIGHTS
        else:
            with TemporaryDirectory() as folder:
                file = Path(folder) / "model.pt"
                file.write_bytes(self._bytes(WEIGHTS, LARGEST))
                yield file


def is_bundle(path: Path) -> bool:
    """Whether a folder has the metadata of a bundle; of a zip that it is one."""
    return (path / METADATA).is_file() or (path.suffix.lower() == ".zip" and path.is_file())


def shown(value: object, longest: int = 80) -> str:
    """A value from a file as it may stand in an error."""
    text = printable(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
