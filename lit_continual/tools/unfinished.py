"""What a call that was interrupted has written, so that the same call goes on with it."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lit_continual.files.plain_data import fits
from lit_continual.files.whole_files import read_json, remove_parts, write_json
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.seal import weights_digest

_TYPES = {"made_of": str, "begun": dict[str, str], "before": dict[str, int]}


class Unfinished(Callback):
    """The record of a prediction in its folder of outputs, which is there while it runs and after it was interrupted.

    A file that is there counts as written by an interrupted call if that was of the same network and options, had begun
    with the same input, and the file was not there before. Each process keeps a record of its own.

    Args:
        folder: Where the outputs go.
        made_of: What says, beside the inputs, what the outputs are.
        inputs: The files of each input, by its name.
        outputs: The files that are made of each input, by its name.
    """

    def __init__(
        self,
        folder: Path,
        made_of: str,
        inputs: Mapping[str, Sequence[Path]],
        outputs: Mapping[str, Sequence[Path]],
    ) -> None:
        self.folder, self.outputs = folder, outputs
        self._inputs = {name: _files_digest(files) for name, files in inputs.items()}
        found = [one for one in map(_read, self._records()) if one and one["made_of"] == made_of]
        begun = {name: digest for one in found for name, digest in one["begun"].items()}
        self.record: dict[str, Any] = {
            "made_of": made_of,
            "begun": {name: digest for name, digest in begun.items() if self._inputs.get(name) == digest},
            "before": {name: time for one in found for name, time in one["before"].items()},
        }
        self.written = self._written()

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob(".unfinished-*.json"))

    def _written(self) -> set[Path]:
        """The outputs that the interrupted call has written."""
        files = [file for name in self.record["begun"] for file in self.outputs[name] if file.is_file()]
        return {file for file in files if self.record["before"].get(file.name) != file.stat().st_mtime_ns}

    @property
    def done(self) -> set[str]:
        """The inputs of which the interrupted call has written all outputs."""
        return {name for name in self.record["begun"] if self.written.issuperset(self.outputs[name])}

    def begin(self) -> None:
        """Write the record of this call in place of what the interrupted one has left; the first process does."""
        there = [file for files in self.outputs.values() for file in files if file.is_file()]
        self.record["before"] = {f.name: f.stat().st_mtime_ns for f in there if f not in self.written}
        self._write(0)
        for record in self._records()[1:]:
            record.unlink(missing_ok=True)
        remove_parts([self._path(0), *(file for files in self.outputs.values() for file in files)])

    @contextlib.contextmanager
    def undone(self, path: Path) -> Iterator[None]:
        """Remove the record, and put ``path`` back as it was, if a block fails before it has written any output."""
        before = path.read_bytes() if path.is_file() else None
        try:
            yield
        except Exception:
            there = [file for files in self.outputs.values() for file in files if file.is_file()]
            if all(self.record["before"].get(file.name) == file.stat().st_mtime_ns for file in there):
                for record in self._records():
                    record.unlink(missing_ok=True)
                if before is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(before)
            raise

    def end(self, rank: int) -> None:
        """Remove the record of a process: all is written."""
        self._path(rank).unlink(missing_ok=True)

    @override
    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        name = batch["name"][0]
        self.record["begun"][name] = self._inputs[name]
        self._write(trainer.global_rank)

    def _path(self, rank: int) -> Path:
        return self.folder / f".unfinished-{rank:05d}.json"

    def _write(self, rank: int) -> None:
        write_json(self._path(rank), self.record)


def made_of(opened: Checkpoint, **options: Any) -> str:
    """Return what distinguishes the outputs of a checkpoint under some options from those of another call."""
    known = {key: opened.content.get(key) for key in ("hyper_parameters", "datamodule_hyper_parameters")}
    text = json.dumps([known, options], sort_keys=True, default=str) + weights_digest(opened.state_dict)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _files_digest(files: Sequence[Path]) -> str:
    found = [(file.resolve(), file.stat() if file.is_file() else None) for file in files]  # others say what is missing
    facts = [(str(path), stat and (stat.st_size, stat.st_mtime_ns)) for path, stat in found]
    return hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """The record of a call; none where there is none, or something else under its name."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.keys() == _TYPES.keys()
    return found if known and all(fits(found[key], kind) for key, kind in _TYPES.items()) else None
