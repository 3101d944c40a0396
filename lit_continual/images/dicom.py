"""DICOM series of CT, MR and PET as volumes; the extra ``dicom`` reads them."""

import importlib.util
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_continual.files.printing import printable_errors, show
from lit_continual.files.whole_files import explaining
from lit_continual.images.dicom_geometry import affine_of, require_scale
from lit_continual.images.file_names import is_image

SLICES = {  # storage classes of single slices
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
}
FRAMES = {  # and of whole stacks in one file
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PET",
}
DEFLATED = "1.2.840.10008.1.2.1.99"  # a transfer syntax of which pydicom unpacks all at once
LARGEST = 2**31  # voxels of a series
SEARCHED = 20_000  # files of a folder that may be another than was meant
#: What all slices of a series share.
SHARED = {"Rows": "size", "Columns": "size", "PixelSpacing": "pixel spacing", "ImageOrientationPatient": "orientation"}
SHARED |= {"FrameOfReferenceUID": "frame of reference", "PatientID": "patient", "StudyInstanceUID": "study"}
SHARED |= {"SOPClassUID": "kind", "Units": "unit"}


@dataclass(frozen=True)
class DicomSeries:
    """One stack of slices.

    Attributes:
        name: For files: the folder, or the identifier of the series where that has several folders or a folder several.
        kind: ``CT``, ``MR`` or ``PET``.
        slices: The headers of its files, by position.
        affine: Of the voxels, four by four, to the right, front and top of the patient in mm, as NIfTI has it.
    """

    name: str
    kind: str
    slices: tuple[Any, ...]
    affine: NDArray[np.float64]

    @property
    def files(self) -> list[Path]:
        """Its files, by position of the slice."""
        return [Path(part.filename) for part in self.slices]

    @printable_errors()
    def voxels(self) -> NDArray[np.float32]:
        """Read the voxels ``(columns, rows, slices)``, with rescale slope and intercept of each slice applied.

        Raises:
            ValueError: If a file cannot be decoded.
        """
        from pydicom import dcmread
        from pydicom.pixels import apply_modality_lut

        first = self.slices[0]
        found = np.empty((first.Columns, first.Rows, len(self.files)), np.float32, order="F")
        for k, path in enumerate(self.files):
            with explaining(
                f"The pixels of {path} cannot be read",
                "Install a decoder, such as by `pip install pylibjpeg[all]`, or convert the series by dcm2niix.",
                Exception,
            ):
                part = dcmread(path)
                with np.errstate(over="ignore"):  # whoever reads the volume counts what is infinite
                    plane = np.asarray(apply_modality_lut(part.pixel_array, part)).astype(np.float32)
            if plane.shape != (first.Rows, first.Columns):
                raise ValueError(
                    f"{path} has pixels of shape {plane.shape}, which is no plane of grey values. Remove it."
                )
            found[..., k] = plane.T
        return found


def holds_dicom(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of DICOM files, on any level, and none of images of another kind."""
    path = Path(folder)
    if not path.is_dir() or (path / "dataset.json").exists():
        return False
    places = [path, *(path / name for name in ("images", "imagesTr") if (path / name).is_dir())]
    return not any(map(is_image, (f for place in places for f in place.iterdir()))) and any(
        map(_is_dicom, islice(_named(path), SEARCHED))
    )


@printable_errors()
def read_series(folder: str | os.PathLike[str]) -> list[DicomSeries]:
    """Read the headers of all series of CT, MR or PET in a folder, on any level; links to folders are not followed.

    Other objects, such as segmentations and localizers, are left out, which a line says.

    Raises:
        ValueError: If pydicom or highdicom is not installed, there is no such series, or one is no stack of parallel
            slices at one distance: one sentence, and where several series are wrong a line for each before it.
    """
    if not all(map(importlib.util.find_spec, ("pydicom", "highdicom"))):
        raise ValueError(
            f"{folder} holds DICOM files, which need pydicom and highdicom. Run `pip install 'lit-continual[dicom]'`,"
            " or convert them to NIfTI by dcm2niix."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # of what is odd in headers that nobody needs
        return _read_series(Path(folder))


def _read_series(root: Path) -> list[DicomSeries]:
    groups, left = _grouped(root)
    if left:
        show(f"Left out, no slices of CT, MR or PET: {', '.join(f'{n} of {kind}' for kind, n in sorted(left.items()))}")
    if not groups:
        raise ValueError(f"{root} has no series of CT, MR or PET. Give a folder that has.")
    several = Counter(place for slices in groups.values() for place in _places(slices))
    found, faults = [], list[str]()
    for uid, slices in groups.items():
        try:
            places = _places(slices)
            alone = len(places) == 1 and several[places[0]] == 1
            found.append(_series(_name(places[0], root) if alone else uid, slices))
        except ValueError as error:
            faults.append(str(error))
    names = Counter(series.name for series in found)
    if doubled := [name for name, count in names.items() if count > 1]:
        faults.append(f"Two series of {root} would both be named {doubled[0]}. Rename a folder.")
    if faults:
        for fault in faults[:-1]:
            show(f"- {fault}")
        raise ValueError(faults[-1])
    return found


def _named(root: Path) -> Iterator[Path]:
    """The files in a folder, on any level, whose names may be those of images."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR")


def _is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do; without pydicom, so that its lack can be named."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _grouped(root: Path) -> tuple[dict[str, list[Any]], Counter[str]]:
    """The headers of the slices of each series, and how many other objects there are of each modality."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    groups: dict[str, list[Any]] = {}
    left: Counter[str] = Counter()
    for path in _named(root):
        if not _is_dicom(path):
            if path.suffix.lower() == ".dcm" and path.is_file():
                raise ValueError(f"{path} does not begin as files of DICOM do. Replace or remove it.")
            continue
        with explaining(f"{path} cannot be read as DICOM", "Replace or remove it.", Exception):
            if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
                raise ValueError("it is deflated, and might unpack to more than memory holds")
            part = dcmread(path, stop_before_pixels=True)
            kind, uid = str(part.get("SOPClassUID", "")), str(part.get("SeriesInstanceUID", ""))
            localizer = "LOCALIZER" in str(part.get("ImageType"))
            modality = str(part.get("Modality", "unknown modality"))[:16]
        if kind in FRAMES:
            raise ValueError(
                f"{path} holds a whole stack of {FRAMES[kind]} (enhanced, multi-frame), and series of single slices are"
                " read. Convert it to NIfTI by dcm2niix."
            )
        if kind not in SLICES or localizer:
            left[modality] += 1
        elif not re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid) or len(uid) > 64:  # it names files
            raise ValueError(f"{path} has the series {uid[:100]!r}, which is no identifier of DICOM. Correct it.")
        else:
            groups.setdefault(uid, []).append(part)
    return groups, left


def _places(slices: Sequence[Any]) -> list[Path]:
    return sorted({Path(part.filename).parent for part in slices})


def _name(place: Path, root: Path) -> str:
    parts = place.relative_to(root).parts or (root.resolve().name,)
    return unicodedata.normalize("NFC", "_".join(parts)).lstrip(".") or "series"  # as images are named


def _series(name: str, slices: Sequence[Any]) -> DicomSeries:
    said = f"The series {slices[0].SeriesInstanceUID} in {_places(slices)[0]}"
    for tag, what in SHARED.items():
        _require_one(slices, tag, what, said)
    first = slices[0]
    kind = SLICES[str(first.SOPClassUID)]
    if (size := _whole(first, "Rows", said) * _whole(first, "Columns", said) * len(slices)) > LARGEST:
        raise ValueError(f"{said} has {size} voxels by its headers, and an image at most {LARGEST}. Remove it.")
    if first.get("SamplesPerPixel", 1) != 1 or "PALETTE" in str(first.get("PhotometricInterpretation")):
        raise ValueError(f"{said} is in colour, and images of CT, MR and PET are grey. Remove it.")
    require_scale(slices, said)
    order, affine = affine_of(slices, said)
    return DicomSeries(name, kind, tuple(slices[k] for k in order), affine)


def _require_one(slices: Sequence[Any], tag: str, what: str, said: str) -> None:
    values = [slices[0].get(tag), *(part.get(tag) for part in slices)]
    other = next((k for k, value in enumerate(values[1:]) if not _same(values[0], value)), None)
    if other is not None:
        names = [Path(slices[k].filename).name for k in (0, other)]
        raise ValueError(
            f"{said} mixes slices of another {what}: {names[0]} has {str(values[0])[:80]} and {names[1]}"
            f" {str(values[other + 1])[:80]}. Put each stack into a series of its own."
        )


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    try:
        return np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=0, atol=1e-4, equal_nan=True)
    except (TypeError, ValueError):  # no numbers
        return bool(one == other)


def _whole(part: Any, tag: str, said: str) -> int:
    value = part.get(tag)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{said} has no {tag}. Restore its headers, or convert it to NIfTI by dcm2niix.")
    return value
