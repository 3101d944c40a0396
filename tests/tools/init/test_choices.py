"""What is chosen for data, each choice against numbers worked out apart."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import ScaleIntensityRange

from lit_continual.data import Case, CaseList, Split, split_cases
from lit_continual.tools.init.case_facts import CaseFacts, examine
from lit_continual.tools.init.data_set_facts import DataSetFacts
from lit_continual.tools.init.experiences import choose_split, plan
from lit_continual.tools.init.geometry import geometry_of
from lit_continual.tools.init.intensities import normalisation_of
from lit_continual.tools.init.network_memory import step_bytes
from lit_continual.tools.init.proposal import Proposal
from tests.fixtures.data import write


def facts(name="p", shape=(40, 50, 60), spacing=(1.0, 1.0, 1.0), voxels=(1,), foreground=(), keys=(), **more):
    case = Case((Path(f"{name}.nii"),), Path(f"l{name}.nii"), str(name), dict(keys))
    plain = {"annotated": (1.0, 1.0, 1.0), "zeros": 0.0, "outlying": 1.0, "lowest": 0.0}
    grey = np.array([foreground or (0.0, 1.0)], np.float32)
    return CaseFacts(case, shape, spacing, grey, dict.fromkeys(voxels, 100), **{**plain, **more})


def data_set(cases, name="set", classes=None, labels=None, channels=(), regions=None, folds=False):
    listed = CaseList(Path(name), tuple(f.case for f in cases), labels or {}, regions or {}, channels)
    return DataSetFacts(name, name, listed, tuple(cases), classes or {"organ": 1}, 1, folds)


def test_axes_of_an_image_are_those_of_the_patient(tmp_path):
    affine = np.array([[0, 0, -3.0, 9], [1.2, 0, 0, -4], [0, 0.7, 0, 2], [0, 0, 0, 1]])  # P→A, I→S, L←R
    image, label = np.zeros((12, 10, 5), np.int16), np.zeros((12, 10, 5), np.uint8)
    image[..., 0] = 7
    label[2:6, 3:5, 1] = 1
    files = [write(tmp_path / name, array, affine) for name, array in (("i.nii", image), ("l.nii", label))]
    case = Case((files[0],), files[1], "p")
    found = examine(case, CaseList(tmp_path, (case,), {}), pytest.fail)
    assert found.shape == (5, 12, 10)
    assert found.spacing == pytest.approx((3.0, 1.2, 0.7))
    assert found.annotated == pytest.approx((1 / 5, 4 / 12, 2 / 10))
    assert found.voxels == {1: 8}
    assert found.zeros == pytest.approx(0.8)
    assert found.foreground.tolist() == [[0.0] * 8]


@pytest.mark.parametrize(
    ("shape", "spacing", "dims", "orientation", "size"),
    [
        ((40, 50, 60), (1, 1, 1), 3, "RAS", (40, 50, 60)),
        ((200, 200, 30), (0.8, 0.8, 5), 2, "RAS", (200, 200, 30)),
        ((25, 300, 290), (4, 0.7, 0.7), 2, "ASR", (300, 290, 25)),  # sagittal slices
        ((300, 25, 290), (0.7, 4, 0.7), 2, "RSA", (300, 290, 25)),  # coronal slices
        ((128, 128, 10), (1, 1, 1), 2, "RAS", (128, 128, 10)),
        ((90, 90, 60), (2, 2, 3.3), 3, "RAS", (90, 90, 60)),
    ],
)
def test_slices_lie_across_the_coarse_axis_and_cubes_are_volumes(shape, spacing, dims, orientation, size):
    found = geometry_of([facts(shape=shape, spacing=spacing)] * 3)
    assert (found.dims, found.orientation, found.size, found.spacing) == (dims, orientation, size, None)
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*spacing, 1]))
    turned = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(found.orientation))
    )
    assert image.as_reoriented(turned).shape == size


def test_other_voxel_sizes_are_resampled_to_the_median_and_slices_are_left():
    cubes = [facts(shape=(40, 40, 40), spacing=(s, 1.0, 1.0)) for s in (0.5, 1.0, 2.0)]
    found = geometry_of(cubes)
    assert (found.spacing, found.size) == ((1.0, 1.0, 1.0), (40, 40, 40))
    assert geometry_of([facts(spacing=(1.0, 1.0, 1.01)), *[facts()] * 2]).spacing is None
    slices = [facts(shape=(100, 100, n), spacing=(1.0, 1.0, mm)) for n, mm in ((20, 6.0), (30, 4.0), (25, 5.0))]
    assert geometry_of(slices).spacing is None  # thickness alone differs, and nobody interpolates between slices
    assert geometry_of([facts(shape=(100, 100, 20), spacing=(s, s, 5.0)) for s in (0.5, 1, 1)]).spacing == (1, 1, -1)


def test_ct_is_scaled_as_nnunet_does():
    rng = np.random.default_rng(0)
    grey = [rng.normal(60, 30, 500).astype(np.float32) for _ in range(4)]
    (step,), _ = normalisation_of([data_set([facts(foreground=tuple(g)) for g in grey], channels=("CT",))])
    all_ = np.concatenate(grey).astype(np.float64)
    low, high = np.percentile(all_, [0.5, 99.5])
    image = rng.normal(0, 300, (1, 200))
    expected = (image.clip(low, high) - all_.mean()) / all_.std()
    np.testing.assert_allclose(ScaleIntensityRange(**step["init_args"])(image), expected, atol=0.01)


@pytest.mark.parametrize(
    ("channels", "lowest", "more", "names"),
    [
        (("CT",), -1000.0, {}, ["ScaleIntensityRange"]),
        (("CT in HU",), 0.0, {}, ["ScaleIntensityRange"]),
        ((), -1024.0, {}, ["ScaleIntensityRange"]),
        ((), -5.0, {}, ["NormalizeIntensity"]),
        (("FLAIR",), -1000.0, {}, ["NormalizeIntensity"]),
        (("PET/CT fused?", "T1"), -1000.0, {}, ["NormalizeIntensity"]),
        (("reCTangle",), 0.0, {"outlying": 40.0}, ["ClipIntensityPercentiles", "NormalizeIntensity"]),
    ],
)
def test_the_scale_goes_by_the_modality(channels, lowest, more, names):
    cases = [facts(lowest=lowest, foreground=(1.0, 50.0, 80.0), **more)] * 3
    steps, _ = normalisation_of([data_set(cases, channels=channels)])
    assert [step["class_path"] for step in steps] == names


def test_a_removed_background_is_left_out_and_two_modalities_are_z_scored():
    (step,), why = normalisation_of([data_set([facts(zeros=0.6)] * 3, channels=("T1",))])
    assert step["init_args"] == {"channel_wise": True, "nonzero": True}
    assert "zeros" in why
    (step,), _ = normalisation_of([data_set([facts(zeros=0.6, lowest=-4.0)] * 3, channels=("T1",))])
    assert step["init_args"] == {"channel_wise": True}
    both = [data_set([facts(foreground=(1.0, 9.0))], channels=(kind,)) for kind in ("CT", "MR")]
    (step,), why = normalisation_of(both)
    assert step["class_path"] == "NormalizeIntensity"
    assert why.startswith("CT and other images together")


def test_a_foreground_of_one_intensity_gives_no_range():
    (step,), _ = normalisation_of([data_set([facts(foreground=(5.0, 5.0))], channels=("CT",))])
    assert step["class_path"] == "NormalizeIntensity"


def test_memory_of_a_step_is_counted():
    body = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 1, "kernel_size": 1}}
    pixels = 4 * 16 * 16
    parameters = (1 * 4 + 4) + (4 * 2 + 2)
    one = (1 + 4 + 2) * pixels + 3 * 4 * pixels  # image, features and log softmax are kept; three times the largest
    for batch in (1, 5):
        expected = 0.6e9 + 1.15 * (20 * parameters + batch * one)
        assert step_bytes(body, 4, 1, 1, (16, 16), batch) == pytest.approx(expected)


def names_of(planned):
    return [(one.name, list(one.classes)) for one in planned]


def test_what_was_revealed_together_is_revealed_together_or_not_at_all():
    cases = [facts(n) for n in range(5)]
    first = data_set(cases, "a", {"liver": 1, "spleen": 2})
    second = data_set(cases, "b", {"spleen": 1, "kidney": 2})
    third = data_set(cases, "a", {"kidney": 1})
    planned, _ = plan([first, second, third], None)
    assert names_of(planned) == [("a", ["liver", "spleen"]), ("b", ["kidney"]), ("a 2", ["kidney"])]
    with pytest.raises(ValueError, match=r"b reveals spleen, a part of what an earlier data set reveals together"):
        plan([first, data_set(cases, "b", {"spleen": 1})], None)
    by_class, _ = plan([first, data_set(cases, "b", {"spleen": 1})], "classes")
    assert names_of(by_class) == [("liver", ["liver"]), ("spleen", ["spleen"]), ("spleen 2", ["spleen"])]
    assert [one.part for one in by_class] == [(0, 2), (1, 2), None]


def test_a_rare_class_is_trained_and_tested():
    cases = [facts(n, voxels=(1, 2) if n in (3, 11) else (1,)) for n in range(20)]
    planned, _ = plan([data_set(cases, classes={"organ": 1, "lesion": 2})], "datasets")
    options, _, why = choose_split(planned)
    splits = split_cases([f.case for f in cases], Split(**{**options, "fractions": tuple(options["fractions"])}), "set")
    assert {"3", "11"} == {c.patient for side in ("train", "test") for c in splits[side] if c.patient in ("3", "11")}
    assert sum(c.patient in ("3", "11") for c in splits["train"]) == 1
    assert "seed" in why


def test_patients_are_shared_by_the_classes_where_there_are_too_few_to_part():
    cases = [facts(n, voxels=(1, 2, 3, 4)) for n in range(6)]
    planned, _ = plan([data_set(cases, classes={"a": 1, "b": 2, "c": 3, "d": 4})], None)
    assert planned[1].part == (1, 4)
    _, shared, _ = choose_split(planned)
    assert [one.part for one in shared] == [None] * 4


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_few_patients_train_and_test(count):
    planned, _ = plan([data_set([facts(n) for n in range(count)])], None)
    options, _, _ = choose_split(planned)
    splits = split_cases(planned[0].data.listed.cases, Split(fractions=tuple(options["fractions"])), "set")
    assert splits["train"]
    assert splits["test"]
    assert bool(splits["val"]) == (count > 4)


def test_one_patient_is_too_few():
    planned, _ = plan([data_set([facts(0)])], None)
    with pytest.raises(ValueError, match=r"No split of set has every class among the patients who train"):
        choose_split(planned)


def test_splits_that_are_given_are_taken(tmp_path):
    sides = ["train", "train", "val", "test", "train"]
    cases = [facts(n, keys={"split": side}) for n, side in enumerate(sides)]
    assert choose_split(plan([data_set(cases)], None)[0])[0] == {"key": "split"}
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["0", "1", "2"], "val": ["3", "4"]}]))
    planned, _ = plan([data_set(cases, str(tmp_path), folds=True)], None)
    assert choose_split(planned)[0] == {"fold": 0, "fractions": [0.9, 0.1, 0.0]}


# 100 voxels have the class
@pytest.mark.parametrize(("shape", "small"), [((20, 20, 50), False), ((20, 20, 51), True), ((200, 200, 4), True)])
def test_a_class_of_less_than_a_two_hundredth_is_small(shape, small):
    data = data_set([facts(str(k), shape, voxels=(1, 2)) for k in range(20)], classes={"a": 1, "b": 2})
    proposal = Proposal([data], 8, 0, "classes", "runs/x")
    (callback,) = proposal.config["trainer"]["callbacks"]
    chosen = proposal.config["data"]["init_args"].get("foreground") is not None
    flat = {"dice": 0.25, **({"old_patches": 0.3} if chosen else {})}
    term = {"dice": 1.0, "old_patches": 0.5} if proposal.grid.dims == 3 else flat
    assert callback["init_args"] == {"alpha": 0.5, **({"exclusive": True, **term} if small else {})}
    found = proposal.config["model"]["init_args"].get("loss", {"init_args": {}})["init_args"]
    loss = {"include_background": False} if proposal.grid.dims == 3 else {"batch": True, "smooth_nr": 0}
    assert found == ({"softmax": True, "to_onehot_y": True, **loss} if small else {})
    assert ("a, b are below 0.5% of a volume" in proposal.comments.get("model.init_args.loss", "")) == small
