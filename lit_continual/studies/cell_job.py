"""What a job of a cluster does for a cell."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lit_continual.studies.cell import is_finished
from lit_continual.studies.cells import PATIENCE

PAUSE = 0.2  # seconds between two looks at the process


class CellJob:
    """What a job does: run the command of a cell; before it is queued again, end that command, which then goes on.

    A job whose cell is finished has not failed, however its command ended: others wait for it (``afterok``).
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, command: list[str], folder: Path) -> None:
        """Run the command of the cell in a folder, out of reach of the signals to the job."""
        self.process = subprocess.Popen(command, start_new_session=True)
        try:
            while (code := self.process.poll()) is None:
                time.sleep(PAUSE)
        except BaseException:
            self._end()
            raise
        if code and not is_finished(folder):
            raise RuntimeError(f"The command of the cell ended with {code}.")

    def checkpoint(self, command: list[str], folder: Path) -> Any:
        """End the command, and return what the job does when it runs again.

        Raises:
            SystemExit: If the cell is finished, as one whose time is over just as it ends: so is the job, then.
        """
        from submitit.helpers import DelayedSubmission

        self._end()
        if is_finished(folder):
            sys.exit(0)
        return DelayedSubmission(CellJob(), command, folder)

    def _end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2 * PATIENCE)  # it gives its own process that long
            self.process.kill()
