"""The golden numbers are what their generator makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
GENERATOR = HERE / "generate.py"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Run the generator in a process of its own, which knows neither the package nor torch."""
    folder = tmp_path_factory.mktemp("golden")
    script = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "sys.exit(bool({'lit_continual', 'torch'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", script, str(GENERATOR), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.npz")))
def test_golden_numbers_are_those_of_the_generator(generated, name):
    with np.load(HERE / f"{name}.npz") as shipped, np.load(generated / f"{name}.npz") as made:
        assert set(made) == set(shipped)
        for key in shipped:
            if shipped[key].dtype.kind == "U":
                assert made[key].tolist() == shipped[key].tolist()
            else:
                np.testing.assert_allclose(made[key], shipped[key], rtol=1e-12, atol=1e-12, err_msg=key)
