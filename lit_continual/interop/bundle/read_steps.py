"""What a bundle does to an image before its network, around it and after it, in the words of this package."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lit_continual.data import Preprocessing
from lit_continual.files.whole_files import in_one_line
from lit_continual.interop.bundle.bundle_config import BundleConfig, is_code, name_of
from lit_continual.interop.bundle.bundle_files import shown
from lit_continual.runs.checkpoints.classes import TRANSFORMS
from lit_continual.segmentation.inference import Inference

#: Transforms that change nothing of what our own reader gives.
_IDLE = {"LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "CastToType", "SelectItems", "Identity"}
#: Transforms of intensities that mean the same here as there.
INTENSITIES = {
    "ClipIntensityPercentiles", "GaussianSmooth", "HistogramNormalize", "MedianSmooth", "NormalizeIntensity",
    "ScaleIntensity", "ScaleIntensityFixedMean", "ScaleIntensityRange", "ScaleIntensityRangePercentiles",
    "ShiftIntensity", "StdShiftIntensity", "ThresholdIntensity",
}  # fmt: skip
#: Post-processing of a label map that means the same here as there.
_POST = {"FillHoles", "KeepLargestConnectedComponent", "LabelFilter", "RemoveSmallObjects"}
#: The only values of these arguments that our own resampling knows; ``None`` is the default too.
_SPACING: dict[str, Collection[Any]] = {
    "mode": {"bilinear"},
    "padding_mode": {"border"},
    "align_corners": {False},
    "diagonal": {False},
    "scale_extent": {False},
    "recompute_affine": {False},
    "dtype": {"float64"},
    "lazy": {False},
    "min_pixdim": set(),
    "max_pixdim": set(),
}
#: The same of the transforms beside it.
_KNOWN: dict[str, dict[str, Collection[Any]]] = {
    "LoadImage": {"reader": {"NibabelReader", "nibabelreader"}},
    "EnsureChannelFirst": {"channel_dim": {"no_channel", -1, 3}},
    "Orientation": {"labels": [[["L", "R"], ["P", "A"], ["I", "S"]]]},
    "Spacing": _SPACING,
    "Activations": {"dim": {0}},
    "AsDiscrete": {"dim": {0}, "rounding": set()},
    "KeepLargestConnectedComponent": {"is_onehot": {False}},
}
_FLOATS = re.compile(r"\$?((np|numpy|torch)\.)?(float(32|64)?|double)")  # with whose numbers ours compute
_KEYS = ("keys", "allow_missing_keys", "meta_keys", "meta_key_postfix")
_DEVICES = ("sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps", "buffer_dim")


def read_preprocessing(config: BundleConfig) -> dict[str, Any]:
    """Read the section ``preprocessing`` as the arguments of a :class:`~lit_continual.data.Preprocessing`.

    Raises:
        ValueError: If a transform, an argument or the order is one that our own preprocessing does not know.
    """
    found: dict[str, Any] = {"orientation": None, "spacing": None, "normalise": []}
    for place, name, step in _steps(config, "preprocessing"):
        _require_floats(config, step, place)
        if name == "Orientation":
            _require_order(config, place, found["spacing"] or found["normalise"])
            given = config.arguments(step, place, _KEYS)
            found["orientation"] = "RAS" if given.get("as_closest_canonical") else given.get("axcodes")
        elif name == "Spacing":
            _require_order(config, place, found["spacing"] or found["normalise"])
            pixdim = config.value(step.get("pixdim"), f"{place}#pixdim")
            found["spacing"] = pixdim if isinstance(pixdim, list) else [pixdim]
        elif name in INTENSITIES:
            found["normalise"].append({"_target_": name, **config.arguments(step, place, _KEYS)})
        elif name not in _IDLE:
            raise config.wrong(place, f"is the transform {shown(name_of(step))}, which has no counterpart here")
    _require_built(config, found)
    return found


def _require_built(config: BundleConfig, found: Mapping[str, Any]) -> None:
    try:
        checked = [TRANSFORMS.checked(step) for step in found["normalise"]]
        Preprocessing(**{**found, "normalise": checked}).transforms()
    except (TypeError, ValueError) as error:
        raise config.wrong("preprocessing", f"cannot be built here ({in_one_line(error)})") from error


def _require_order(config: BundleConfig, place: str, later: Any) -> None:
    if later:
        raise config.wrong(
            place, "comes too late: here an image is turned first, then resampled, then its intensities are scaled"
        )


def _steps(config: BundleConfig, key: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The place, the bare name and the description of each transform of a section.

    Raises:
        ValueError: If one has an argument that ours do not know, or works on something else than the first.
    """
    found, first = [], list[Any]()
    for i, step in enumerate(config.steps(key)):
        place, name = f"{key}#transforms#{i}", name_of(step).removesuffix("d").removesuffix("Dict")
        _require(config, step, place, _KNOWN.get(name, {}))
        keys = [one for one in _listed(step.get("keys")) if not is_code(one)]
        first = first or keys
        if keys and not any(one in first for one in keys):
            raise config.wrong(place, f"works on {shown(keys)}, and the steps before it on {shown(first)}")
        found.append((place, name, step))
    return found


def _require_floats(config: BundleConfig, step: Mapping[str, Any], place: str) -> None:
    """Refuse to lose decimals that ours keep."""
    given = [one for one in _listed(step.get("dtype")) if one is not None]
    if other := [one for one in given if not (isinstance(one, str) and _FLOATS.fullmatch(one))]:
        raise config.wrong(f"{place}#dtype", f"must be float32 or float64, got {shown(other[0])!r}")


def _listed(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _require(config: BundleConfig, step: Mapping[str, Any], place: str, known: Mapping[str, Collection[Any]]) -> None:
    """Refuse arguments whose values our own transforms do not know."""
    for argument, values in known.items():
        if argument in step:
            each = _listed(given := config.value(step[argument], f"{place}#{argument}"))
            if not any(one is None or one in list(values) for one in (given, *each[:1])):  # also of what has no hash
                what = f"must be {' or '.join(map(str, values)) or 'left out'}, got {shown(given)!r}"
                raise config.wrong(f"{place}#{argument}", what)


def read_inferer(config: BundleConfig, dims: int) -> dict[str, Any]:
    """Read the section ``inferer``: the window ``roi_size``, and arguments of an ``Inference``.

    Raises:
        ValueError: If it goes over a volume in another way than our own.
    """
    section = config.get("inferer") or {"_target_": "SimpleInferer"}
    name = name_of(section)
    if name == "SimpleInferer":  # the whole volume at once
        return {"roi_size": None, "mode": "constant"}
    if name not in {"SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"}:
        raise config.wrong("inferer", f"is a {shown(name)}, which has no counterpart here")
    given = {"overlap": 0.25, "mode": "constant", **config.arguments(section, "inferer", _DEVICES)}
    window, flat = given.pop("roi_size", None), given.pop("spatial_dim", None if name != "SliceInferer" else 0)
    window = [window] * dims if isinstance(window, int) else window
    if not (isinstance(window, list) and len(window) == dims and all(isinstance(n, int) and n > 0 for n in window)):
        raise config.wrong("inferer#roi_size", f"must be {dims} numbers of voxels, got {shown(window)}")
    if flat is not None and (flat != 2 or dims != 2):
        raise config.wrong("inferer#spatial_dim", f"must be 2, the last axis, of a network in 2D, got {shown(flat)}")
    if given.pop("sigma_scale", 0.125) != 0.125 or given.pop("cval", 0.0) not in (0, 0.0):
        raise config.wrong("inferer", "has a `sigma_scale` other than 0.125, or a `cval` other than 0")
    known = {"overlap": (int, float), "mode": str, "padding_mode": str, "sw_batch_size": int}
    for argument, value in given.items():
        kind: Any = known.get(argument)
        if kind is None or not isinstance(value, kind) or isinstance(value, bool):
            raise config.wrong(f"inferer#{argument}", f"is {shown(value)}, which has no counterpart here")
    try:
        Inference.of({"sw_batch_size": 1, **given})
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from error
    return {"roi_size": window, "sw_batch_size": 1, **given}


#: What decides for a label, after each activation: a threshold is at a half.
_DECIDED = {"softmax": "argmax", "": "argmax", "sigmoid": "threshold"}


def _first(given: Any) -> Any:
    """What is said of the first key, which may be said in a list."""
    return given[0] if isinstance(given, list) and given else given


def _said(given: Mapping[str, Any], *names: str) -> str:
    """Which of some arguments is given, if it is one alone; a threshold only at a half."""
    found = [name for name in names if _first(given.get(name))]
    return found[0] if len(found) == 1 and (found != ["threshold"] or _first(given["threshold"]) == 0.5) else ""


def read_postprocessing(config: BundleConfig) -> dict[str, Any]:
    """Read the section ``postprocessing``.

    Returns:
        ``activation``, softmax or sigmoid or nothing where it does not say; ``resample`` of an ``Inference``; and
        ``post``, the transforms of the label map.

    Raises:
        ValueError: If a transform, an argument or the order is one that has no counterpart here.
    """
    activation, discrete, inverted, apart = "", False, False, False
    resample, post = "", list[dict[str, Any]]()
    for place, name, step in _steps(config, "postprocessing"):
        if name == "SaveImage":
            break
        if not discrete:
            _require_floats(config, step, place)
        given = config.arguments(step, place, (*_KEYS, "transform", "orig_keys", "device", "to_tensor"))
        if name == "Activations" and not (activation or discrete) and _said(given, "softmax", "sigmoid"):
            activation = _said(given, "softmax", "sigmoid")
        elif name == "AsDiscrete" and not discrete and _said(given, "argmax", "threshold") == _DECIDED[activation]:
            activation, discrete, apart = activation or "softmax", True, given.get("to_onehot") is not None
        elif name == "Invert" and not inverted:
            inverted, nearest = True, _first(given.get("nearest_interp", True))
            if discrete and not nearest:
                raise config.wrong(place, "interpolates a label map linearly")
            resample = "labels" if nearest else "probabilities" if activation and not discrete else "logits"
        elif name in _POST and discrete and inverted and not apart and activation == "softmax":
            post.append({"_target_": name, **given})
        elif name not in _IDLE:
            raise config.wrong(place, f"is {shown(name_of(step))} with {shown(given)}, which has no counterpart here")
    return {"activation": activation, "resample": resample or "labels", "post": post}
