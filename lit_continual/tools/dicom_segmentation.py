"""A label map as a DICOM segmentation of the series that it is of."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_continual import __version__
from lit_continual.files.printing import printable
from lit_continual.files.whole_files import in_one_line, replaced
from lit_continual.images.dicom import DicomSeries

SERIES_NUMBER = 1000  # which scanners do not count up to
LONGEST = 64  # characters of a label and of the meaning of a code


def write_segmentation(path: Path, labels: NDArray[Any], series: DicomSeries, classes: Sequence[str]) -> None:
    """Write a binary DICOM-SEG with one segment a class, in the patient, study and frame of reference of the series.

    Args:
        path: Of the file.
        labels: ``(columns, rows, slices)``, unsigned: 0 for the background, and the place of a class in ``classes``
            from 1.
        series: Whose label map.
        classes: The class names.

    Raises:
        ValueError: If the headers of the series lack what a DICOM object needs.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="lit_continual", family=codes.cid7162.ArtificialIntelligence, version=__version__
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty segments, and of values in the source that DICOM does not like
            found = highdicom.seg.Segmentation(
                source_images=list(series.slices),
                pixel_array=np.ascontiguousarray(labels.transpose(2, 1, 0)),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_described(k, name, algorithm) for k, name in enumerate(classes, start=1)],
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="lit_continual",
                manufacturer_model_name="lit_continual",
                software_versions=__version__,
                device_serial_number="0",
                series_description="Segmentation by lit_continual, not for diagnosis",
            )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{series.files[0].parent} gives no DICOM segmentation ({in_one_line(error)}). Restore the headers of its"
            " files, or convert them to NIfTI by dcm2niix."
        ) from error
    with replaced(path) as temporary:
        found.save_as(temporary)


def _described(number: int, name: str, algorithm: Any) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    label = printable(name).replace("\\", "/")[:LONGEST]  # a backslash parts values
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=highdicom.sr.CodedConcept(str(number), "99LITCONTINUAL", label),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
