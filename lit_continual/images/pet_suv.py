"""Standardised uptake values of PET, by what the headers of a DICOM series say of weight, dose and decay."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_continual.files.printing import printable_errors
from lit_continual.images.dicom import DicomSeries

#: Of patients, and of animals; a dose in MBq, or a weight in g, lies outside.
PLAUSIBLE = {"PatientWeight": (1e-3, 1e3), "RadionuclideTotalDose": (1e4, 1e12), "RadionuclideHalfLife": (1, 1e9)}
LONGEST = 10  # half-lives between injection and scan, after which nothing is left to see


@printable_errors()
def voxels_as(series: DicomSeries, pet: str | None) -> NDArray[np.float32]:
    """Read the voxels of a series as a network is to see them.

    Args:
        series: Of any kind; PET whose unit is given, and is not that of SUV, is asked about.
        pet: What such PET becomes: ``suv`` by body weight, or what is ``stored``.

    Raises:
        ValueError: If it is such PET and ``pet`` does not say what it becomes, if it cannot be converted, or a file
            cannot be decoded.
    """
    said, unit = f"The series {series.name}", str(series.slices[0].get("Units", ""))
    if series.kind != "PET" or unit in ("", "GML") or pet == "stored":
        return series.voxels()
    if pet is None:
        raise ValueError(
            f"{said} is PET in {unit[:16]}, and the network may have been trained on SUV. Give --pet suv to convert it,"
            " or --pet stored if the network was trained on values as they are stored."
        )
    factor = np.float32(suv_factor(series.slices, said))
    return series.voxels() * factor


def suv_factor(slices: Sequence[Any], said: str) -> float:
    r"""Return what a value in Bq/ml is multiplied by to be a SUV by body weight, in g/ml.

    .. math:: \frac{w}{A \cdot 2^{-t/T}}

    with the body weight w in g, the dose A in Bq at the time of injection, its half-life T, and the time t from the
    injection to the moment that the images are corrected to for decay: the start of the series, or the injection,
    where t = 0.

    Args:
        slices: The headers of the files of a series.
        said: What the series is called, for errors.

    Raises:
        ValueError: If a header lacks something, or the values are not in Bq/ml and corrected for decay and attenuation.

    References:
        Kinahan and Fletcher. Positron emission tomography-computed tomography standardized uptake values in clinical
        practice. Seminars in Ultrasound, CT and MRI 31, 2010. For the times: QIBA, SUV from DICOM, happy path.
    """
    first = slices[0]
    dose = (list(first.get("RadiopharmaceuticalInformationSequence") or []) or [{}])[0]
    weight = _number(first, "PatientWeight", "kg", said) * 1000
    activity = _number(dose, "RadionuclideTotalDose", "Bq", said)
    half_life = _number(dose, "RadionuclideHalfLife", "s", said)
    if (unit := str(first.get("Units", ""))) != "BQML":
        raise _wrong(said, f"is in {unit[:16]!r}, and not in Bq/ml")
    corrected = first.get("CorrectedImage") or []
    if missing := {"ATTN", "DECY"} - set([corrected] if isinstance(corrected, str) else corrected):
        raise _wrong(said, f"is not corrected for {' and '.join(sorted(missing))} by `CorrectedImage`")
    if len({_told(part) for part in slices}) > 1:
        raise _wrong(said, "has slices of another weight, dose, correction or start")
    elapsed = _elapsed(slices, dose, said)
    if not 0 <= elapsed <= LONGEST * half_life:
        raise _wrong(said, f"begins {elapsed:.0f} s after the injection, of a half-life of {half_life:.0f} s")
    return float(weight / (activity * 2 ** (-elapsed / half_life)))


def _elapsed(slices: Sequence[Any], dose: Any, said: str) -> float:
    """Seconds from the injection to the moment that the images are corrected to."""
    first = slices[0]
    correction = str(first.get("DecayCorrection", ""))
    if correction == "ADMIN":
        return 0.0
    if correction != "START":
        raise _wrong(said, f"has the `DecayCorrection` {correction[:16]!r}, neither START nor ADMIN")
    begin = _moment(first, "Series", said)
    if any(_moment(part, "Acquisition", said) < begin for part in slices):
        raise _wrong(said, "was acquired before the time of the series, as one that was computed later")
    whole = str(dose.get("RadiopharmaceuticalStartDateTime") or "")
    if whole:
        return (begin - _parsed(whole, said)).total_seconds()
    day, clock = begin.strftime("%Y%m%d"), str(dose.get("RadiopharmaceuticalStartTime") or "")
    injected = _parsed(day + clock, said)
    return (begin - injected + timedelta(days=injected > begin)).total_seconds()  # the evening before


def _moment(part: Any, what: str, said: str) -> datetime:
    return _parsed(str(part.get(f"{what}Date") or "") + str(part.get(f"{what}Time") or ""), said)


def _parsed(text: str, said: str) -> datetime:
    """A moment from the digits of a date and a time, seconds and their fractions."""
    if any(sign in text for sign in "+-"):
        raise _wrong(said, f"has a time with a zone, {text[:40]!r}")
    whole, _, fraction = text.partition(".")
    try:
        return datetime.strptime(f"{whole}.{fraction or 0}", "%Y%m%d%H%M%S.%f")
    except ValueError as error:
        raise _wrong(said, f"has no whole date and time of scan and injection, but {text[:40]!r}") from error


def _told(part: Any) -> str:
    dose = part.get("RadiopharmaceuticalInformationSequence")
    tags = ("PatientWeight", "DecayCorrection", "CorrectedImage", "SeriesDate", "SeriesTime")
    return repr([str(part.get(tag)) for tag in tags] + [str(dose)])


def _number(part: Any, tag: str, unit: str, said: str) -> float:
    least, most = PLAUSIBLE[tag]
    try:
        value = float(part.get(tag))
    except (TypeError, ValueError):
        value = 0.0
    if not least <= value <= most:
        raise _wrong(said, f"has no `{tag}` from {least:g} to {most:g} {unit}")
    return value


def _wrong(said: str, what: str) -> ValueError:
    return ValueError(
        f"{said} {what}, so it cannot be converted to SUV. Convert it by a program that knows its scanner."
    )
