import numpy as np
import pytest

from lit_continual.data import PetDataModule, pet_phantom


def test_patients_are_seeded_and_a_high_bmi_is_a_larger_body():
    low, again, high = (pet_phantom(3, bmi, size=48, depth=12) for bmi in ("low", "low", "high"))
    np.testing.assert_array_equal(low.activity, again.activity)
    assert not np.array_equal(low.activity, pet_phantom(4, "low", size=48, depth=12).activity)
    assert (high.attenuation > 0).sum() > 1.5 * (low.attenuation > 0).sum()


@pytest.mark.parametrize("bmi", ["low", "high"])
@pytest.mark.parametrize("seed", range(4))
def test_regions_lie_where_they_should(seed, bmi):
    phantom = pet_phantom(seed, bmi)
    liver, bladder, lesion = (phantom.masks[name] for name in ("liver", "bladder", "lesion"))
    assert phantom.activity[liver].std() < 1e-5  # uniform, so its variation is noise
    assert phantom.activity[bladder].min() >= 12
    assert phantom.activity[lesion].min() >= 2
    assert liver.sum() > 300
    assert (lesion & (phantom.activity > 4)).sum() > 20
    assert not (liver & lesion).any()
    assert (phantom.activity[phantom.attenuation == 0] == 0).mean() > 0.99


def test_bad_input():
    with pytest.raises(ValueError, match="`bmi` must be 'low' or 'high', got 'middle'"):
        pet_phantom(0, "middle")
    with pytest.raises(ValueError, match="`size` must be at least 32"):
        pet_phantom(0, size=8)


@pytest.mark.parametrize("option", [{"size": 16}, {"depth": 6}])
def test_too_few_voxels_are_refused_before_a_run_begins(option):
    with pytest.raises(ValueError, match="at least 32 and `depth` at least 8"):
        PetDataModule(**option)
