import io

import numpy as np
import pytest

from lit_continual.files.npz import Npz, write_npz


@pytest.mark.parametrize(("compress", "numpys"), [(False, np.savez), (True, np.savez_compressed)])
def test_written_as_numpy_does(compress, numpys):
    arrays = {"image": np.ones((2, 3), np.float32), "name": np.asarray("shoulder"), "nothing": np.zeros((0, 4))}
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_npz(ours, arrays, compress)
    numpys(theirs, **arrays)
    assert ours.getvalue() == theirs.getvalue()


def test_arrays_may_have_the_names_of_arguments(tmp_path):
    arrays = {name: np.full(2, n) for n, name in enumerate(["file", "allow_pickle", "self", "compress", "arrays"])}
    write_npz(tmp_path / "own", arrays)
    archive = Npz(tmp_path / "own")
    assert list(archive.shapes) == list(arrays)
    assert all((archive.read(name) == array).all() for name, array in arrays.items())
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_npz(tmp_path / "own", {"code": np.array([print], object)})
