"""The exemplars of a stream on disk: a folder of arrays, and a manifest that says what they are."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_continual.files.folder_lock import FolderLock
from lit_continual.files.plain_data import require_types
from lit_continual.files.printing import printable, printable_errors
from lit_continual.files.whole_files import explaining, part_of, read_json, replaced, write_json
from lit_continual.methods.rehearsal.budget import Budget
from lit_continual.methods.rehearsal.exemplar import Exemplar, checksum, is_file_of_exemplar, packed, unpacked

FORMAT = 1


class ExemplarMemory:
    """A folder with a file for each exemplar and ``manifest.json``.

    The manifest is replaced in one step after the files it names were written, and files it no longer names go last: a
    process that is killed, or a disk that is full, leaves what was there before or what should be there, never less.
    Every file is held against its checksum when it is read. Only one process may write at a time.

    Args:
        folder: The folder; it need not be there yet.

    Example:
        >>> import tempfile, torch
        >>> memory = ExemplarMemory(tempfile.mkdtemp())
        >>> pick = Exemplar("first", 0, {"bone": 0}, "a list", "p1")
        >>> memory.add("first", ["bone"], [(pick, {"image": torch.ones(2)})], Budget())
        >>> memory.load(memory.exemplars[0])
        {'image': tensor([1., 1.])}
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "manifest.json"

    @property
    @printable_errors()
    def manifest(self) -> dict[str, Any]:
        """What is in the folder.

        Raises:
            ValueError: If the manifest is damaged, or of another program.
        """
        self._require_no_link()
        if not self.path.exists():
            return {"format": FORMAT, "experiences": {}, "exemplars": []}
        manifest = read_json(self.path, finite=True)
        with explaining(
            f"{self.path} is no manifest of a memory of format {FORMAT}", "Restore it from a copy.", ValueError
        ):
            require_types(manifest, {"format": int, "exemplars": list[Any], "experiences": dict[str, dict[str, Any]]})
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']}")
            for facts in manifest["experiences"].values():
                require_types(facts, {"classes": list[str]})
        return dict(manifest)

    def _require_no_link(self) -> None:
        """Check that the memory is a folder of its own, and none of its parts lies elsewhere."""
        for part in (self.folder, self.folder / "exemplars", self.path):
            if part.is_symlink():
                raise ValueError(f"{part} is a symbolic link, and a memory stays within its folder. Give the folder.")

    @property
    @printable_errors()
    def exemplars(self) -> list[Exemplar]:
        """All exemplars, those of each experience in the order in which they were picked."""
        found = [Exemplar.read(entry, self.path) for entry in self.manifest["exemplars"]]
        places = Counter((exemplar.experience, exemplar.rank) for exemplar in found)
        if twice := next((place for place, count in places.items() if count > 1), None):
            raise ValueError(
                f"{self.path} has {places[twice]} exemplars of rank {twice[1]} of {twice[0]!r}. Restore it from a copy."
            )
        return found

    @property
    def experiences(self) -> dict[str, dict[str, Any]]:
        """The experiences that exemplars were chosen from, with their ``classes`` and further facts."""
        found: dict[str, dict[str, Any]] = self.manifest["experiences"]
        return found

    @printable_errors()
    def load(self, exemplar: Exemplar) -> dict[str, Any]:
        """Read the sample of an exemplar.

        Raises:
            ValueError: If its file is missing, or is not what was stored.
        """
        content = self._content(exemplar)
        with explaining(
            f"{self.folder / 'exemplars' / exemplar.file} is no exemplar", "Restore it from a copy.", ValueError
        ):
            return unpacked(content, exemplar.values)

    def add(
        self,
        experience: str,
        classes: Sequence[str],
        picks: Iterable[tuple[Exemplar, Mapping[str, Any]]],
        budget: Budget,
        **facts: Any,
    ) -> None:
        """Store the exemplars of an experience, in place of those it may have, and drop what exceeds the budget.

        Args:
            experience: Its name.
            classes: What the exemplars were picked for.
            picks: Exemplars in their order, without a file yet, each with its sample.
            budget: What the memory may hold in all.
            facts: What the manifest says of the experience beside.
        """
        contents, new = dict[str, bytes](), list[Exemplar]()
        for exemplar, sample in [] if budget.empty else picks:
            content, values = packed(sample)
            digest = checksum(content)
            file = f"{digest[:32]}.npz"
            contents[file] = content
            new.append(replace(exemplar, values=values, file=file, sha256=digest, bytes=len(content)))
        self._require_no_link()
        with FolderLock(self.folder).held():
            experiences = {**self.experiences, experience: {"classes": list(classes), **facts}}
            old = [exemplar for exemplar in self.exemplars if exemplar.experience != experience]
            kept = budget.kept([*old, *new], {name: e["classes"] for name, e in experiences.items()})
            self._write({e.file: contents[e.file] for e in kept if e.file in contents})
            self._commit(kept, {"exemplar_free": budget.empty, "budget": vars(budget), "experiences": experiences})

    def begin(self, start: str | os.PathLike[str]) -> None:
        """Take over what another memory holds, unless there is something here already."""
        other = ExemplarMemory(start)
        other.require()
        if not self.path.exists():
            contents = {exemplar.file: other._content(exemplar) for exemplar in other.exemplars}
            with FolderLock(self.folder).held():
                self._write(contents)
                self._commit(other.exemplars, _facts(other.manifest))

    def require(self) -> None:
        """Check that there is a memory.

        Raises:
            ValueError: If there is none in the folder, or its manifest is damaged.
        """
        if not self.path.exists():
            raise ValueError(
                f"There is no memory in {self.folder}: it has no manifest.json. Give the `memory` of a run."
            )
        _ = self.exemplars

    def require_of(self, experiences: Sequence[str]) -> None:
        """Check that exemplars were chosen from experiences, of whom a run says so.

        Raises:
            ValueError: If the memory does not know one, so that it is not the one that the run had.
        """
        if lost := [name for name in experiences if name not in self.experiences]:
            raise ValueError(
                f"{self.path} has no exemplars of {', '.join(lost)}, which the run has kept: the memory was lost or is"
                " of another run. Restore the folder from a copy, or start the run anew with --overwrite."
            )

    def forget(self, patient: str) -> int:
        """Remove all exemplars of a patient; return how many there were.

        Their files go first: after a call that was killed the manifest still names them, and the same call goes on.

        Raises:
            ValueError: If there are none, or a run that is under way may have read them.
        """
        self.require()
        FolderLock(self.folder.parent).require_free()
        with FolderLock(self.folder).held():
            exemplars = self.exemplars
            kept = [exemplar for exemplar in exemplars if exemplar.patient != patient]
            if len(kept) == len(exemplars):
                patients = ", ".join(sorted({exemplar.patient for exemplar in exemplars})) or "nobody"
                raise ValueError(printable(f"{self.folder} holds nothing of patient {patient}. It holds {patients}."))
            for file in {exemplar.file for exemplar in exemplars} - {exemplar.file for exemplar in kept}:
                _remove(self.folder / "exemplars" / file)
            self._commit(kept, _facts(self.manifest))
        return len(exemplars) - len(kept)

    @printable_errors()
    def _content(self, exemplar: Exemplar) -> bytes:
        self._require_no_link()
        path = self.folder / "exemplars" / exemplar.file
        whose = f"--patient '{exemplar.patient}'"
        remedy = f"Restore it, or drop the patient: lit-continual memory forget {self.folder} {whose}."
        if not path.exists():
            raise ValueError(f"{path}, an exemplar, is missing. {remedy}")
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path}, an exemplar, is no file. {remedy}")
        same = path.stat().st_size == exemplar.bytes
        content = path.read_bytes() if same else b""
        if not same or checksum(content) != exemplar.sha256:
            raise ValueError(f"{path}, an exemplar, is damaged: its checksum differs. {remedy}")
        return content

    def _write(self, contents: Mapping[str, bytes]) -> None:
        """Write files that are not there yet; if one cannot be written, take away the others."""
        known = {exemplar.file for exemplar in self.exemplars}
        try:
            for file, content in contents.items():
                with replaced(self.folder / "exemplars" / file) as temporary:
                    temporary.write_bytes(content)
        except OSError:
            for file in contents.keys() - known:
                (self.folder / "exemplars" / file).unlink(missing_ok=True)
            raise

    def _commit(self, kept: Sequence[Exemplar], facts: Mapping[str, Any]) -> None:
        self._require_no_link()
        write_json(self.path, {"format": FORMAT, **facts, "exemplars": [exemplar.entry() for exemplar in kept]})
        files = {exemplar.file for exemplar in kept}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # nothing was ever kept
            for path in (self.folder / "exemplars").iterdir():
                if is_file_of_exemplar(part_of(path.name) or path.name) and path.name not in files:
                    _remove(path)


def _remove(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):  # else it is no exemplar, whatever it is called
        path.unlink()


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in manifest.items() if k not in ("format", "exemplars")}
