"""GPUs: which there are, and which of them a worker has."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that processes may use, as ``CUDA_VISIBLE_DEVICES`` names them; none where it is set and empty.

    ``nvidia-smi`` is asked where it is not set, since CUDA must not be initialised in a process that will fork.

    Example:
        >>> visible_devices({"CUDA_VISIBLE_DEVICES": "2, GPU-8d1f"}), visible_devices({"CUDA_VISIBLE_DEVICES": "-1"})
        (['2', 'GPU-8d1f'], [])
    """
    given = environment.get(VISIBLE)
    if given is not None:
        listed = [name.strip() for name in given.split(",")]
        ends = next((i for i, name in enumerate(listed) if name in ("", "-1")), len(listed))  # as CUDA reads it
        return listed[:ends]
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout.splitlines()
    found: list[str] = []
    for line in listed:
        if whole := re.match(r"GPU (\d+):", line):
            found.append(whole[1])
        elif (part := re.search(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", line)) and found:
            found = [*found[:-1], part[1]] if found[-1].isdigit() else [*found, part[1]]
    return found


def devices_of(slot: int, devices: Sequence[str], count: int) -> str:
    """``CUDA_VISIBLE_DEVICES`` of the cells of a worker: as many GPUs however many workers there are.

    Args:
        slot: Which worker, from 0.
        devices: Those that there are.
        count: How many it has.

    Example:
        >>> [devices_of(slot, ["0", "1", "2", "3"], 1) for slot in range(5)]
        ['0', '1', '2', '3', '0']
        >>> [devices_of(slot, ["4", "5", "6", "7"], 2) for slot in range(3)]
        ['4,5', '6,7', '4,5']
    """
    groups = max(1, len(devices) // count)
    first = slot % groups * count
    return ",".join(devices[first : first + count])
