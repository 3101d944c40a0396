"""What an experience is, and what is known of it once it was learnt."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr
from typing import Any

from lit_continual.files.plain_data import fits, types_of
from lit_continual.runs.checkpoints.spec import Arguments

#: What no file system, table or terminal may meet in a name: control characters, separators, and what Windows refuses.
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff<>:"/\\|?*]|^[.\s]|[.\s]$')
LONGEST = 100


def is_name_of_a_file(name: str) -> bool:
    """Whether a path may be made with a name from a file or a config.

    Example:
        >>> is_name_of_a_file("left kidney"), is_name_of_a_file("../kidney"), is_name_of_a_file("")
        (True, False, False)
    """
    return 0 < len(name) <= LONGEST and not _UNFIT.search(name)


@dataclass
class Experience:
    """One thing to learn, in one fit.

    Args:
        name: Its name in tables and files.
        classes: The classes it reveals, name to label value; given to the data module as ``classes``.
        data: What differs from the ``data`` section, as arguments of the data module; or another data module in full,
            with ``class_path``, dotted, and ``init_args``.
        max_epochs: Epochs of this fit, where they differ from those of the trainer. With 0 nothing is learnt: the row
            says what the network that the stream starts from knows. The one fit of ``joint`` takes the trainer's.
        model: What differs from the ``model`` section in this fit, such as the optimizer, as arguments of the model.
        remember: Whether the memory of the stream keeps samples of it; not where nobody may, or nothing comes after.
    """

    name: str
    classes: dict[str, int | str] = field(default_factory=dict)
    data: Arguments = field(default_factory=dict)
    max_epochs: int | None = None
    model: Arguments = field(default_factory=dict)
    remember: bool = True

    def require_name_of_a_folder(self) -> None:
        """Check the name, from which the paths of a run are made.

        Raises:
            ValueError: If it cannot be that of a folder.
        """
        if not is_name_of_a_file(self.name):
            raise ValueError(
                f"An experience cannot be called {self.name!r}: its name is that of a folder. Use letters, digits,"
                f" spaces, `_` and `-`, up to {LONGEST}."
            )


@dataclass(frozen=True)
class Facts:
    """What ``run.json`` says of an experience; ``None`` before it is known.

    Attributes:
        epochs: Epochs of its fit.
        steps: Training steps of its fit.
        seconds: Time of its fit, in s.
        selection_seconds: Time of the choice of its exemplars, in s.
        evaluation_seconds: Time of the evaluation after it, in s.
        checkpoint_bytes: Size of its checkpoint.
        memory_bytes: Size of what methods keep of the past: callbacks and exemplars.
        exemplars: How many exemplars were kept of it.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    selection_seconds: float | None = None
    evaluation_seconds: float | None = None
    checkpoint_bytes: int | None = None
    memory_bytes: int | None = None
    exemplars: int | None = None


def facts_in(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    """What a fit has noted in its checkpoint of how long it was, for a run that was killed before it noted it too.

    Raises:
        ValueError: If something is missing, or is no number.
    """
    said: Any = content.get("experience")
    facts = {name: said[name] for name in types_of(Facts) if name in said} if isinstance(said, Mapping) else {}
    if not fits(facts, dict[str, int | float]) or not {"epochs", "steps", "seconds"} <= facts.keys():
        raise ValueError(f"{path} does not say how long its fit was ({repr(said)}). Remove it to learn it again.")
    if bad := [name for name, value in facts.items() if not 0 <= value < math.inf]:
        raise ValueError(f"{path} says that `{bad[0]}` is {facts[bad[0]]}. Remove it to learn it again.")
    return facts


def require_own(content: Mapping[str, Any], path: Path, index: int, name: str) -> None:
    """Check that a checkpoint is that of the experience in whose folder it lies; old ones do not say whose they are.

    Raises:
        ValueError: If it is that of another one.
    """
    said: Any = content.get("experience")
    known = {"index": index, "name": name}
    found = {key: said[key] for key in known if key in said} if isinstance(said, Mapping) else {}
    if found and found != known:
        raise ValueError(
            f"{path} is the checkpoint of experience {repr(found.get('index'))}, {repr(found.get('name'))}, and lies in"
            f" the folder of {index}, {name!r}. Put back its own from a copy, or remove it to learn it again."
        )
