import numpy as np
import pytest
import torch

from lit_continual.methods.patient_tuning.annotated_windows import AnnotatedWindows


def volume(shape=(12, 10, 5), slices=(1, 3)):
    """Every voxel of the image is its own number, so that a window says where it was cut."""
    annotated = torch.zeros(1, *shape, dtype=torch.bool)
    annotated[..., list(slices)] = True
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, 8:10, 1:3, 3] = 2
    image = torch.arange(float(np.prod(shape))).view(1, *shape)
    return {"image": image, "label": label, "annotated": annotated, "classes": ("a", "b")}


def test_slices_with_an_annotated_voxel_come_in_turn_and_as_they_are():
    given = volume()
    windows = AnnotatedWindows(given, [12, 10])
    for k, z in enumerate([1, 3, 1, 3]):
        sample = windows[k]
        assert torch.equal(sample["image"], given["image"][..., z])
        assert torch.equal(sample["label"], given["label"][..., z])
        assert sample["annotated"].all()
        assert sample["classes"] == ("a", "b")


@pytest.mark.parametrize("size", [[4, 4], [4, 4, 2]])
def test_every_window_has_an_annotated_voxel_and_lies_in_the_volume(size):
    given = volume()
    windows, again = AnnotatedWindows(given, size, seed=3), AnnotatedWindows(given, size, seed=3)
    of_class = 0
    for k in range(60):
        sample = windows[k]
        assert sample["annotated"].any()
        assert list(sample["image"].shape[1:]) == size
        at = [(given["image"] == value).nonzero()[0, 1:] for value in sample["image"].flatten()]
        assert torch.equal(sample["image"].flatten(), given["image"][0][tuple(torch.stack(at).T)])
        assert torch.equal(sample["label"].flatten(), given["label"][0][tuple(torch.stack(at).T)])
        assert torch.equal(sample["image"], again[k]["image"])
        of_class += bool(sample["label"].any())
    assert of_class >= 15  # two of three where the slice has a class, of uniform ones few have


def test_what_is_padded_is_not_annotated():
    sample = AnnotatedWindows(volume(slices=(0,)), [16, 16])[0]
    assert sample["image"].shape == (1, 16, 16)
    assert sample["annotated"].sum() == 12 * 10


def test_without_an_annotated_voxel_there_is_nothing_to_learn():
    with pytest.raises(ValueError, match=r"No voxel of the volume is annotated. Annotate one slice or more."):
        AnnotatedWindows(volume(slices=()), [4, 4])
