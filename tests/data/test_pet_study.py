import sys

import numpy as np
import pytest
import torch

from lit_continual.data import PetDataModule, PetSlices, pet_study

SMALL = {"size": 32, "depth": 8}


def test_a_study_is_simulated_once_and_kept(tmp_path, monkeypatch):
    first = pet_study(0, seconds=[60], realisations=2, cache=tmp_path, **SMALL)
    monkeypatch.setattr(sys.modules[pet_study.__module__], "_simulate", lambda *_: pytest.fail("simulated again"))
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


def test_data_module_pairs_each_scan_time_with_the_full_one(tmp_path):
    data = PetDataModule("v1", low=[0], high=[0], val=[5], seconds=[30, 60], batch_size=4, cache=tmp_path, **SMALL)
    data.prepare_data()
    assert len(data.train_dataloader().dataset) == 2 * 2 * 8
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["target"].shape == (4, 1, 32, 32)


def test_bad_input():
    with pytest.raises(ValueError, match="no reconstruction 'v3': take one of v1, v2"):
        pet_study(0, version="v3")
    with pytest.raises(ValueError, match=r"`seconds` must lie in \(0, 600\], got \[601\]"):
        pet_study(0, seconds=[601])
    with pytest.raises(ValueError, match=r"none of them to validate on: got low \[1\]"):
        PetDataModule(low=[1], val=[1])
