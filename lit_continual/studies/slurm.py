"""Cells as jobs of a cluster, through submitit."""

import getpass
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from typing_extensions import Self

from lit_continual.data.arguments import require_at_least
from lit_continual.files.plain_data import fits
from lit_continual.files.whole_files import read_json, write_json
from lit_continual.stream.section import instantiate
from lit_continual.stream.tracking import announce
from lit_continual.studies.cell import OUTPUT, Cell, is_finished
from lit_continual.studies.cell_job import CellJob
from lit_continual.studies.cells import reason

#: What submitit makes of its own beside the options of ``sbatch``.
OF_SUBMITIT = ("setup", "teardown", "srun_args", "use_srun", "array_parallelism", "signal_delay_s")
LONGEST = 10_000  # hours
LOOK = 5.0  # seconds between two looks at all jobs


@dataclass
class Slurm:
    """The section ``slurm`` of a table or a sweep: what each job asks of the cluster.

    Args:
        hours: Longest time of a job; one that needs more is queued again and goes on.
        gpus: GPUs of a job; 0 asks for none.
        partition: Where it runs; by default the cluster's own choice.
        requeues: How often a job is queued again after its hours are over.
        sbatch: Other options of ``sbatch`` by name, such as ``mem: 32G``, and submitit's ``setup``, a list of commands
            before the job's, such as ``module load cuda``.
        cluster: ``slurm``, or ``local`` for submitit's executor on this machine, to try things out.
    """

    hours: float = 24.0
    gpus: int = 0
    partition: str = ""
    requeues: int = 10
    sbatch: dict[str, Any] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        if not 0 < self.hours <= LONGEST:
            raise ValueError(f"`hours` must be above 0, got {self.hours:g}, and are at most {LONGEST}")
        require_at_least(0, gpus=self.gpus, requeues=self.requeues)
        given = {"partition": self.partition, **self.sbatch}
        if broken := [name for name, value in given.items() if {"\n", "\r"} & {*f"{name}{value}"}]:
            raise ValueError(f"there is a line break in {broken[0]!r}; write one line")


def read_slurm(section: Any, place: str) -> Slurm:
    """Read the section ``slurm``.

    Raises:
        ValueError: If a name in it is unknown or a value of the wrong type, with the place.
    """
    return instantiate(Slurm, {} if section is None else section, f"{place}, `slurm`")


class SlurmJobs:
    """Jobs of a cluster that run cells.

    Those that are submitted together are an array, and those that start from others come after these (``afterok``).
    Whether a cell is finished is said by its folder alone: SLURM counts a job as failed that reaches its time limit
    just as it ends, and cancels those that come after it, which are then submitted once more.
    Jobs go on when this process ends; the next one on the same folder follows them instead of submitting them again.

    Args:
        folder: For submitit's files and logs, which all machines see.
        slurm: What each job asks for.
        threads: How many a cell has.
        count: Most jobs that are queued or run at a time; by default all there are, on this machine one.
        name: Of the jobs.

    Raises:
        MisconfigurationException: If submitit is not installed, or there is no SLURM.
    """

    def __init__(self, folder: Path, slurm: Slurm, threads: str, count: int | None, name: str) -> None:
        self.submitit, self.slurm, self.threads, self.name = _submitit(), slurm, threads, name
        self.folder, self.known = folder, folder / "jobs.json"
        here = slurm.cluster == "local"
        self.waits, self.count = not here, count or (1 if here else 0)
        self.ids: dict[str, str] = read_json(self.known) if self.known.exists() else {}
        if not fits(self.ids, dict[str, str]):
            raise ValueError(f"{self.known} does not name the jobs of cells. Remove it when none of them is queued.")
        self.jobs: dict[Cell, Any] = {}  # None: not submitted yet
        self._looked, self._gone = float("-inf"), set[Cell]()
        self._again = set[Cell]()  # submitted a second time
        self._executor("")  # refuses what it does not take before anything runs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if submitted := [job.job_id for job in self.jobs.values() if job is not None]:
            announce(
                f"{len(submitted)} jobs go on ({', '.join(submitted[:3])}{', …' * (len(submitted) > 3)}): the same"
                " command follows them, `scancel` ends them."
            )

    @property
    def free(self) -> bool:
        """Whether one more cell may start."""
        return not self.count or len(self.jobs) < self.count

    def start(self, cell: Cell) -> None:
        """Submit a cell, at the next look together with others, or follow its job if it has one."""
        self.jobs[cell] = self._found(cell)

    def ended(self) -> dict[Cell, str]:
        """Submit what was started, and look which cells came to an end."""
        self._submit({cell for cell, job in self.jobs.items() if job is None})
        if self.waits and time.monotonic() < self._looked + LOOK:
            return {}
        self._looked = time.monotonic()
        over = {cell for cell, job in self.jobs.items() if not self.waits and job.done()}
        if self.waits and (queued := _queued()) is not None:
            gone = {cell for cell, job in self.jobs.items() if job.job_id not in queued}
            over, self._gone = gone & self._gone, gone  # twice, since files of another machine are seen late
        found = {cell: "" for cell in self.jobs if cell.finished}
        left = over - found.keys()
        again = self._cancelled(left)
        found |= {cell: _reason(cell, self.jobs[cell]) for cell in left - again}
        self._again, self._gone = self._again | again, self._gone - again
        self.jobs |= dict.fromkeys(again)
        for cell in found:
            del self.jobs[cell]
        return found

    def stop(self, cell: Cell) -> None:
        """Cancel the job of a cell."""
        if (job := self.jobs.pop(cell)) is not None:
            job.cancel(check=False)

    def _cancelled(self, over: set[Cell]) -> set[Cell]:
        """Those of the cells that have not begun, though what they start from is there or on its way."""
        found, going = set[Cell](), {cell.folder for cell in self.jobs.keys() - over}
        for cell in self.jobs:  # those that another starts from are before it
            begun = cell not in over or not cell.after or cell in self._again or (cell.folder / OUTPUT).exists()
            if not begun and all(folder in going or is_finished(folder) for folder in cell.after):
                found.add(cell)
                going.add(cell.folder)
        return found

    def _submit(self, cells: set[Cell]) -> None:
        """Submit cells, one array for those that wait for the same jobs."""
        while cells:
            ready = [cell for cell in cells if not {other.folder for other in cells} & set(cell.after)]
            groups: dict[str, list[Cell]] = {}
            for cell in sorted(ready, key=lambda cell: list(self.jobs).index(cell)):
                groups.setdefault(self._dependency(cell), []).append(cell)
            for dependency, group in groups.items():
                commands, folders = [cell.command(self.threads) for cell in group], [cell.folder for cell in group]
                jobs = self._executor(dependency).map_array(CellJob(), commands, folders)
                self.jobs |= dict(zip(group, jobs, strict=True))
                self.ids |= {str(cell.folder): job.job_id for cell, job in zip(group, jobs, strict=True)}
                write_json(self.known, self.ids)
            cells = cells - set(ready)

    def _dependency(self, cell: Cell) -> str:
        """The jobs that a cell waits for, as ``sbatch`` names them."""
        running = {other.folder: job.job_id for other, job in self.jobs.items() if job is not None}
        return ":".join(["afterok", *(running[folder] for folder in cell.after if folder in running)])

    def _executor(self, dependency: str) -> Any:
        given = {name.replace("-", "_"): value for name, value in self.slurm.sbatch.items()}
        own = {f"slurm_{name}": given.pop(name) for name in OF_SUBMITIT if name in given}
        waits = {"dependency": dependency, "kill_on_invalid_dep": "yes"} if ":" in dependency else {}
        threads = {"cpus_per_task": int(self.threads)} if self.threads.isdigit() else {}
        try:
            executor = self.submitit.AutoExecutor(
                folder=self.folder, cluster=self.slurm.cluster, slurm_max_num_timeout=self.slurm.requeues
            )
            executor.update_parameters(
                name=self.name,
                timeout_min=max(1, round(60 * self.slurm.hours)),
                gpus_per_node=self.slurm.gpus or None,
                slurm_partition=self.slurm.partition or None,
                slurm_additional_parameters={**threads, "requeue": True, **given, **waits},
                **own,
            )
        except RuntimeError as error:
            raise MisconfigurationException(
                f"There is no SLURM on this machine ({error}). Run the command where `sbatch` is, or take"
                " `--launcher print` for another cluster."
            ) from error
        return executor

    def _found(self, cell: Cell) -> Any:
        """The job that an earlier call has submitted for a cell, if it is on its way."""
        known = self.ids.get(str(cell.folder))
        if known is None or not self.waits or known not in (_queued() or ()):
            return None  # on this machine, it waits for the lock of one that is left
        return self.submitit.SlurmJob(folder=self.folder, job_id=known)


def _queued() -> set[str] | None:
    """The jobs of this user that wait or run; ``None`` if SLURM does not say. Unlike ``sacct`` it needs no accounts."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(done.stdout.split()) if done.returncode == 0 else None


def _reason(cell: Cell, job: Any) -> str:
    """Why the cell of a job that is over is not finished."""
    where = f"job {job.job_id} has ended, see {job.paths.stderr}"
    return f"{reason(cell)}; {where}" if (cell.folder / OUTPUT).exists() else where


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise MisconfigurationException(
            "`--launcher slurm` needs submitit, which is not installed: pip install 'lit-continual[slurm]'."
        ) from error
    return submitit
