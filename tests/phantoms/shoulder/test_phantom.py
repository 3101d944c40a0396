import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from lit_continual.phantoms import folder as phantom_folder
from lit_continual.phantoms.shoulder import phantom as shoulder_phantom
from lit_continual.phantoms.shoulder.phantom import CONTRASTS, SPACING, shoulder_subject, write_shoulder_phantom

SEEDS = range(5)
SMALL = {"size": (24, 24, 8), "spacing": (7.2, 7.2, 18.0)}
MEDIUM = {"size": (48, 48, 24), "spacing": (3.6, 3.6, 6.0)}


@pytest.fixture(scope="module")
def truths():
    return [shoulder_subject(seed)[1] for seed in SEEDS]


@pytest.fixture(scope="module")
def scans():
    return {contrast: [shoulder_subject(seed, contrast, **MEDIUM) for seed in SEEDS] for contrast in CONTRASTS}


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_a_seed_is_one_patient_and_one_scan():
    first, again, other = (shoulder_subject(seed, **SMALL) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_patient_has_one_anatomy_in_every_contrast(scans):
    for (fat, truth), (water, same) in zip(*scans.values(), strict=True):
        assert np.array_equal(truth, same)
        assert not np.array_equal(fat, water)


def test_marrow_is_brighter_than_muscle_in_fat_and_darker_in_water(scans):
    for (fat, truth), (water, _) in zip(*scans.values(), strict=True):
        marrow = distance_transform_edt(truth == 1, sampling=MEDIUM["spacing"]) > 8
        around = distance_transform_edt(truth != 1, sampling=MEDIUM["spacing"])
        muscle = (around > 10) & (around < 14)
        ratio = [np.median(image[marrow]) / np.median(image[muscle]) for image in (fat, water)]
        assert ratio[0] > 1.5 > 0.7 > ratio[1]


def test_volumes_are_those_of_adults(truths):
    for truth in truths:
        counts = np.bincount(truth.ravel(), minlength=3) * np.prod(SPACING) / 1000
        assert 55 < counts[1] < 160  # cm³ of the humerus within the field of view
        assert 45 < counts[2] < 130


@pytest.mark.parametrize("value", [1, 2], ids=["humerus", "scapula"])
def test_a_bone_is_one_piece(truths, value):
    for truth in truths:
        pieces, _ = label(truth == value, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() / sizes.sum() > 0.97


def test_the_scapula_is_thin_and_the_humerus_is_not():
    spacing, radius = (1.8, 1.8, 2.0), 4 + 0.9  # mm, to the centre of the voxel beyond the surface
    truth = shoulder_subject(0, size=(96, 96, 72), spacing=spacing)[1]
    for value, least, most in (1, 0.9, 1.0), (2, 0.0, 0.5):
        bone = truth == value
        core = distance_transform_edt(bone, sampling=spacing) >= radius
        opened = bone & (distance_transform_edt(~core, sampling=spacing) < radius)  # union of the balls of 8 mm within
        assert least < opened.sum() / bone.sum() < most


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize(("value", "limit"), [(1, 0.5), (2, 0.3)], ids=["humerus", "scapula"])
def test_no_band_of_intensity_finds_a_bone(scans, contrast, value, limit):
    for image, truth in scans[contrast]:
        edges = np.append(np.unique(np.quantile(image, np.linspace(0, 1, 60))), np.inf)
        hits, all_ = (np.append(0, np.histogram(x, edges)[0].cumsum()) for x in (image[truth == value], image))
        low, high = np.triu_indices(len(edges), 1)
        scores = 2 * (hits[high] - hits[low]) / (all_[high] - all_[low] + hits[-1])
        assert 0 < scores.max() < limit


def test_some_slices_hold_no_bone_and_others_both(truths):
    for truth in truths:
        held = [set(np.unique(truth[:, :, z])) - {0} for z in range(truth.shape[2])]
        assert set() in held
        assert {1, 2} in held


def test_scanner_units_differ_between_patients(scans):
    tops = [np.quantile(image, 0.99) for image, _ in scans["fat"]]
    assert max(tops) > 1.5 * min(tops)


def test_the_anatomy_does_not_depend_on_the_grid(scans, truths):
    for (_, coarse), fine in zip(scans["fat"], truths, strict=True):
        shares = [(fine.reshape(48, 2, 48, 2, 24) == value).mean((1, 3)) for value in (1, 2)]
        assert dice(shares[0] >= 0.5, coarse == 1) > 0.95
        assert dice(shares[1] >= 0.5, coarse == 2) > 0.8


def test_unknown_contrast():
    with pytest.raises(ValueError, match="`contrast` must be one of fat, water, got 't2'"):
        shoulder_subject(0, "t2")


@pytest.mark.parametrize("grid", [{"size": (24, 24)}, {"size": (24, 24, 0)}, {"spacing": (1.8, -1.8, 6.0)}])
def test_impossible_grid(grid):
    with pytest.raises(ValueError, match="`size` and `spacing` must be three positive numbers each, got"):
        shoulder_subject(0, **grid)


def test_writes_a_decathlon_data_set(tmp_path):
    listing = write_shoulder_phantom(tmp_path / "deep" / "fat", "fat", 2, seed=5, **SMALL)
    content = json.loads(listing.read_text())
    assert content["labels"] == {"0": "background", "1": "humerus", "2": "scapula"}
    assert content["numTraining"] == len(content["training"]) == 2
    for i, item in enumerate(content["training"]):
        expected = shoulder_subject(50_000 + i, "fat", **SMALL)
        for key, volume in zip(("image", "label"), expected, strict=True):
            nifti = nib.load(listing.parent / item[key])
            assert np.array_equal(np.asarray(nifti.dataobj), volume)
            assert nifti.header.get_zooms() == pytest.approx(SMALL["spacing"])
            assert nib.aff2axcodes(nifti.affine) == ("R", "A", "S")
            assert int(nifti.header["qform_code"]) == int(nifti.header["sform_code"]) == 1
            np.testing.assert_allclose(nifti.get_qform(), nifti.get_sform(), atol=1e-4)
            np.testing.assert_allclose(nib.affines.apply_affine(nifti.affine, [11.5, 11.5, 3.5]), 0, atol=1e-3)
    assert {p.name for p in listing.parent.parent.iterdir()} == {"fat"}


def test_patients_keep_their_names_across_contrasts_and_not_across_seeds(tmp_path):
    names = []
    for contrast, seed in ("fat", 1), ("water", 1), ("fat", 2):
        listing = write_shoulder_phantom(tmp_path / f"{contrast}{seed}", contrast, 2, seed, **SMALL)
        names.append({item["patient"] for item in json.loads(listing.read_text())["training"]})
    assert names[0] == names[1]
    assert not names[0] & names[2]


def test_reuses_what_is_there(tmp_path, monkeypatch):
    listing = write_shoulder_phantom(tmp_path / "fat", "fat", 1, seed=0, **SMALL)
    monkeypatch.setattr(shoulder_phantom, "shoulder_subject", lambda *args: pytest.fail("made again"))
    assert write_shoulder_phantom(tmp_path / "fat", "fat", 1, seed=0, **SMALL) == listing


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    listing = write_shoulder_phantom(tmp_path / "fat", "fat", 1, seed=0, **SMALL)
    before = listing.read_text()
    with pytest.raises(ValueError, match=r"dataset.json describes another data set .* choose another folder"):
        write_shoulder_phantom(tmp_path / "fat", "water", 1, seed=0, **SMALL)
    assert listing.read_text() == before


def test_lost_files_are_written_again(tmp_path):
    listing = write_shoulder_phantom(tmp_path / "fat", "fat", 2, seed=0, **SMALL)
    item = json.loads(listing.read_text())["training"][1]
    (listing.parent / item["label"]).unlink()
    (listing.parent / "notes.txt").write_text("mine")
    write_shoulder_phantom(tmp_path / "fat", "fat", 2, seed=0, **SMALL)
    assert nib.load(listing.parent / item["label"]).shape == SMALL["size"]
    assert (listing.parent / "notes.txt").exists()


def test_a_folder_without_its_listing_is_not_complete(tmp_path):
    listing = write_shoulder_phantom(tmp_path / "fat", "fat", 1, seed=0, **SMALL)
    listing.unlink()
    assert write_shoulder_phantom(tmp_path / "fat", "fat", 1, seed=0, **SMALL).exists()


@pytest.mark.parametrize("at", ["second volume", "last step"])
def test_killed_while_writing_leaves_nothing_that_looks_complete(tmp_path, monkeypatch, at):
    calls = []

    def die(*args):
        calls.append(args)
        if at == "last step" or len(calls) == 3:
            raise KeyboardInterrupt
        return save(*args)

    save = phantom_folder._save
    monkeypatch.setattr(phantom_folder, "_move" if at == "last step" else "_save", die)
    with pytest.raises(KeyboardInterrupt):
        write_shoulder_phantom(tmp_path / "fat", "fat", 2, seed=0, **SMALL)
    assert not (tmp_path / "fat").exists()
    monkeypatch.undo()
    assert (
        json.loads(write_shoulder_phantom(tmp_path / "fat", "fat", 2, seed=0, **SMALL).read_text())["numTraining"] == 2
    )


@pytest.mark.parametrize("subjects", [0, 10_001])
def test_rejects_a_number_of_subjects_out_of_range(tmp_path, subjects):
    with pytest.raises(ValueError, match=rf"`subjects` must lie in 1..10000, got {subjects}"):
        write_shoulder_phantom(tmp_path / "fat", "fat", subjects, seed=0)
