from itertools import product

import numpy as np
import pytest
import torch

from lit_continual.data import Case, collate
from lit_continual.data.preprocessing import Preprocessing
from lit_continual.data.volumes import load_case
from lit_continual.modules import HydraNet, RegionSegmenter, Segmenter
from lit_continual.segmentation.inference import Inference
from lit_continual.windows import stitching
from tests.data.test_volumes import save
from tests.largest_tensor import largest_tensor
from tests.marks import slow_but

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "kernel_size": 3, "padding": 1}
FLAT = {**NETWORK, "_target_": "torch.nn.Conv2d"}
HEADS = [["a"], ["b", "c"], ["d"]]
STRAIGHT = np.diag([-0.8, -0.8, 2.5, 1.0])
SWAPPED = np.array([[0, 0, 1.2, 5], [0.9, 0, 0, -3], [0, -1.7, 0, 2], [0, 0, 0, 1]])
SHEARED = STRAIGHT + np.array([[0, 0.2, 0, 0]] + [[0] * 4] * 3)
TIE = 1e-4  # logits that are nearer to each other are decided by rounding


@pytest.fixture
def volume(tmp_path):
    def load(shape=(14, 11, 9), affine=STRAIGHT, **preprocessing):
        image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        save(tmp_path / "image.nii.gz", image, affine)
        case = Case((tmp_path / "image.nii.gz",), None, "p")
        batch = collate([load_case(case, Preprocessing(**preprocessing))])
        return {**batch, "label": torch.zeros(1, 1, *shape)}

    return load


def segmenter(network=NETWORK, window=(6, 6, 6), heads=HEADS, seed=0, **options):
    torch.manual_seed(seed)
    one = [[name for head in heads for name in head]]  # later groups would begin as the background
    shared = {"heads": "shared", "classes": one} if options.pop("shared", False) else {"heads": heads}
    return Segmenter(network, 4, roi_size=list(window), **shared, **options).eval()


def undecided(module, logits):
    """Voxels where two channels, or two log-odds of classes, are so near that rounding decides."""
    odds = [logits[:, c[1:]] - logits[:, c[:1]] for c in module.head_channels]
    best = torch.cat([torch.zeros_like(odds[0][:, :1]), *odds], 1).sort(1).values
    return (best[:, 1:] - best[:, :-1]).amin(1) < TIE


@torch.no_grad()
def assert_as_whole(module, batch):
    assert not module.needs_whole(batch)
    logits = module.predict_step(batch, 0)
    tied = undecided(module, logits)
    assert tied.float().mean() < 0.02
    found, chances = module.predicted(batch, probabilities=True)
    expected = module.labels(logits)
    assert len(expected.unique()) > 1
    assert torch.equal(found[~tied].long(), expected[~tied])
    torch.testing.assert_close(chances, module.probabilities(logits), atol=1e-5, rtol=1e-4)
    masks, whole = module.predicted_masks(batch), module.processed(logits)
    assert list(masks) == module.classes
    for k, name in enumerate(module.classes):
        assert torch.equal(masks[name][~tied], whole[:, k][~tied])
    return found, expected


GRIDS = {
    "as stored": {"orientation": None},
    "turned": {"orientation": "RAS"},
    "swapped": {"affine": SWAPPED, "orientation": "LPS"},
    "resampled": {"spacing": (1.0, 0.7, 2.0)},
    "coarser": {"spacing": (2.0, 1.7, 4.0), "affine": SWAPPED},
    "in plane": {"spacing": (1.0, 1.0, -1.0)},
    "small": {"shape": (5, 4, 3)},
    "small and resampled": {"shape": (5, 4, 3), "spacing": (1.1,)},
    "a slice": {"shape": (13, 12, 1), "spacing": (1.0, 1.0, -1.0)},
}


ORDERS = [(0, 1, 2), (2, 0, 1)]  # of axes: the second with some grids, as each has the first
FAST = [*product(GRIDS, ORDERS[:1]), *product(["swapped", "resampled", "a slice"], ORDERS[1:])]


@pytest.mark.parametrize(("grid", "order"), slow_but(product(GRIDS, ORDERS), *FAST))
@pytest.mark.parametrize("flat", [False, True], ids=["3D", "slice by slice"])
def test_label_maps_and_masks_are_those_of_whole_logits(volume, grid, flat, order, monkeypatch):
    monkeypatch.setattr(stitching, "_order", lambda axes: order)
    module = segmenter(FLAT, (6, 5)) if flat else segmenter()
    found, expected = assert_as_whole(module, volume(**GRIDS[grid]))
    if "spacing" not in GRIDS[grid] and order == (0, 1, 2):
        assert torch.equal(found.long(), expected)  # to the last bit of a logit


@pytest.mark.parametrize("resample", ["logits", "probabilities"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_whatever_is_resampled_and_however_heads_relate(volume, resample, shared):
    module = segmenter(shared=shared, inference=Inference(resample=resample, overlap=0.5, sw_batch_size=3))
    assert_as_whole(module, volume(spacing=(1.0, 0.7, 2.0)))


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 2.0), (1.6, 1.6, 5.0)], ids=["finer", "half way between two"])
@pytest.mark.parametrize("affine", [STRAIGHT, SWAPPED, SHEARED], ids=["straight", "swapped", "sheared"])
def test_the_nearest_voxel_is_that_of_whole_logits(volume, affine, spacing):
    module = segmenter(inference=Inference(resample="labels"))
    batch = volume(affine=affine, spacing=spacing)
    assert not module.needs_whole(batch)
    with torch.no_grad():
        logits = module.predict_step(batch, 0)
    found, chances = module.predicted(batch, probabilities=True)
    assert torch.equal(found.long(), module.labels(logits))
    torch.testing.assert_close(chances, module.probabilities(logits), atol=1e-6, rtol=1e-5)
    masks = module.predicted_masks(batch)
    assert all(torch.equal(masks[name], module.masks(logits)[:, k]) for k, name in enumerate(module.classes))


def test_labels_that_are_not_resampled_are_those_of_whole_logits(volume):
    assert_as_whole(segmenter(inference=Inference(resample="labels")), volume())


def test_post_processing_sees_the_whole_map(volume):
    step = {"_target_": "KeepLargestConnectedComponent", "applied_labels": [1, 2, 3, 4]}
    plain, post = segmenter(), segmenter(post=[step])
    batch = volume()
    found, _ = assert_as_whole(post, batch)
    assert not torch.equal(found.long(), plain.predicted(batch)[0].long())


def test_what_is_scored_may_be_the_label_map(volume):
    batch = volume(spacing=(1.0, 0.7, 2.0))
    heads = segmenter().predicted_masks(batch)
    module = segmenter(inference=Inference(scored="labels"))
    assert_as_whole(module, batch)
    found, masks = module.predicted(batch)[0], module.predicted_masks(batch)
    for k, name in enumerate(module.classes, 1):
        assert torch.equal(masks[name], found == k)
        assert not (masks[name] & ~heads[name]).any()  # a class that wins a voxel is found there
    assert sum(mask.int() for mask in heads.values()).max() > 1 == sum(mask.int() for mask in masks.values()).max()
    assert "scored" not in Inference().plain()  # what older programs do not know
    assert Inference.of(module.hparams["inference"]).scored == "labels"


def test_post_processing_that_fails_is_named(volume):
    module = segmenter(post=[{"_target_": "KeepLargestConnectedComponent", "connectivity": 77}])
    with pytest.raises(ValueError, match=r"`post` fails on a label map \(Connectivity .*77\). Correct its transforms"):
        module.predicted(volume())


def test_of_regions_the_innermost_is_shown(volume):
    torch.manual_seed(1)
    module = RegionSegmenter(NETWORK, 4, {"whole": ["a", "b"], "core": ["b"]}, roi_size=[6, 6, 6]).eval()
    batch = volume()
    with torch.no_grad():
        logits = module.predict_step(batch, 0)
    assert torch.equal(module.predicted(batch)[0].long(), module.labels(logits))
    masks = module.predicted_masks(batch)
    assert all(torch.equal(masks[name], module.masks(logits)[:, k]) for k, name in enumerate(module.classes))
    assert (masks["core"] & masks["whole"]).any()


def test_a_class_with_its_own_way_gets_whole_logits(volume):
    class Louder(Segmenter):
        def infer(self, image):
            return super().infer(image) * 2

    class Otherwise(Segmenter):
        def labels(self, logits):
            return torch.full_like(super().labels(logits), 7)

    batch = volume()
    for kind in (Louder, Otherwise):
        module = kind(NETWORK, 4, HEADS, roi_size=[6, 6, 6]).eval()
        assert module.needs_whole(batch)
        assert torch.equal(module.predicted(batch)[0], module.labels(module.predict_step(batch, 0)))
    assert (module.predicted(batch)[0] == 7).all()
    narrow = {"class_path": "DenseNet121UNet", "init_args": {"decoder_channels": [8] * 5}}
    assert not HydraNet(narrow, 4, HEADS, roi_size=[32, 32]).needs_whole(batch)


def test_a_sheared_file_that_was_resampled_gets_whole_logits(volume):
    assert not segmenter().needs_whole(volume(affine=SHEARED))
    batch = volume(affine=SHEARED, spacing=(1.0,))
    module = segmenter()
    assert module.needs_whole(batch)
    assert torch.equal(module.predicted(batch)[0], module.labels(module.predict_step(batch, 0)))


def test_the_largest_tensor_does_not_grow_with_the_heads(monkeypatch):
    monkeypatch.setattr(stitching, "SMALL", 0)
    shape, affine = (24, 24, 120), torch.eye(4).tolist()
    batch = {"image": torch.rand(1, 1, *shape), "affine": [affine], "source_affine": [affine], "source_shape": [shape]}
    batch["label"] = torch.zeros(1, 1, *shape)
    module = segmenter(window=(12, 12, 12), heads=[[f"c{k}"] for k in range(10)], inference=Inference(sw_batch_size=1))
    image = batch["image"].nbytes
    assert largest_tensor(lambda: module.predicted(batch)) < 2 * image
    assert largest_tensor(lambda: module.predicted_masks(batch)) < 2 * image
    assert largest_tensor(lambda: module.predict_step(batch, 0)) >= 20 * image


def test_sums_in_half_precision_change_few_voxels(volume):
    batch, module = volume((20, 18, 16)), segmenter()
    whole = module.predicted(batch)[0]
    module.inference = Inference(stitch_dtype="float16", stitch_device="cpu")
    assert (module.predicted(batch)[0] != whole).float().mean() < 0.005


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"_target_": "Resize", "spatial_size": [2, 2, 2]}, r"`post` makes 2 x 2 x 2 voxels of "),
        ({"_target_": "AsDiscrete", "to_onehot": 5}, r"`post` makes .* voxels of "),
        ({"_target_": "ShiftIntensity", "offset": 7.0}, "`post` makes values of a label map that are no class"),
        (
            {"_target_": "ScaleIntensity", "minv": 0.0, "maxv": 0.5},
            "`post` makes values of a label map that are no class",
        ),
    ],
)
def test_post_processing_that_leaves_no_label_map_is_named(volume, step, message):
    with pytest.raises(ValueError, match=message):
        segmenter(post=[step]).predicted(volume())


def test_what_is_no_number_is_no_label_map(volume):
    module = segmenter()
    with torch.no_grad():
        module.heads.layers[0].bias.fill_(3e38)
        module.heads.layers[0].weight.fill_(3e38)
    with pytest.raises(ValueError, match=r"The answer of the network to .* is nan or infinite"):
        module.predicted(volume())


def test_a_network_that_answers_for_fewer_voxels_is_named(volume):
    module = segmenter({**NETWORK, "padding": 0})
    with pytest.raises(ValueError, match=r"The network fails on .* \(it returns 4 x 4 x 4 voxels of 6 x 6 x 6\)"):
        module.predicted(volume())
