"""Count the kinds of bad input that the fast tests try, and what is said of each: ``make bad-input``.

A kind is a test, or one of its parameters, that expects an error of a user's: ``ValueError`` or Lightning's
``MisconfigurationException``. It is clear where it is on one line and ends as a sentence does.
"""

import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest

PLACE = "BAD_INPUT_RECORDS"
NAMES = {"ValueError", "MisconfigurationException"}


class Recorded:
    """``pytest.raises`` that notes what was raised."""

    def __init__(self, raises):
        self.raises = raises

    def __enter__(self):
        self.caught = self.raises.__enter__()
        return self.caught

    def __exit__(self, *raised):
        passed = self.raises.__exit__(*raised)
        if passed and raised[0] is not None and raised[0].__name__ in NAMES:
            test, said = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0], str(raised[1])
            with Path(os.environ[PLACE]).open("a", encoding="utf-8") as file:
                file.write(f"{test}\t{said!r}\n")
        return passed


def pytest_configure(config):
    """Record from now on, in each process."""
    raises = pytest.raises
    pytest.raises = lambda *args, **kwargs: (
        Recorded(raises(*args, **kwargs)) if len(args) < 2 else raises(*args, **kwargs)
    )


def is_clear(said):
    """Whether an error is one sentence, or a few, on one line; an example or a path may stand at its end."""
    return "\n" not in said and len(said) > 20 and re.search(r"[.…)]$", said.rstrip()) is not None


def main(options):
    """Run the fast tests and print a row a room."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[PLACE] = str(Path(folder) / "records")
        Path(os.environ[PLACE]).touch()
        arguments = ["-q", "-m", "not slow", "-n", "auto", "--dist", "worksteal", "-p", "tests.bad_input", "--tb=no"]
        code = pytest.main([*arguments, *options, "tests"])
        lines = Path(os.environ[PLACE]).read_text(encoding="utf-8").splitlines()
    kinds, unclear = defaultdict(Counter), []
    for test, said in dict.fromkeys(tuple(line.split("\t", 1)) for line in lines):
        room = "/".join(Path(test.partition("::")[0]).parts[1:3])
        text = said[1:-1].replace("\\n", "\n")
        kinds[room]["clear" if is_clear(text) else "not"] += 1
        unclear += [] if is_clear(text) else [f"{test}: {said[:200]}"]
    print(*unclear, sep="\n")
    for room, found in sorted(kinds.items()):
        print(f"{room:45} {found['clear'] + found['not']:5} kinds {found['clear']:5} clear")
    total = sum((found for found in kinds.values()), Counter())
    print(f"{'all':45} {total['clear'] + total['not']:5} kinds {total['clear']:5} clear")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
