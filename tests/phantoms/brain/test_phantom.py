import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from lit_continual.phantoms.brain.phantom import SIGNALS, SPACING, brain_subject, write_brain_phantom
from lit_continual.phantoms.brain.tissues import TISSUES, brain_tissues

SEEDS = range(4)
SMALL = {"size": (32, 38, 8), "spacing": (5.4, 5.4, 15.0)}
KINDS = ("glioma", "metastasis")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3


@pytest.fixture(scope="module")
def scans():
    return {kind: [brain_subject(seed, kind) for seed in SEEDS] for kind in KINDS}


def volumes(truth):
    return np.bincount(truth.ravel(), minlength=4)[1:] * np.prod(SPACING) / 1000  # cm³


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_one_patient_and_one_scan(kind):
    first, again, other = (brain_subject(seed, kind, **SMALL) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_tissue_sum_to_one_and_the_label_is_their_majority(kind):
    share, truth = brain_tissues(np.random.default_rng(0), kind, **SMALL)
    np.testing.assert_allclose(share.sum(-1), 1, atol=1e-5)
    assert share.min() >= 0
    parts = share[..., [TISSUES.index(name) for name in ("necrosis", "oedema", "rim")]]
    assert np.array_equal(truth > 0, parts.sum(-1) >= 0.5)
    assert (truth[truth > 0] == 1 + parts[truth > 0].argmax(-1)).all()


def test_gliomas_are_one_and_large_and_metastases_several_and_small(scans):
    for _, truth in scans["glioma"]:
        necrosis, oedema, enhancing = volumes(truth)
        assert label(np.isin(truth, (NECROSIS, ENHANCING)), np.ones((3, 3, 3)))[1] <= 3
        assert 5 < necrosis + enhancing < 80
        assert necrosis > 1
        assert oedema > 2
    for _, truth in scans["metastasis"]:
        pieces, count = label(np.isin(truth, (NECROSIS, ENHANCING)), np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:] * np.prod(SPACING) / 1000
        assert 2 <= count <= 9
        assert np.median(sizes) < 4  # neighbours may touch and count as one
    cores = {kind: np.mean([volumes(t)[[0, 2]].sum() for _, t in scans[kind]]) for kind in KINDS}
    assert cores["glioma"] > 2 * cores["metastasis"]


def test_necrosis_lies_within_the_enhancing_rim(scans):
    for _, truth in [*scans["glioma"], *scans["metastasis"]]:
        necrosis = truth == NECROSIS
        if necrosis.any():
            shell = binary_dilation(necrosis, iterations=1) & ~necrosis
            assert (truth[shell] == ENHANCING).mean() > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_the_sequences_show_the_tumour_as_radiology_has_it(scans, kind):
    for image, truth in scans[kind]:
        flair, t1, t1c, t2 = (image[..., c] / np.median(image[..., c][image[..., 3] > 60]) for c in range(4))
        enhancing, oedema = truth == ENHANCING, truth == OEDEMA
        brain = (truth == 0) & (t2 > 0.5) & (t2 < 1.5)
        assert np.median(t1c[enhancing]) > 1.5 * np.median(t1[enhancing])
        if oedema.sum() > 50:
            assert np.median(flair[oedema]) > 1.3 * np.median(flair[brain])
            assert np.median(t2[oedema]) > np.median(t2[brain])
            assert np.median(t1c[oedema]) < np.median(t1c[enhancing])


def test_tumours_stay_within_the_brain(scans):
    outside = [TISSUES.index(name) for name in ("air", "scalp", "skull")]
    for kind in KINDS:
        for seed in SEEDS:
            share, truth = brain_tissues(np.random.default_rng(seed), kind, (48, 56, 10), (3.6, 3.6, 12.0))
            assert share[..., outside].sum(-1)[truth > 0].max() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_writes_a_decathlon_folder_with_sequences_on_the_fourth_axis(tmp_path, kind):
    listing = write_brain_phantom(tmp_path / "brain", kind, 2, seed=1, **SMALL)
    found = json.loads(listing.read_text())
    assert list(found["modality"].values()) == list(SIGNALS) == ["FLAIR", "T1", "T1c", "T2"]
    assert found["labels"] == {"0": "background", "1": "necrosis", "2": "oedema", "3": "enhancing"}
    assert [item["patient"] for item in found["training"]] == [f"{kind}-00010000", f"{kind}-00010001"]
    for seed, item in enumerate(found["training"], start=10_000):
        image, truth = (nib.load(listing.parent / item[key]) for key in ("image", "label"))
        expected = brain_subject(seed, kind, **SMALL)
        assert np.array_equal(np.asanyarray(image.dataobj), expected[0])
        assert np.array_equal(np.asanyarray(truth.dataobj), expected[1])
        np.testing.assert_allclose(np.abs(np.diag(image.affine)[:3]), SMALL["spacing"])
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    before = listing.stat().st_mtime_ns
    assert write_brain_phantom(tmp_path / "brain", kind, 2, seed=1, **SMALL) == listing
    assert listing.stat().st_mtime_ns == before


def test_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="`kind` must be one of glioma, metastasis, got 'stroke'"):
        brain_subject(0, "stroke")
    with pytest.raises(ValueError, match="`kind` must be one of glioma, metastasis, got 'stroke'"):
        write_brain_phantom(tmp_path / "brain", "stroke", 1, seed=0)
    with pytest.raises(ValueError, match=r"`subjects` must lie in 1\.\.10000, got 0"):
        write_brain_phantom(tmp_path / "brain", "glioma", 0, seed=0)
    write_brain_phantom(tmp_path / "brain", "glioma", 1, seed=0, **SMALL)
    with pytest.raises(ValueError, match="describes another data set"):
        write_brain_phantom(tmp_path / "brain", "metastasis", 1, seed=0, **SMALL)
