import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.data import label_values
from lit_continual.data.case_lists.cases import Case, CaseList
from lit_continual.data.label_values import require_label_maps, values_in
from lit_continual.data.multi_task_data_module import MultiTaskDataModule


@pytest.mark.parametrize(
    "values",
    [[0.0], [0.0, 1.0, 7.0], [-1.0, 0.0, 2.0], [0.5, 1.0], [0.0, 65535.0], [0.0, 65536.0], [0.0, 2.0**30]],
    ids=str,
)
def test_values_are_those_that_occur(values):
    drawn = torch.tensor(np.random.default_rng(0).choice(values, (5, 4, 3)), dtype=torch.float32)
    assert values_in(drawn) == set(drawn.flatten().tolist())


def test_what_is_no_number_is_a_value_that_nobody_declares():
    assert any(value != value for value in values_in(torch.tensor([0.0, float("nan")])))


@pytest.fixture
def listed(tmp_path):
    cases = []
    for k, value in enumerate([1, 2, 1, 1]):
        array = np.zeros((4, 4, 2), np.uint8)
        array[k, 0, 0] = value
        for name in (f"image_{k}.nii", f"label_{k}.nii"):
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
        cases.append(Case((tmp_path / f"image_{k}.nii",), tmp_path / f"label_{k}.nii", str(k)))
    return CaseList(tmp_path, tuple(cases), {})


def splits(listed, train=2):
    return {"val": listed.cases[train:3], "train": listed.cases[:train], "test": listed.cases[3:]}


def test_a_class_is_looked_for_among_those_who_train(listed):
    require_label_maps(splits(listed), {"one": 1, "two": 2}, listed, threads=2)
    with pytest.raises(ValueError, match="The class two occurs in none of the 1 training cases"):
        require_label_maps(splits(listed, train=1), {"one": 1, "two": 2}, listed, threads=2)


def test_a_file_is_read_once_until_it_is_another(listed, monkeypatch):
    read, read_volume = [], label_values.read_volume
    monkeypatch.setattr(label_values, "read_volume", lambda path: read.append(path) or read_volume(path))
    for _ in range(2):  # of two experiences on the same patients
        require_label_maps(splits(listed), {"one": 1}, listed, threads=1)
    assert sorted(read) == [case.label for case in listed.cases]
    nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.eye(4)), listed.cases[3].label)  # of another size
    require_label_maps(splits(listed), {"one": 1}, listed, threads=1)
    assert read[4:] == [listed.cases[3].label]


def test_a_case_without_a_label_map_is_named(listed):
    cases = {**splits(listed), "test": [Case(listed.cases[3].images, None, "3")]}
    with pytest.raises(ValueError, match=r"image_3.nii has no label in"):
        require_label_maps(cases, {"one": 1}, listed, threads=2)
    gone = {**splits(listed), "test": [Case(listed.cases[3].images, listed.source / "gone.nii", "3")]}
    with pytest.raises(ValueError, match=r"There is no image at .*gone.nii"):
        require_label_maps(gone, {"one": 1}, listed, threads=2)


def test_all_tasks_are_looked_at():
    class Part:
        def __init__(self, name):
            self.classes, self.patch_size, self.seen = {name: 1}, (8, 8), 0

        def rehearse(self):
            self.seen += 1

    parts = {name: Part(name) for name in "ab"}
    MultiTaskDataModule(parts).rehearse()
    assert [part.seen for part in parts.values()] == [1, 1]
