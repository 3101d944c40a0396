"""What a call that was interrupted has written, so that the same call goes on with it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_continual.runs.checkpoint import Checkpoint
from lit_continual.runs.files import read_json, write_json
from lit_continual.runs.plain_data import fits
from lit_continual.runs.seal import weights_digest

RECORD = ".unfinished.json"
_TYPES = {"made_of": str, "inputs": dict[str, str], "before": dict[str, int]}


class Unfinished:
    """The record of a call in its folder of outputs, which is there while it runs and after it was interrupted.

    A file that is there counts as written by the interrupted call if that was of the same network and options, if the
    input was the same file, and if the file was not there before.

    Args:
        folder: Where the outputs go.
        made_of: What says, beside the inputs, what the outputs are.
        inputs: The files of each input, by its name.
        outputs: The files that are made of each input, by its name.
    """

    def __init__(
        self, folder: Path, made_of: str, inputs: Mapping[str, Sequence[Path]], outputs: Mapping[str, Sequence[Path]]
    ) -> None:
        self.path, self.outputs = folder / RECORD, outputs
        self.record: dict[str, Any] = {"made_of": made_of, "before": {}}
        self.record["inputs"] = {name: _files_digest(files) for name, files in inputs.items()}
        found = _read(self.path)
        mine = found if found and found["made_of"] == made_of else {"inputs": {}, "before": {}}
        self._same = {name for name, digest in self.record["inputs"].items() if mine["inputs"].get(name) == digest}
        self._before: dict[str, int] = mine["before"]

    @property
    def written(self) -> set[Path]:
        """The outputs that the interrupted call has written."""
        files = [file for name in self._same for file in self.outputs[name] if file.is_file()]
        return {file for file in files if self._before.get(file.name) != file.stat().st_mtime_ns}

    @property
    def done(self) -> set[str]:
        """The inputs of which all outputs are written."""
        written = self.written
        return {name for name in self._same if written.issuperset(self.outputs[name])}

    def begin(self) -> None:
        """Write the record of this call."""
        written = self.written
        there = [file for files in self.outputs.values() for file in files if file.is_file() and file not in written]
        write_json(self.path, {**self.record, "before": {file.name: file.stat().st_mtime_ns for file in there}})

    def end(self) -> None:
        """Remove the record: all is written."""
        self.path.unlink(missing_ok=True)


def made_of(opened: Checkpoint, **options: Any) -> str:
    """Return what distinguishes the outputs of a checkpoint under some options from those of another call."""
    known = {key: opened.content.get(key) for key in ("hyper_parameters", "datamodule_hyper_parameters")}
    text = json.dumps([known, options], sort_keys=True, default=str) + weights_digest(opened.state_dict)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _files_digest(files: Sequence[Path]) -> str:
    facts = [(str(file.resolve()), (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """The record of a call; none where there is none, or something else under its name."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.keys() == _TYPES.keys()
    return found if known and all(fits(found[key], kind) for key, kind in _TYPES.items()) else None
