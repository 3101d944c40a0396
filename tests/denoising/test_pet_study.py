import json
import sys
import weakref

import nibabel as nib
import numpy as np
import pytest
import torch

from lit_continual.data import (
    PetDataModule,
    PetSlices,
    PetVolumeDataModule,
    Split,
    WholeStudies,
    check_leakage,
    pet_study,
    pet_volume,
    read_cases,
)
from lit_continual.stream.evaluation import validated

SMALL = {"size": 32, "depth": 8}


def test_a_study_is_simulated_once_and_kept(tmp_path, monkeypatch):
    first = pet_study(0, seconds=[60], realisations=2, cache=tmp_path, **SMALL)
    monkeypatch.setattr(sys.modules[pet_study.__module__], "simulate_study", lambda *_: pytest.fail("simulated again"))
    again = pet_study(0, seconds=[60], realisations=2, cache=tmp_path, **SMALL)
    assert first.keys() == again.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert first["realisations"].shape == (2, 8, 32, 32)


def test_shorter_scans_are_noisier_and_not_biased():
    study = pet_study(0, seconds=[30, 180], realisations=2, **SMALL)
    body = study["truth"] > 0
    error = [np.abs(image - study["full"])[body].mean() for image in study["seconds"]]
    assert error[0] > 1.5 * error[1] > 0
    for image in [*study["seconds"], *study["realisations"]]:
        assert image[body].mean() == pytest.approx(study["full"][body].mean(), rel=0.05)


def test_realisations_of_one_acquisition_do_not_depend_on_how_many_are_reconstructed():
    two, three = (pet_study(0, seconds=[], realisations=n, **SMALL)["realisations"] for n in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    noise = two - pet_study(0, seconds=[], **SMALL)["full"]
    inside = np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]
    assert abs(inside) < 0.2  # disjoint counts; both have a tenth of those in the full scan


def test_slices_come_with_their_neighbours():
    noisy = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    data = PetSlices([(noisy, noisy + 10), (noisy + 100, noisy)])
    assert len(data) == 8
    assert [data[i]["image"][:, 0, 0].tolist() for i in (0, 1, 3, 4)] == [
        [0, 0, 1],
        [0, 1, 2],
        [2, 3, 3],
        [100, 100, 101],
    ]
    assert data[1]["target"].tolist() == torch.full((1, 2, 2), 11.0).tolist()
    assert PetSlices([(noisy, noisy + 10)], "twin")[2]["twin"][:, 0, 0].tolist() == [11, 12, 13]
    within = PetSlices([(noisy, noisy + 10)], within=(1, 3))
    assert [within[i]["target"][0, 0, 0].item() for i in range(len(within))] == [11, 12]
    assert within[0]["image"][0].max() == 0  # a neighbour that is not trained on is seen all the same


def test_data_module_pairs_each_scan_time_with_the_full_one(tmp_path):
    options = {"version": "v1", "seconds": [30, 60], "realisations": 2, "batch_size": 4, "cache": tmp_path, **SMALL}
    data = PetDataModule(low=[0], high=[0], val=[5], test=[6], train_slices=(2, 6), **options)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 2 * 2 * 4
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["target"].shape == (4, 1, 32, 32)
    low, high = data.test_dataloader()
    assert low["realisations"].shape == (1, 2, 8, 32, 32)
    assert (low["group"], high["group"]) == (["low"], ["high"])
    assert set(low["regions"]) == set(data.regions) == {"lesion", "liver", "bladder"}
    assert low["regions"]["liver"].dtype == torch.bool
    check_leakage({"v1": data.cases})


def test_twins_are_two_realisations_of_the_study_to_be_denoised(tmp_path):
    data = PetDataModule(low=[6], test=[6], val=[], pairs="twin", realisations=3, cache=tmp_path, **SMALL)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    seen, (low, _) = batch["image"][:, 1], data.test_dataloader()
    first, second = low["realisations"][0, :2]
    order = [int((first == plane).all((1, 2)).nonzero()) for plane in seen]
    assert sorted(order) == list(range(8))
    assert torch.equal(batch["twin"][:, 1], second[order])
    assert data.cases["train"] == []  # nobody's truth is seen


@pytest.fixture
def volumes(tmp_path):
    """Four patients with a hot tumour in a warm cylinder, one of them larger than a slice."""
    listed = []
    for i, size in enumerate((24, 30, 20, 40)):
        x, y = np.indices((size, size)) - (size - 1) / 2
        body = np.repeat((np.hypot(x, y) < size / 2 - 2)[..., None], 12, 2)
        label = np.zeros(body.shape, np.uint8)
        label[size // 2 - 3 : size // 2 + 3, size // 2 - 3 : size // 2 + 3, 6:9] = 1
        for name, array in (("image", body * 1.0 + 5.0 * label), ("label", label)):
            nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([5, 5, 4, 1.0])), tmp_path / f"{name}{i}.nii")
        listed.append({"image": f"image{i}.nii", "label": f"label{i}.nii"})
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"0": "background", "1": "gtv"}, "training": listed}))
    return path


def test_a_real_volume_is_scanned_anew_at_a_chosen_count_level(volumes, tmp_path):
    options = {"seconds": [30], "realisations": 2, "cache": tmp_path / "cache", "size": 32, "depth": 6}
    found = {}
    for each in (10, 100):
        data = PetVolumeDataModule(str(volumes), each=each, **options)
        assert data.regions == ("lesion",)
        (study,) = data.test_dataloader()
        mask = study["regions"]["lesion"]
        assert mask.shape == (1, 6, 32, 32)
        assert mask.sum() == 6 * 6 * 3
        assert study["target"][mask].mean() == pytest.approx(6, rel=0.15)  # the SUV of the file
        found[each] = (study["realisations"][:, 0] - study["target"])[study["target"] > 0.5].std()
    assert found[10] > 2 * found[100]
    check_leakage({"real": data.cases})


def test_a_volume_is_laid_in_the_middle_and_cut_around_its_label(volumes):
    listed = read_cases(volumes)
    for case in listed.cases:
        phantom = pet_volume(case, listed, size=32, depth=6)
        assert phantom.activity.shape == (6, 32, 32)
        assert phantom.pixel == 5
        weights = phantom.masks["lesion"].sum(0)
        np.testing.assert_allclose([(weights.sum(a) @ np.arange(32)) / weights.sum() for a in (0, 1)], 15.5, atol=1)
        assert ((phantom.attenuation > 0) == (phantom.activity > 0)).all()


def test_whole_studies_hold_what_is_measured():
    study = pet_study(0, seconds=[60], realisations=2, **SMALL)
    sample = WholeStudies([("somebody", "low", study)])[0]
    assert torch.equal(sample["target"], torch.from_numpy(study["full"]))
    assert sample["regions"].keys() == {"lesion", "liver", "bladder"}


def test_bad_input(volumes):
    with pytest.raises(ValueError, match="no reconstruction 'v3': take one of v1, v2"):
        pet_study(0, version="v3")
    with pytest.raises(ValueError, match=r"`seconds` must lie in \(0, 600\], got \[601\]"):
        pet_study(0, seconds=[601])
    with pytest.raises(ValueError, match="11 realisations of 60 s cannot be had from 600 s"):
        pet_study(0, realisations=11)
    with pytest.raises(ValueError, match="1 realisations of 70 s cannot be had"):
        pet_study(0, realisations=1, each=70)
    with pytest.raises(ValueError, match=r"each in one split only: got low \[1\]"):
        PetDataModule(low=[1], val=[1])
    listed = read_cases(volumes)
    image = nib.load(listed.cases[0].images[0])
    nib.save(nib.Nifti1Image(image.get_fdata() - 1, image.affine), listed.cases[0].images[0])
    with pytest.raises(ValueError, match=r"image0.nii has a minimum of -1 SUV. Clip what is negative"):
        pet_volume(listed.cases[0], listed)
    for file in (listed.cases[1].images[0], listed.cases[1].label):
        nib.save(nib.Nifti1Image(nib.load(file).get_fdata().astype(np.float32), np.diag([5, 4, 4, 1.0])), file)
    with pytest.raises(ValueError, match=r"pixels of 5 x 4 mm. Resample it to square pixels"):
        pet_volume(listed.cases[1], listed)


def test_a_corrected_lesion_is_not_the_one_that_was_kept(tmp_path, monkeypatch):
    listing, affine = {"labels": {"0": "background", "1": "gtv"}, "training": []}, np.diag([4.0, 4, 5, 1])
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 5, (16, 16, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "a.nii")
    listing["training"] = [{"image": "a.nii", "label": "l.nii"}]
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    options = {"size": 16, "depth": 4, "cache": tmp_path / "kept", "split": Split((1.0, 0.0, 0.0))}

    def study(corner, spacing=4.0):
        label = np.zeros(image.shape, np.uint8)
        label[corner : corner + 3, 4:8] = 1
        placed = np.diag([spacing, spacing, 5, 1])
        nib.save(nib.Nifti1Image(image, placed), tmp_path / "a.nii")
        nib.save(nib.Nifti1Image(label, placed), tmp_path / "l.nii")
        data = PetVolumeDataModule(str(tmp_path), **options)
        return label, data.study(data.patients["train"][0], [60], 0)

    label, first = study(2)
    moved, second = study(9)
    assert np.array_equal(first["lesion"], np.moveaxis(label, 2, 0))
    assert np.array_equal(second["lesion"], np.moveaxis(moved, 2, 0))
    assert np.array_equal(first["full"], second["full"])  # the noise is that of the activity
    assert study(9, 5.0)[1]["pixel"] == 5
    monkeypatch.setattr(
        "lit_continual.denoising.pet_volume_data_module.simulate_study", lambda *_: pytest.fail("simulated again")
    )
    assert np.array_equal(study(2)[1]["lesion"], first["lesion"])


def test_a_data_module_lets_go_of_its_studies(tmp_path):
    data = PetDataModule(low=[0], val=[100], test=[200], seconds=[60], cache=tmp_path, **SMALL)
    data.trainer = object()
    data.setup("fit")
    kept = weakref.ref(data.train_dataset)
    data.teardown("fit")
    assert (kept(), data.trainer) == (None, None)
    data.setup("fit")
    assert len(data.train_dataset) == 8


def test_whole_studies_are_of_those_to_validate_on_where_settings_are_chosen(tmp_path):
    data = PetDataModule(low=[0], val=[100], test=[200], seconds=[60], cache=tmp_path, **SMALL)
    for of, split in ((validated(data), "val"), (data, "test")):
        seen = [batch["patient"][0] for batch in of.test_dataloader()]
        assert seen == [case.patient for case in data.patients[split]]


@pytest.mark.parametrize("wrong", ["batch_size", "samples_per_epoch", "size", "depth"])
def test_numbers_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"`{wrong}` must be 1 or more, got 0"):
        PetDataModule(**{wrong: 0})
