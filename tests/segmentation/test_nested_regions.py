import itertools

import pytest
import torch

from lit_continual.modules import RegionSegmenter
from lit_continual.segmentation.nested_regions import nested_labels
from lit_continual.segmentation.region_segmenter import BRATS

NETWORK = {"_target_": "torch.nn.Identity"}
#: Which of whole tumour, tumour core and enhancing tumour are found at a voxel, and what its label is.
TABLE = {(0, 0, 0): 0, (1, 0, 0): 1, (1, 1, 0): 2, (1, 1, 1): 3, (1, 0, 1): 3, (0, 1, 0): 2, (0, 1, 1): 3, (0, 0, 1): 3}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_voxel_gets_the_innermost_region_whatever_their_order_and_probability(order):
    masks = torch.tensor(list(TABLE)).bool()
    regions = list(BRATS.values())
    for chances in (masks.float(), 1 - 0.1 * torch.arange(3) * masks, 0.6 + 0.1 * torch.arange(3) * masks):
        found = nested_labels(masks[:, order], chances[:, order], [regions[k] for k in order])
        assert [0 if value == 0 else order[value - 1] + 1 for value in found.tolist()] == list(TABLE.values())


def test_of_regions_beside_one_another_the_more_probable_is_painted():
    masks = torch.tensor([[True, True, True], [False, True, True], [True, True, False]])
    chances = torch.tensor([[0.6, 0.8, 0.7], [0.0, 0.6, 0.7], [0.9, 0.6, 0.0]])
    assert nested_labels(masks, chances, [["a", "b", "c"], ["a", "b"], ["b", "c"]]).tolist() == [2, 3, 2]


def test_the_label_map_of_a_segmenter_shows_cores_of_which_the_whole_is_more_probable():
    module = RegionSegmenter(NETWORK, features=1, roi_size=[2, 2])
    logits = torch.zeros(1, 6, 1, 8)
    found = torch.tensor(list(TABLE)).T  # regions by voxels
    logits[0, 1::2, 0] = torch.where(found == 1, torch.tensor([9.0, 4.0, 1.0])[:, None], torch.tensor(-3.0))
    assert module.labels(logits)[0, 0].tolist() == list(TABLE.values())
    assert torch.equal(module.masks(logits)[0, :, 0], found.bool())
