import numpy as np
import pytest
import torch

from lit_continual.data import RemoveOutside, RemoveOutsided

LUNG, OPACITY = 1, 2


def chest():
    """A lung with an opacity in it, one at its border, and one in the chest wall."""
    labels = torch.zeros(1, 20, 20, 4, dtype=torch.uint8)
    labels[0, 2:12, 2:12] = LUNG
    labels[0, 5:7, 5:7, 1:3] = OPACITY
    labels[0, 12:14, 4:6] = OPACITY
    labels[0, 16:18, 16:18] = OPACITY
    return labels


def test_opacities_outside_the_lungs_are_removed_and_no_other():
    labels = chest()
    cleaned = RemoveOutside(OPACITY, [LUNG])(labels)
    expected = labels.clone()
    expected[0, 16:18, 16:18] = 0
    assert torch.equal(cleaned, expected)
    assert torch.equal(labels, chest())


def test_a_mask_of_the_organ_takes_the_place_of_the_map():
    labels, lungs = chest(), torch.zeros(1, 20, 20, 4)
    lungs[0, 15:20, 15:20] = 1
    cleaned = RemoveOutside(OPACITY)(labels, lungs)
    assert (cleaned == OPACITY).sum() == (cleaned[0, 16:18, 16:18] == OPACITY).sum() == 16


@pytest.mark.parametrize(("overlap", "stays"), [(0.0, True), (0.4, True), (0.5, False)])
def test_the_share_in_the_organ_decides(overlap, stays):
    labels = np.array([[[1, 2, 2, 0, 0]]])
    assert (RemoveOutside(2, [1], margin=1, overlap=overlap)(labels) == 2).any() == stays


def test_nothing_to_remove_and_no_organ():
    assert torch.equal(RemoveOutside(OPACITY)(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))
    assert not RemoveOutside(OPACITY)(torch.full((1, 4, 4), OPACITY)).any()


def test_dictionary_entries():
    volume = RemoveOutsided(["pred"], OPACITY, [LUNG])({"pred": chest(), "patient": "a"})
    assert volume["patient"] == "a"
    assert not volume["pred"][0, 16:18, 16:18].any()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`overlap` in \[0, 1\), got 1 and 1"):
        RemoveOutside(OPACITY, overlap=1)
    with pytest.raises(ValueError, match="at least one class"):
        RemoveOutside(OPACITY, organ=[])
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3, 3\), and the label map \(1, 4, 4\)"):
        RemoveOutside(OPACITY)(torch.zeros(1, 4, 4), torch.zeros(1, 3, 3))
