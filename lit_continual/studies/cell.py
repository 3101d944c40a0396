"""A cell: one fit in a folder of its own, as a process and as a command that may be given again and again."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_continual.files.whole_files import read_json

PROGRAM = (sys.executable, "-m", "lit_continual")
COMMAND = (*PROGRAM, "fit")
THREADS = "4"  # of a cell; a number that depends on the machine or its load would change the last bits of its results
CAPS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OUTPUT = "output.txt"

#: By these a job of a cluster says that it is one of several processes of a fit, which a cell in it is not.
RANK_OF_JOB = re.compile(
    r"RANK|LOCAL_RANK|WORLD_SIZE|GROUP_RANK|NODE_RANK|JSM_NAMESPACE_\w+"
    r"|SLURM_(NTASKS|NPROCS|PROCID|LOCALID|NODEID|TASKS_PER_NODE|NTASKS_PER_\w+|STEP_\w+|SRUN_\w+)"
)


@dataclass(frozen=True)
class Cell:
    """One ``lit-continual fit`` of a stream.

    Attributes:
        name: What it is called in progress and errors.
        folder: Folder of its run.
        arguments: Those of ``fit``, without the folder and ``--resume``; ``${envvar:NAME}`` is read when it starts.
        after: Folders of the cells that it starts from.
        group: Of its run in W&B, which is offline unless ``WANDB_MODE`` says otherwise; "" for no W&B.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    after: tuple[Path, ...] = ()
    group: str = ""

    @property
    def finished(self) -> bool:
        """Whether its run came to its end, in this call or in another."""
        return is_finished(self.folder)

    def options(self, environment: Mapping[str, str]) -> list[str]:
        """The arguments of ``fit``, with the folder and ``--resume``."""
        here = (f"--trainer.default_root_dir={self.folder}", "--trainer.enable_progress_bar=false", "--resume")
        return [*with_variables(self.arguments, environment), *here]

    def command(self, threads: str) -> list[str]:
        """What runs it anywhere: a command that does nothing if it is finished, and waits for who runs it already."""
        group = [f"--group={self.group}"] if self.group else []
        return [*PROGRAM, "cell", str(self.folder), f"--threads={threads}", *group, "--", *self.arguments]

    def environment(self, given: Mapping[str, str], threads: str) -> dict[str, str]:
        """The environment of its process: a number of threads of its own, and no rank in the job of a cluster."""
        kept = {name: value for name, value in given.items() if not RANK_OF_JOB.fullmatch(name)}
        kept |= {"SLURM_JOB_NAME": "bash"} if "SLURM_JOB_ID" in kept else {}  # Lightning then takes it for no job
        group = {"WANDB_RUN_GROUP": self.group} if self.group else {}
        # Threads that spin starve shared cores, and MKL would take no more threads than there are cores.
        spinning = {"OMP_WAIT_POLICY": "PASSIVE", "MKL_DYNAMIC": "FALSE"}
        mode = {"WANDB_MODE": "offline"} if self.group else {}
        return {**spinning, **mode, **kept, **group, **dict.fromkeys(CAPS, threads)}


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder came to its end, whatever became of the process that ran it."""
    return described(folder).get("status") == "finished"


def described(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; nothing where there is none, or where it holds something else, which ``fit`` refuses."""
    path = folder / "run.json"
    found = read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def threads_of(environment: Mapping[str, str]) -> str:
    """How many threads a cell has: as the user says, or the same number everywhere."""
    return environment.get("OMP_NUM_THREADS") or THREADS


def with_variables(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Put the variables in for ``${envvar:NAME}``; one that is not set is its name, as W&B's agent has it.

    Example:
        >>> with_variables(["--data.dataset=${envvar:DATA}/organs", "--x=${envvar:NONE}"], {"DATA": "/data"})
        ['--data.dataset=/data/organs', '--x=NONE']
    """
    return [re.sub(r"\$\{envvar:(\w+)\}", lambda f: environment.get(f[1], f[1]), argument) for argument in arguments]
