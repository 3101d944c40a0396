"""Break the package by hand, one line at a time, and see whether the tests of that room find it: ``make mutate``.

Each of ``BREAKS`` is a text that stands exactly once in a file, what takes its place, and the tests that must fail.
They are made in a temporary copy, one after another. Arguments are words of those to try; by default all are.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE = 300  # seconds for the tests of one break


def outcome(broken, copy, options):
    """Return whether the tests find a break, or why it could not be tried."""
    path = copy / "lit_continual" / broken.file
    text = path.read_text(encoding="utf-8")
    if text.count(broken.old) != 1:
        return f"DOES NOT APPLY: the text stands {text.count(broken.old)} times in the file"
    path.write_text(text.replace(broken.old, broken.new), encoding="utf-8")
    try:
        return {0: "NOT FOUND", 1: "found"}.get(
            code := run([*broken.tests.split(), *options], copy), f"NO RESULT: {code}"
        )
    finally:
        path.write_text(text, encoding="utf-8")


def run(tests, copy, seconds=DEADLINE):
    """Run tests in a fork of this process, which has imported what is slow to import; return pytest's exit code."""
    if (pid := os.fork()) == 0:
        code = 3
        try:
            os.chdir(copy)
            os.dup2(os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            os.environ["PYTHONPATH"], sys.path[:0] = str(copy), [str(copy)]
            imported = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that the fork has from its parent
            code = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", "-W", imported, *tests])
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 1  # a test that does not end is not passed
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(ended[1])


def main(words):
    chosen = [broken for broken in BREAKS if not words or any(word in str(broken) for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("lit_continual", "tests", "configs", "docs"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        found, tests = [], sorted({test for broken in chosen for test in broken.tests.split()})
        run([*tests, "-rfE", "--tb=no"], copy, 10 * DEADLINE)
        failing = re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", (copy / "log.txt").read_text(), flags=re.M)
        options = ["-x", *(f"--deselect={test}" for test in failing)]
        print(*(f"fails without a break, and is left out: {test}\n" for test in failing), sep="", end="", flush=True)
        for broken in chosen:
            found.append(outcome(broken, copy, options))
            print(f"{found[-1]:9} {broken.file}: {broken.old.strip()} -> {broken.new.strip()}", flush=True)
    print(f"{found.count('found')} of {len(found)} found, {found.count('found') / len(found):.0%}")
    return found.count("found") < len(found)


if __name__ == "__main__":
    from breaks import BREAKS

    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    sys.path[:] = [place for place in sys.path if Path(place).resolve() not in (ROOT, ROOT / "tests")]
    import lightning.pytorch  # noqa: F401 - what every fork needs, and none of the package
    import monai.networks.nets
    import monai.transforms  # noqa: F401
    import pytest

    raise SystemExit(main(sys.argv[1:]))
