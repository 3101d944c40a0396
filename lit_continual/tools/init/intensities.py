"""On which scale a network sees intensities."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_continual.tools.init.case_facts import CaseFacts
from lit_continual.tools.init.data_set_facts import DataSetFacts

AIR = -900  # HU, below which an image without a name of its channel is taken for CT
MASKED = 0.25  # share of zeros from which nnU-Net takes a background for removed
OUTLYING = 3.0  # highest intensity, in distances of the 99.5th percentile from the median


def normalisation_of(data: Sequence[DataSetFacts]) -> tuple[list[dict[str, Any]], str]:
    """Choose the transforms of all images, and say why.

    CT of all data sets is clipped to the 0.5th and 99.5th percentile of the annotated voxels, and then
    ``(x - mean) / std`` of these, as nnU-Net does; all else is z-scored image by image.
    """
    cases = [facts for one in data for facts in one.cases]
    kinds = {_is_ct(one) for one in data}
    foreground = np.concatenate([facts.foreground.ravel() for facts in cases])
    low, high = (float(f"{v:.4g}") for v in np.percentile(foreground, [0.5, 99.5]))
    mean, std = float(foreground.mean(dtype=np.float64)), float(foreground.std(dtype=np.float64))
    if kinds == {True} and high > low and std > 0:
        scaled = {"b_min": round((low - mean) / std, 4), "b_max": round((high - mean) / std, 4)}
        why = (
            f"CT: clipped to {low:g} and {high:g}, the 0.5th and 99.5th percentile of the annotated voxels, then less"
            f" their mean ({mean:.1f}) and by their standard deviation ({std:.1f})."
        )
        return [_step("ScaleIntensityRange", a_min=low, a_max=high, **scaled, clip=True)], why
    return _z_score(cases, "CT and other images together: " if len(kinds) > 1 else "No CT: ")


def _z_score(cases: Sequence[CaseFacts], kind: str) -> tuple[list[dict[str, Any]], str]:
    why = f"{kind}each image is z-scored, channel by channel"
    steps = []
    if np.median([facts.outlying for facts in cases]) > OUTLYING:
        steps.append(_step("ClipIntensityPercentiles", lower=0.5, upper=99.5, channel_wise=True))
        why += ", after its outliers are clipped to the 0.5th and 99.5th percentile"
    masked = bool(np.median([facts.zeros for facts in cases]) > MASKED and min(facts.lowest for facts in cases) >= 0)
    if masked:
        why += "; its zeros are left out, since much of the background is 0"
    return [*steps, _step("NormalizeIntensity", channel_wise=True, **({"nonzero": True} if masked else {}))], f"{why}."


def _is_ct(data: DataSetFacts) -> bool:
    names = data.listed.channels
    if names:
        return all(re.search(r"\bct\b", name.lower()) for name in names)
    return data.channels == 1 and float(np.median([facts.lowest for facts in data.cases])) <= AIR


def _step(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}
