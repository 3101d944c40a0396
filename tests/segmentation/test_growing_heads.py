import pytest
import torch

from lit_continual.modules import GrowingHeads
from lit_continual.segmentation.shared_head import SharedHead


@pytest.fixture
def features():
    return torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return GrowingHeads(5, 2, [["humerus"], ["scapula", "clavicle"]])


def test_a_new_head_leaves_the_old_outputs_bit_for_bit(heads, features):
    old = heads(features)
    heads.grow(["ulna"])
    assert torch.equal(heads(features)[:, :5], old)
    assert heads.channels == [[0, 1], [2, 3, 4], [5, 6]]


def test_a_new_head_takes_device_and_dtype_of_the_old(heads):
    heads.double().grow(["ulna"])
    assert {p.dtype for p in heads.parameters()} == {torch.float64}


@pytest.mark.parametrize("classes", [[], ["scapula"], ["ulna", "ulna"], ["ulna", "humerus"]])
def test_a_head_needs_new_names(heads, classes):
    with pytest.raises(ValueError, match="A head needs new class names"):
        heads.grow(classes)
    assert len(heads.layers) == 2


@pytest.mark.parametrize("name", ["background", " Background", "", " ", "a\ud800"])
@pytest.mark.parametrize("kind", [GrowingHeads, SharedHead])
def test_a_class_has_a_name_for_files_that_is_not_that_of_the_background(kind, name):
    with pytest.raises(ValueError, match=r"A class cannot be called .*the label value 0 is the background. Rename it"):
        kind(4, 2).grow(["ulna", name])


def test_masks_and_probabilities_are_those_of_each_head_alone(heads, features):
    logits = 5 * torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    masks, chances = heads.masks(logits), heads.probabilities(logits)
    one, two = logits[:, :2].exp(), logits[:, 2:].exp()
    by_hand = torch.cat([one[:, 1:] / one.sum(1, keepdim=True), two[:, 1:] / two.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(chances, by_hand)
    assert torch.equal(masks[:, 0], logits[:, 1] > logits[:, 0])
    assert torch.equal(masks[:, 1], (logits[:, 3] > logits[:, 2]) & (logits[:, 3] >= logits[:, 4]))
    assert torch.equal(masks[:, 2], (logits[:, 4] > logits[:, 2]) & (logits[:, 4] > logits[:, 3]))
    assert masks[:, 1:].sum(1).max() == 1
    assert (masks[:, 0] & masks[:, 1]).any()  # classes of different heads are not exclusive


def test_three_dimensions():
    assert GrowingHeads(4, 3, [["a", "b"]])(torch.zeros(1, 4, 3, 5, 7)).shape == (1, 3, 3, 5, 7)
