import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from lit_continual.metrics import AverageSurfaceDistance, HausdorffDistance95, surface_distance
from lit_continual.metrics.surface_distance import surface_distances
from lit_continual.segmentation.volume_scores import SCORES, VolumeScores

DISTANCES = [AverageSurfaceDistance, HausdorffDistance95]


def surface_points(mask, spacing):
    """Voxel centres in mm of the foreground voxels with a face neighbour outside, the border of the image included."""
    padded = np.pad(mask, 1)
    points = []
    for voxel in np.argwhere(mask):
        faces = [offset * unit for unit in np.eye(mask.ndim, dtype=int) for offset in (-1, 1)]
        if not all(padded[tuple(voxel + 1 + face)] for face in faces):
            points.append(voxel * np.asarray(spacing))
    return np.array(points)


def by_brute_force(prediction, truth, spacing):
    one, other = (surface_points(mask.numpy(), spacing) for mask in (prediction, truth))
    pairs = np.linalg.norm(one[:, None] - other[None], axis=-1)
    there, back = pairs.min(1), pairs.min(0)
    return {
        AverageSurfaceDistance: (there.sum() + back.sum()) / (len(there) + len(back)),
        HausdorffDistance95: max(np.percentile(there, 95), np.percentile(back, 95)),
    }


def boxes(shape, *corners):
    masks = torch.zeros(len(corners), *shape, dtype=torch.bool)
    for mask, corner in zip(masks, corners, strict=True):
        mask[tuple(slice(low, high) for low, high in corner)] = True
    return masks


def measured(distance, prediction, truth, spacing=None):
    metric = distance()
    metric.update(prediction[None], truth[None], spacing=spacing)
    return metric.compute().item()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_lie_apart_by_the_spacing_of_their_own_axis(distance, axis):
    spacing = [0.5, 1.25, 3.0]
    planes = torch.zeros(2, 6, 7, 8, dtype=torch.bool)
    planes[0].select(axis, 1).fill_(True)
    planes[1].select(axis, 4).fill_(True)
    assert measured(distance, *planes, spacing) == 3 * spacing[axis]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("spacing", [[1.0, 1.0, 1.0], [0.7, 2.5, 1.2]], ids=str)
def test_offset_cubes_equal_brute_force_over_all_surface_voxels(distance, spacing):
    cubes = boxes((12, 11, 10), [(2, 7)] * 3, [(4, 9), (3, 8), (5, 10)])
    expected = by_brute_force(*cubes, spacing)[distance]
    assert measured(distance, *cubes, spacing) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(13, 9), (7, 8, 6)], ids=["2D", "3D"])
def test_random_masks_that_touch_the_border_equal_brute_force(distance, shape):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 3, *shape, generator=generator) > 0.8
    spacing = [0.7, 2.5, 1.2][: len(shape)]
    metric = distance()
    metric.update(*masks, spacing=spacing)
    expected = [by_brute_force(*case, spacing)[distance] for case in zip(*masks, strict=True)]
    assert metric.values().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6 warns of its own call
def test_equals_the_scores_of_monai():
    masks = torch.rand(2, 1, 9, 8, 7, generator=torch.Generator().manual_seed(1)) > 0.8
    options = {"include_background": True, "spacing": [0.7, 2.5, 1.2]}
    average = compute_average_surface_distance(*masks[:, :, None], symmetric=True, **options)
    hausdorff = compute_hausdorff_distance(*masks[:, :, None], percentile=95, **options)
    assert measured(AverageSurfaceDistance, *masks[:, 0], options["spacing"]) == pytest.approx(average.item())
    assert measured(HausdorffDistance95, *masks[:, 0], options["spacing"]) == pytest.approx(hausdorff.item())


def test_average_pools_both_directions():
    line, point = boxes((1, 9), [(0, 1), (0, 9)], [(0, 1), (0, 1)])
    assert measured(AverageSurfaceDistance, line, point) == pytest.approx((sum(range(9)) + 0) / (9 + 1))  # not 4 / 2


def test_hausdorff_takes_the_larger_direction_and_not_the_pool():
    line, point = boxes((1, 41), [(0, 1), (0, 41)], [(0, 1), (0, 1)])
    assert measured(HausdorffDistance95, line, point) == measured(HausdorffDistance95, point, line) == 38.0


@pytest.mark.parametrize("distance", DISTANCES)
def test_does_not_tell_prediction_from_truth(distance):
    cubes = boxes((9, 9, 9), [(1, 4)] * 3, [(2, 8)] * 3)
    assert measured(distance, *cubes) == pytest.approx(measured(distance, *cubes.flip(0)), rel=1e-6)  # order of a sum


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_masks_have_no_distance_and_a_scaled_grid_a_scaled_one(distance):
    cubes = boxes((9, 9, 9), [(1, 4)] * 3, [(2, 8)] * 3)
    assert measured(distance, cubes[0], cubes[0]) == 0
    assert measured(distance, *cubes, [2.0, 2.0, 2.0]) == pytest.approx(2 * measured(distance, *cubes))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", [torch.tensor, torch.Tensor.tolist], ids=["tensor", "list"])
def test_each_case_may_have_its_own_spacing(distance, kind):
    rows = torch.zeros(2, 2, 5, 5, dtype=torch.bool)
    rows[0, :, 1], rows[1, :, 3] = True, True
    metric = distance()
    spacing = torch.tensor([[1.5, 9.0], [0.25, 9.0]])  # two cases and two axes: rows are cases
    metric.update(*rows, spacing=spacing if kind is torch.tensor else kind(spacing))
    assert metric.values().tolist() == [3.0, 0.5]


@pytest.mark.parametrize("distance", DISTANCES)
def test_leaves_out_cases_with_an_empty_mask(distance):
    empty = torch.zeros(1, 5, 5, dtype=torch.bool)
    row, other = empty.clone(), empty.clone()
    row[:, 1], other[:, 3] = True, True
    metric = distance()
    metric.update(torch.cat([empty, row, empty, row]), torch.cat([row, empty, empty, other]))
    assert metric.values().isnan().tolist() == [True, True, True, False]
    assert metric.compute() == 2.0
    assert metric.left_out() == 3


@pytest.mark.parametrize("distance", DISTANCES)
def test_says_what_it_is(distance):
    assert distance.unit == "mm"
    assert distance().higher_is_better is False


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_that_are_measured_once_give_the_same(distance):
    masks = torch.rand(2, 3, 9, 8, 7, generator=torch.Generator().manual_seed(0)) > 0.8
    masks[0, 1] = False
    known, metric, alone = surface_distances(*masks, spacing=[0.7, 2.5, 1.2]), distance(), distance()
    metric.update(*masks, [0.7, 2.5, 1.2], known)
    alone.update(*masks, [0.7, 2.5, 1.2])
    assert torch.equal(metric.values().nan_to_num(-1), alone.values().nan_to_num(-1))
    assert metric.left_out() == 1


def test_surfaces_larger_than_torch_sorts_have_a_percentile(monkeypatch):
    masks = torch.rand(2, 1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) > 0.8
    expected = measured(HausdorffDistance95, *masks[:, 0])
    monkeypatch.setattr(surface_distance, "SORTED", 10)
    assert measured(HausdorffDistance95, *masks[:, 0]) == pytest.approx(expected, rel=1e-6)


def test_a_volume_has_its_surfaces_measured_once(monkeypatch):
    asked, edges = [], surface_distance.get_mask_edges
    monkeypatch.setattr(surface_distance, "get_mask_edges", lambda *a, **k: asked.append(1) or edges(*a, **k))
    prediction, truth = torch.rand(2, 1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) > 0.8
    found = VolumeScores(["a"], list(SCORES), "cpu").update("a", prediction, truth, [(0.7, 2.5, 1.2)])
    assert len(asked) == 1
    assert found["assd"] == measured(AverageSurfaceDistance, prediction[0], truth[0], [0.7, 2.5, 1.2])
    assert found["hd95"] == measured(HausdorffDistance95, prediction[0], truth[0], [0.7, 2.5, 1.2])
