import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from lit_continual.data import BinaryMorphology, BinaryMorphologyd, RemoveOutsided


def square(size=9, low=2, high=7, value=1):
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[0, low:high, low:high] = value
    return labels


def test_opening_removes_specks_and_keeps_the_body():
    labels = square()
    speck = labels.clone()
    speck[0, 0, 8] = 1
    opened = BinaryMorphology(1, "opening")(speck)
    assert opened[0, 0, 8] == 0
    assert torch.equal(opened[0, 2:7, 3:6], labels[0, 2:7, 3:6])
    assert opened.dtype == torch.uint8


def test_closing_fills_gaps_also_at_the_border():
    labels = torch.ones(1, 7, 7)
    labels[0, 3, :] = 0
    assert BinaryMorphology(1, "closing")(labels).all()
    apart = torch.zeros(1, 9, 9)
    apart[0, 1, 1] = apart[0, 7, 7] = 1
    assert torch.equal(BinaryMorphology(1, "closing")(apart), apart)


def test_holes_are_filled_slice_by_slice():
    volume = torch.zeros(1, 5, 5, 3)
    volume[0, 1:4, 1:4, 1] = 1
    volume[0, 2, 2, 1] = 0  # open towards the slices above and below
    assert BinaryMorphology(1, "fill_holes")(volume)[..., 1].sum() == 9
    assert BinaryMorphology(1, "fill_holes")(volume)[..., [0, 2]].sum() == 0


@pytest.mark.parametrize("operation", ["opening", "closing", "fill_holes"])
def test_other_classes_are_left_alone(operation):
    labels = square(value=1)
    labels[0, 4, 4] = 2
    labels[0, 0, 0] = 3
    changed = BinaryMorphology(1, operation)(labels)
    assert changed[0, 4, 4] == 2
    assert changed[0, 0, 0] == 3


def test_the_input_and_its_type_stay_as_they_are():
    labels = square()
    kept = labels.clone()
    for data in (labels, labels.numpy(), MetaTensor(labels, affine=2 * torch.eye(4))):
        changed = BinaryMorphology(1, "opening", radius=3)(data)
        assert type(changed) is type(data)
        assert np.asarray(changed).sum() == 0
    assert torch.equal(labels, kept)
    assert torch.equal(
        BinaryMorphology(1, "opening")(MetaTensor(labels, affine=2 * torch.eye(4))).affine, 2 * torch.eye(4).double()
    )


def test_works_in_a_pipeline_of_monai():
    pipeline = Compose([BinaryMorphologyd("pred", 2, "opening"), RemoveOutsided("pred", label=2, organ=[1])])
    labels = square(value=1)
    labels[0, 3:6, 3:6] = 2
    labels[0, 0, 0] = 2
    changed = pipeline({"pred": labels, "image": 5})
    assert changed["image"] == 5
    assert changed["pred"][0, 4, 4] == 2
    assert changed["pred"][0, 0, 0] == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`operation` must be opening, closing or fill_holes, got erosion"):
        BinaryMorphology(1, "erosion")
    with pytest.raises(ValueError, match="1 or more, got 1 and 0"):
        BinaryMorphology(1, "opening", radius=0)
