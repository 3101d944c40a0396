"""Which command a YAML file is for, so that one that is given to another says so."""

from pathlib import Path
from typing import Any

from lit_continual.files.whole_files import read_yaml

#: What each command's file is called, and the sections by which it is known.
KINDS = {
    "fit": ("a config", {"model", "data", "trainer", "stream"}),
    "compare": ("a table", {"methods", "cases", "prepare"}),
    "sweep": ("a sweep", {"parameters"}),
}


def read_config(path: Path, command: str) -> dict[str, Any]:
    """Read the YAML file of a command.

    Raises:
        ValueError: If it is missing, not YAML, or the file of another command.

    Example:
        >>> file = getfixture("tmp_path") / "mine.yaml"
        >>> _ = file.write_text("methods: {}")
        >>> read_config(file, "compare")
        {'methods': {}}
        >>> try:
        ...     read_config(file, "fit")
        ... except ValueError as error:
        ...     print(str(error).replace(str(file), file.name))
        mine.yaml is a table, with `methods`; run it by `lit-continual compare --config`.
    """
    found = read_yaml(path)
    if KINDS[command][1].isdisjoint(found):
        for other, (what, sections) in KINDS.items():
            if known := sorted(sections.intersection(found)):
                raise ValueError(f"{path} is {what}, with `{known[0]}`; run it by `lit-continual {other} --config`.")
    return found
