"""What the commands that train nothing import."""

import json
import os
import subprocess
import sys

from tests.conftest import DOT

SEEN = """
import contextlib, io, sys
from lit_continual.cli import main
def run(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        main(list(arguments))
    print(bool(written.getvalue()), *(name in sys.modules for name in ("lightning", "torch")))
run("--help")
run("--version")
run("report", "--help")
run("init", "--help")
run("memory", "show", sys.argv[1])
import matplotlib.figure
matplotlib.figure.Figure.savefig = lambda figure, file, **_: file.write(bytes.fromhex(sys.argv[3]))
run("report", sys.argv[2])
"""


def test_commands_that_train_nothing_start_without_lightning(tmp_path, make_run):
    run, memory = make_run(), tmp_path / "memory"
    memory.mkdir()
    (memory / "manifest.json").write_text(json.dumps({"format": 1, "experiences": {}, "exemplars": []}))
    done = subprocess.run([sys.executable, "-c", SEEN, memory, run, DOT.hex()], capture_output=True, text=True)
    assert done.stderr == ""
    help_, version, help_of_report, help_of_init, memory, report = (line.split() for line in done.stdout.splitlines())
    assert help_ == version == help_of_report == help_of_init == ["True", "False", "False"]
    assert memory[:2] == report[:2] == ["True", "False"]


RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
FIRST = """
import os, sys
from lit_continual.files.whole_files import is_first_rank
for name in sys.argv[1:]:
    for rank in "01":
        os.environ[name] = rank
        print(is_first_rank(), end=" ")
    del os.environ[name]
"""


def test_the_first_rank_is_known_without_lightning():
    environment = {name: value for name, value in os.environ.items() if name not in RANKS}
    done = subprocess.run([sys.executable, "-c", FIRST, *RANKS], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"] * 3, done.stderr
