"""The file of one command that is given to another is told so, before anything else is said about it."""

from itertools import permutations
from pathlib import Path

import pytest

from lit_continual.cli import main
from lit_continual.files.config_kind import KINDS, read_config

CONFIGS = Path(__file__).parents[2] / "configs"
PAIRS = list(permutations(KINDS, 2))
SHIPPED = {"fit": CONFIGS, "compare": CONFIGS / "tables", "sweep": CONFIGS / "sweeps"}


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_a_shipped_file_is_that_of_one_command(given, wanted):
    files = sorted(SHIPPED[given].glob("*.yaml"))
    assert files
    for file in files:
        assert read_config(file, given)
        with pytest.raises(ValueError, match=rf"{file.name} is a \w+, with `\w+`; run it by `lit-continual {given} -"):
            read_config(file, wanted)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_each_command_says_so(given, wanted):
    file = next(SHIPPED[given].glob("*.yaml"))
    with pytest.raises(ValueError, match=f"run it by `lit-continual {given} --config`.$"):
        main([wanted, "--config", str(file)])


def test_a_part_of_a_config_is_one(tmp_path):
    part = tmp_path / "seed.yaml"
    part.write_text("seed_everything: 1")
    assert read_config(part, "fit") == {"seed_everything": 1}
