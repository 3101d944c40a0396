"""Where the slices of a DICOM series lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.1  # of a voxel
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts to the left and back, NIfTI to the right and front


def affine_of(slices: Sequence[Any], said: str) -> tuple[list[int], NDArray[np.float64]]:
    """Sort slices along their normal, and return their order and the affine of the stack, as NIfTI has it, in mm.

    Voxel ``(i, j, k)`` is column i and row j of the k-th slice, and lies at
    ``position_k + i * spacing_columns * row_cosines + j * spacing_rows * column_cosines``.

    Args:
        slices: Headers of one size, pixel spacing and orientation.
        said: What a sentence calls the series.

    Raises:
        ValueError: If a slice has no place, two share one, one is missing, or they are sheared.
    """
    rows, columns = _vectors(slices[0], said)
    spacing = _numbers(slices[0], "PixelSpacing", 2, said)
    if not (spacing > 0).all():
        raise ValueError(f"{said} has pixels of {' x '.join(f'{n:.3g}' for n in spacing)} mm. Correct its headers.")
    normal = np.cross(rows, columns)
    positions = np.stack([_numbers(part, "ImagePositionPatient", 3, said) for part in slices])
    order = [int(k) for k in np.argsort(positions @ normal, kind="stable")]
    positions = positions[order]
    step = _step(positions, normal, spacing, [Path(slices[k].filename).name for k in order], said)
    if step is None:
        step = normal * _thickness(slices[0], said)
    affine = np.eye(4)
    affine[:3] = np.stack([rows * spacing[1], columns * spacing[0], step, positions[0]], axis=1)
    return order, TO_RAS @ affine


def require_scale(slices: Sequence[Any], said: str) -> None:
    """Check that the rescale slope and intercept of each slice make numbers of its stored values.

    Raises:
        ValueError: If a slope is 0, which would make one value of all, or something is no number.
    """
    for part in slices:
        for tag, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
            given = usual if part.get(tag) is None else part.get(tag)
            try:
                unfit = not np.isfinite(float(given)) or (tag == "RescaleSlope" and float(given) == 0)
            except (TypeError, ValueError):
                unfit = True
            if unfit:
                raise ValueError(
                    f"{said} has the {tag} {str(given)[:80]} in {Path(part.filename).name}, which makes no values of"
                    " what is stored. Correct its headers."
                )


def _vectors(part: Any, said: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = _numbers(part, "ImageOrientationPatient", 6, said).reshape(2, 3)
    lengths = [np.linalg.norm(rows), np.linalg.norm(columns)]
    if not np.allclose(lengths, 1, atol=1e-3) or abs(rows @ columns) > 1e-3:
        raise ValueError(f"{said} has rows and columns that are not at right angles. Correct its headers.")
    return rows / lengths[0], columns / lengths[1]


def _step(
    positions: NDArray[np.float64],
    normal: NDArray[np.float64],
    spacing: NDArray[np.float64],
    names: list[str],
    said: str,
) -> NDArray[np.float64] | None:
    """The way from slice to slice; ``None`` for one slice."""
    if len(positions) == 1:
        return None
    along = positions @ normal
    distances = np.diff(along)
    usual = float(np.median(distances))
    if (near := int(np.argmin(distances))) is not None and distances[near] < TOLERANCE * max(usual, 0.01):
        raise ValueError(
            f"{said} has {names[near]} and {names[near + 1]} at one place, {along[near]:.4g} mm along its normal. Put"
            " each phase, echo or repetition into a series of its own."
        )
    wrong = np.flatnonzero(np.abs(distances - usual) > TOLERANCE * usual)
    if len(wrong):
        k = int(wrong[0])
        raise ValueError(
            f"{said} lacks slices or is unevenly spaced: {names[k]} and {names[k + 1]} are {distances[k]:.4g} mm apart,"
            f" others {usual:.4g} mm. Complete the series, or resample it by dcm2niix."
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    shift = positions - positions[0] - (along - along[0])[:, None] * normal
    if np.linalg.norm(shift, axis=1).max() > TOLERANCE * spacing.min():
        tilt = np.degrees(np.arctan2(np.linalg.norm(shift[-1]), along[-1] - along[0]))
        raise ValueError(
            f"{said} is sheared by {tilt:.3g} degrees, as under a tilted gantry. Straighten it, such as by dcm2niix."
        )
    return step  # type: ignore[no-any-return]


def _thickness(part: Any, said: str) -> float:
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        if part.get(tag) is not None and (found := abs(float(_numbers(part, tag, 1, said)[0]))) > 0:
            return found
    raise ValueError(f"{said} is one slice without a thickness. Correct its header.")


def _numbers(part: Any, tag: str, count: int, said: str) -> NDArray[np.float64]:
    try:
        found = np.asarray(part.get(tag), np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.size != count or not np.isfinite(found).all():
        raise ValueError(
            f"{said} has no {tag} of {count} numbers in {Path(part.filename).name}, and so no place. Restore its"
            " headers, or convert it to NIfTI by dcm2niix."
        )
    return found
