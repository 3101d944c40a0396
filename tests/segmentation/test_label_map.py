import itertools

import pytest
import torch

from lit_continual.modules import GrowingHeads, RegionSegmenter
from lit_continual.segmentation.folded_layer import folded_layer
from lit_continual.segmentation.label_map import folded_logits, label_map
from lit_continual.segmentation.region_segmenter import BRATS

NETWORK = {"_target_": "torch.nn.Identity"}
#: Which of whole tumour, tumour core and enhancing tumour are found at a voxel, and what its label is.
TABLE = {(0, 0, 0): 0, (1, 0, 0): 1, (1, 1, 0): 2, (1, 1, 1): 3, (1, 0, 1): 3, (0, 1, 0): 2, (0, 1, 1): 3, (0, 0, 1): 3}
#: Log-odds of an old class, and of two new ones of another head, at a voxel, and what its label is.
DISJOINT = {
    (-1, -2, -3): 0,
    (2, -1, -1): 1,
    (-1, 2, -1): 2,
    (2, 3, -9): 2,  # a plain fine-tune: the old head still claims what the new class is
    (3, 2, 1): 1,
    (1, 2, 3): 3,
    (1, 1, 1): 1,
    (0, 0, 0): 0,
}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_voxel_gets_the_innermost_region_whatever_their_order_and_probability(order):
    masks = torch.tensor(list(TABLE)).bool()
    regions = list(BRATS.values())
    for odds in (torch.ones(3), torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])):
        folded = torch.cat([torch.full((8, 1), 0.5), torch.where(masks, 0.5 + odds, -1.0)[:, order]], 1)
        found = label_map(folded, [regions[k] for k in order])
        assert [0 if value == 0 else order[value - 1] + 1 for value in found.tolist()] == list(TABLE.values())


def test_of_regions_beside_one_another_the_more_probable_is_painted():
    folded = torch.tensor([[0, 0.6, -1, 0.9], [0, 0.8, 0.6, 0.5], [0, 0.7, 0.7, -1]])
    assert label_map(folded, [["a", "b", "c"], ["a", "b"], ["b", "c"]]).tolist() == [3, 2, 2]


@pytest.mark.parametrize("backgrounds", [(0.0, 0.0), (3.0, -2.0)])
def test_heads_compete_by_their_log_odds(backgrounds):
    odds = torch.tensor(list(DISJOINT), dtype=torch.float)
    old, new = (torch.full((len(odds), 1), value) for value in backgrounds)
    logits = torch.cat([old, old + odds[:, :1], new, new + odds[:, 1:]], 1)
    heads = GrowingHeads(1, 2, [["old"], ["new", "newer"]])
    assert heads.labels(logits).tolist() == list(DISJOINT.values())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_labels_are_the_argmax_of_one_layer_with_all_classes(spatial_dims):
    torch.manual_seed(0)
    heads = GrowingHeads(6, spatial_dims, [["a", "b"], ["c"], ["d", "e", "f"]])
    features = 3 * torch.randn(2, 6, *[12] * spatial_dims)
    weight, bias = folded_layer(heads.layers)
    one = getattr(torch.nn.functional, f"conv{spatial_dims}d")(features, weight, bias)
    logits = heads(features)
    folded = folded_logits(logits, heads.channels)
    torch.testing.assert_close(one, folded, atol=1e-5, rtol=1e-5)
    assert torch.equal(heads.labels(logits), one.argmax(1))
    assert len(heads.labels(logits).unique()) == 7
    odds = torch.cat([logits[:, c[1:]].double() - logits[:, c[:1]] for c in heads.channels], 1)  # by hand
    best = odds.max(1)
    assert torch.equal(heads.labels(logits), torch.where(best.values > 0, best.indices + 1, 0))


def test_of_one_head_the_logits_and_the_layer_are_as_they_were():
    torch.manual_seed(0)
    heads = GrowingHeads(6, 2, [["a", "b"], ["c"]])
    logits = torch.randn(1, 5, 8, 8)
    assert torch.equal(folded_logits(logits, heads.channels)[:, :3], logits[:, :3])
    weight, bias = folded_layer(heads.layers)
    assert torch.equal(weight[:3], heads.layers[0].weight)
    assert torch.equal(bias[:3], heads.layers[0].bias)


def test_the_label_map_of_a_segmenter_shows_cores_of_which_the_whole_is_more_probable():
    module = RegionSegmenter(NETWORK, features=1, roi_size=[2, 2])
    logits = torch.zeros(1, 6, 1, 8)
    found = torch.tensor(list(TABLE)).T  # regions by voxels
    logits[0, 1::2, 0] = torch.where(found == 1, torch.tensor([9.0, 4.0, 1.0])[:, None], torch.tensor(-3.0))
    assert module.labels(logits)[0, 0].tolist() == list(TABLE.values())
    assert torch.equal(module.masks(logits)[0, :, 0], found.bool())
