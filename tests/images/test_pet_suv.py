"""PET of DICOM in SUV: the factor by hand, and headers that do not give it."""

import numpy as np
import pytest

from lit_continual.images.dicom import read_series
from lit_continual.images.pet_suv import voxels_as
from tests.fixtures.dicom import injected, write_series
from tests.images.test_dicom import stored

DECAYED = 370e6 * 2 ** (-90 * 60 / 6586.2)


@pytest.mark.parametrize(
    ("values", "activity"),
    [
        ({}, DECAYED),
        ({"RadiopharmaceuticalStartTime": "", "RadiopharmaceuticalStartDateTime": "20200101093000.000000"}, DECAYED),
        ({"DecayCorrection": "ADMIN"}, 370e6),
        (  # over midnight
            {"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "010000", "AcquisitionTime": "010000"},
            DECAYED,
        ),
    ],
)
def test_pet_in_becquerel_becomes_suv(tmp_path, values, activity):
    write_series(tmp_path / "s", stored(), modality="PT", slope=2.5, change=lambda p, k: injected(p, k, **values))
    (series,) = read_series(tmp_path)
    np.testing.assert_allclose(voxels_as(series, "suv"), stored() * 2.5 * 70_000 / activity, rtol=1e-5)
    np.testing.assert_array_equal(voxels_as(series, "stored"), series.voxels())
    with pytest.raises(ValueError, match=r"series s is PET in BQML, .* Give --pet suv .* or --pet stored"):
        voxels_as(series, None)


def test_what_is_suv_or_no_pet_stays_as_it_is(tmp_path):
    write_series(tmp_path / "suv", stored(), modality="PT", change=lambda p, k: setattr(p, "Units", "GML"))
    write_series(tmp_path / "unsaid", stored(), modality="PT")
    write_series(tmp_path / "ct", stored())
    for series in read_series(tmp_path):
        for pet in (None, "suv"):
            np.testing.assert_array_equal(voxels_as(series, pet), stored())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PatientWeight": None}, r"has no `PatientWeight` from 0.001 to 1000 kg"),
        ({"PatientWeight": "70000"}, r"has no `PatientWeight` from 0.001 to 1000 kg"),
        ({"RadionuclideTotalDose": "0"}, r"has no `RadionuclideTotalDose` from 10000 to 1e\+12 Bq"),
        ({"RadionuclideTotalDose": "370"}, r"has no `RadionuclideTotalDose` from 10000 to 1e\+12 Bq"),  # in MBq
        ({"RadionuclideHalfLife": "1e-300"}, r"has no `RadionuclideHalfLife` from 1 to 1e\+09 s"),
        ({"Units": "CNTS"}, "is in 'CNTS', and not in Bq/ml"),
        ({"CorrectedImage": ["ATTN"]}, "is not corrected for DECY"),
        ({"DecayCorrection": "NONE"}, "has the `DecayCorrection` 'NONE', neither START nor ADMIN"),
        ({"AcquisitionTime": "105900"}, "was acquired before the time of the series"),
        ({"RadiopharmaceuticalStartDateTime": "20200102120000"}, "begins -90000 s after the injection"),
        ({"RadiopharmaceuticalStartDateTime": "20200101093000+0100"}, "has a time with a zone"),
        ({"RadiopharmaceuticalStartTime": None}, "has no whole date and time of scan and injection"),
    ],
)
def test_pet_that_cannot_become_suv_is_refused(tmp_path, values, message):
    write_series(tmp_path / "s", stored(), modality="PT", change=lambda p, k: injected(p, k, **values))
    (series,) = read_series(tmp_path)
    with pytest.raises(ValueError, match=f"The series s {message}.*cannot be converted to SUV"):
        voxels_as(series, "suv")


def test_slices_of_another_dose_are_refused(tmp_path):
    change = lambda p, k: injected(p, k, RadionuclideTotalDose="370000000" if k else "37000000")  # noqa: E731
    write_series(tmp_path / "s", stored(), modality="PT", change=change)
    with pytest.raises(ValueError, match="has slices of another weight, dose"):
        voxels_as(*read_series(tmp_path), "suv")
