"""``lit-continual init``: from data sets to a config that runs."""

import os
import shlex
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from lit_continual.data.case_lists.cases import data_set_path
from lit_continual.files.outputs import require_apart, require_new
from lit_continual.files.printing import show
from lit_continual.files.whole_files import write_text
from lit_continual.tools.init.config_text import config_text
from lit_continual.tools.init.data_set_facts import DataSetFacts, read_data_set
from lit_continual.tools.init.experiences import By
from lit_continual.tools.init.proposal import Proposal


def write_config(
    datasets: Sequence[str],
    output: str = "config.yaml",
    memory: float = 8.0,
    exemplars: int = 0,
    by: By | None = None,
    overwrite: bool = False,
) -> Path:
    """Look at data sets, and write a config that learns them one after another.

    Every image and label map is read. All that is wrong with them is printed, a line each, and nothing is written then.

    Args:
        datasets: Each a Decathlon or nnU-Net folder or its ``dataset.json``, a CSV table, or a folder of images and
            labels; in the order in which they are learnt.
        output: The config.
        memory: Of the device that trains, in GB; decides on patch and batch size.
        exemplars: Training samples to keep of each experience and class for the next ones; 0 keeps nothing of anybody.
        by: One experience a data set or a class; by default a data set, but a class where there is one data set.
        overwrite: Replace a config that is there already.

    Returns:
        The config.

    Raises:
        ValueError: If something is wrong with a data set, they do not go together, or the config is there already.
    """
    if not (isfinite(memory) and memory > 0) or exemplars < 0:
        raise ValueError(f"--memory must be above 0 GB and --exemplars 0 or more, got {memory:g} and {exemplars}.")
    if Path(output).is_dir():
        raise ValueError(
            f"{Path(output)} is a folder, and --output names the config in it. Give --output"
            f" {Path(output) / 'config.yaml'}."
        )
    require_new([output], overwrite)
    places = [data_set_path(given).resolve() for given in datasets]
    if twice := next((given for k, given in enumerate(datasets) if places[k] in places[:k]), None):
        raise ValueError(f"{twice} is given twice. Give each data set once.")
    data = _read(datasets)
    files = [file for one in data for facts in one.cases for file in facts.case.files]
    require_apart([output], [*datasets, *(one.listed.source for one in data), *files])
    proposal = Proposal(data, memory, exemplars, by, f"runs/{Path(output).stem}")
    written = f"Written by lit-continual init. lit-continual fit --config {shlex.quote(os.fspath(output))}"
    head = "\n".join([*(one.described() for one in data), written])
    require_new([output], overwrite)  # which may have come while the data were read
    write_text(output, config_text(proposal.config, proposal.comments, head))
    return Path(output)


def _read(datasets: Sequence[str]) -> list[DataSetFacts]:
    faults: list[str] = []
    found: list[DataSetFacts] = []
    for dataset in datasets:
        try:
            if (facts := read_data_set(dataset, faults.append)) is not None:
                found.append(facts)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        for fault in faults:
            show(f"- {fault}")
        raise ValueError(
            f"No config was written, since the data have faults, which stand above ({len(faults)}). Mend them, or take"
            " those cases off the list."
        )
    return found
