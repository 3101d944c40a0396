"""Piece by piece, nnU-Net's answers have the bits that its own code gives them as a whole."""

import numpy as np
import pytest
import torch

from lit_continual.data import Case, collate
from lit_continual.interop.nnunet.piecewise import _places, blocks, interpolated
from lit_continual.modules import NNUNetSegmenter
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation import source_grid
from lit_continual.segmentation.inference import Inference
from tests.interop.nnunet.conftest import nnunet_predicts, write_images
from tests.interop.nnunet.test_predict import we_predict
from tests.largest_tensor import largest_tensor

GRIDS = {  # shape, new shape, spacing, new spacing, axis of the nearest voxel
    "finer": ((5, 7, 6), (9, 8, 13), (2.0, 1.5, 1.5), (1.2, 1.3, 0.7), None),
    "coarser": ((12, 14, 9), (7, 9, 4), (1.0, 1.0, 1.0), (1.7, 1.5, 2.2), None),
    "one voxel": ((1, 7, 6), (1, 9, 11), (1.0, 1.0, 1.0), (1.0, 0.7, 0.6), None),
    "one of three": ((3, 7, 6), (1, 9, 11), (1.0, 1.0, 1.0), (3.0, 0.7, 0.6), None),
    "anisotropic": ((5, 9, 8), (7, 13, 6), (5.0, 1.0, 1.0), (3.6, 0.7, 1.3), 0),
    "along the second": ((9, 4, 8), (11, 6, 8), (1.0, 5.0, 1.0), (0.8, 3.3, 1.0), 1),
    "along the third": ((9, 8, 4), (11, 6, 4), (1.0, 1.0, 5.0), (0.8, 1.3, 5.0), 2),
    "the same": ((5, 9, 8), (5, 9, 8), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_interpolation_has_the_bits_of_nnunets(grid):
    resampling = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")
    shape, size, spacing, new, nearest = grid
    logits = (30 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))).half()
    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    expected = resampling.resample_data_or_seg_to_shape(logits.numpy(), size, spacing, new, **options)
    places = [_places(n, m, axis == nearest) for axis, (n, m) in enumerate(zip(shape, size, strict=True))]
    np.testing.assert_array_equal(interpolated(logits, places).numpy(), expected)


LAYOUTS = {  # of models, volume, overlap, mirrored, mode
    "overlapping": ({}, (13, 37, 30), 0.5, False, "gaussian"),
    "mirrored": ({}, (9, 20, 17), 0.5, True, "gaussian"),
    "many at a voxel": ({}, (11, 20, 24), 0.8, False, "constant"),
    "small": ({}, (5, 20, 11), 0.5, False, "gaussian"),
    "slice by slice": ({"dims": 2}, (4, 37, 30), 0.5, True, "gaussian"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@torch.no_grad()
def test_sums_have_the_bits_of_nnunets(toy, layout):
    options, shape, overlap, mirror, mode = layout
    module = Checkpoint(toy(**options)).module(NNUNetSegmenter).eval()
    module.inference, module.mirror = Inference(overlap=overlap, mode=mode), mirror
    volume = torch.randn(1, *shape)
    expected = module._folded(volume.movedim(1, -1)[None] if "dims" in options else volume[None])[0]
    expected = expected.movedim(-1, 1) if "dims" in options else expected
    given = (module.model, module.model.patch_size, mirror, module.inference)
    found = torch.full_like(expected, torch.nan)
    for block in blocks(module._convolved(), volume, *given, halo=1):
        where = tuple(slice(s, s + n) for s, n in zip(block.start, block.values.shape[1:], strict=True))
        found[(slice(None), *where)] = block.values
    assert torch.equal(found, expected)


@pytest.fixture
def one_case(tmp_path):
    def load(folder, **options):
        images = write_images(tmp_path / "images", count=1, **options)
        module = Checkpoint(folder).module(NNUNetSegmenter).eval()
        return module, collate([module.load_case(Case((images / "case_0_0000.nii.gz",), None, "p"))])

    return load


MODELS = {
    "resampled": {},
    "slice by slice": {"dims": 2, "spacing": (9.0, 1.0, 1.7)},
    "transposed": {"transpose": (1, 0, 2), "spacing": (2.0, 2.0, 2.0)},
    "another reader": {"spacing": (1.3, 1.3, 3.0), "reader": "NibabelIO"},
    "turned": {"reader": "NibabelIOWithReorient", "transpose": (2, 0, 1)},
}
LEFT_HANDED = np.array([[0.0, 1.3, 0.2, 5.0], [-1.2, 0.0, 0.0, -3.0], [0.0, 0.3, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_label_maps_masks_and_probabilities_are_those_of_whole_logits(toy, one_case, model, monkeypatch):
    monkeypatch.setattr(source_grid, "AT_ONCE", 2000)  # so that blocks are parted
    module, batch = one_case(toy(**model), affine=LEFT_HANDED)
    module.grow(["new"])
    assert not module.needs_whole(batch)
    logits = module.predict_step(batch, 0)
    labels, chances = module.predicted(batch, probabilities=True)
    assert torch.equal(labels.long(), module.labels(logits))
    assert {0, 1, 2} <= set(labels.unique().tolist())
    torch.testing.assert_close(chances, module.probabilities(logits), atol=1e-6, rtol=1e-5)
    masks = module.predicted_masks({**batch, "label": labels})
    assert all(torch.equal(masks[name], module.masks(logits)[:, k]) for k, name in enumerate(module.classes))


def by_torch(plans, dataset):
    (known,) = plans["configurations"].values()
    known["resampling_fn_probabilities"] = "resample_torch_fornnunet"
    known["resampling_fn_probabilities_kwargs"] = {"is_seg": False, "force_separate_z": False}


def by_cubes(plans, dataset):
    (known,) = plans["configurations"].values()
    known["resampling_fn_probabilities_kwargs"]["order"] = 3


@pytest.mark.parametrize("change", [by_torch, by_cubes])
def test_what_is_resampled_otherwise_is_so_as_a_whole(toy, one_case, tmp_path, change):
    folder = toy(change=change)
    module, batch = one_case(folder)
    assert module.needs_whole(batch)
    (theirs,) = nnunet_predicts(folder, tmp_path / "images", tmp_path / "theirs").values()
    (ours,) = we_predict(folder, tmp_path / "images", tmp_path / "ours").values()
    np.testing.assert_array_equal(ours, theirs)


def test_a_class_that_predicts_in_its_own_way_gets_whole_logits(toy, one_case):
    class Louder(NNUNetSegmenter):
        def infer(self, image):
            return super().infer(image) * 2

    module, batch = one_case(toy())
    module.__class__ = Louder
    assert module.needs_whole(batch)


def test_answers_too_large_for_half_precision_are_refused(toy, one_case):
    module, batch = one_case(toy())
    with torch.no_grad():
        module.heads.layers[0].bias.fill_(1e6)
    with pytest.raises(ValueError, match=r"too large for half precision, .* Take another model"):
        module.predicted(batch)


def test_the_largest_tensor_does_not_grow_with_the_classes(toy, one_case):
    labels = {"background": 0, **{f"c{k}": k for k in range(1, 25)}}
    module, batch = one_case(
        toy(labels=labels, spacing=(1.5, 1.5, 1.5)), shape=(20, 20, 64), affine=np.diag([1.5] * 3 + [1.0])
    )
    image = batch["image"].nbytes
    assert largest_tensor(lambda: module.predicted(batch)) < 4 * image
    with torch.no_grad():
        assert largest_tensor(lambda: module.predict_step(batch, 0)) >= 24 * image
