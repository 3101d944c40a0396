"""What a file may name: networks and transforms of MONAI that compute and do nothing else."""

import re
from typing import Any

from lit_continual.runs.checkpoints.registry import Registry

#: Networks that look up, load or call what their arguments name.
_REACHING = {"CellSamWrapper", "MILModel", "NetAdapter", "TorchVisionFCModel", "Transchex", "VISTA3D"}

#: Transforms of one image or label map; the same with ``d`` behind them work on a mapping.
_TRANSFORMS = re.findall(
    r"\w+",
    """
    Activations AdjustContrast Affine AsDiscrete BorderPad CastToType CenterScaleCrop CenterSpatialCrop
    ClipIntensityPercentiles ConvertToMultiChannelBasedOnBratsClasses CropForeground DetectEnvelope
    DistanceTransformEDT DivisiblePad EnsureChannelFirst EnsureType FillHoles Flip ForegroundMask
    GaussianSharpen GaussianSmooth GibbsNoise GridDistortion HistogramNormalize Identity KSpaceSpikeNoise
    KeepLargestConnectedComponent LabelFilter LabelToContour MapLabelValue MedianSmooth NormalizeIntensity
    Orientation Pad Rand2DElastic Rand3DElastic RandAdjustContrast RandAffine RandAxisFlip RandBiasField
    RandCoarseDropout RandCoarseShuffle RandFlip RandGaussianNoise RandGaussianSharpen RandGaussianSmooth
    RandGibbsNoise RandGridDistortion RandHistogramShift RandKSpaceSpikeNoise RandRicianNoise RandRotate
    RandRotate90 RandScaleIntensity RandScaleIntensityFixedMean RandShiftIntensity RandSimulateLowResolution
    RandSpatialCrop RandStdShiftIntensity RandZoom RemoveRepeatedChannel RemoveSmallObjects RepeatChannel Resize
    ResizeWithPadOrCrop Rotate Rotate90 SavitzkyGolaySmooth ScaleIntensity ScaleIntensityFixedMean
    ScaleIntensityRange ScaleIntensityRangePercentiles ShiftIntensity SobelGradients Spacing SpatialCrop
    SpatialPad SqueezeDim StdShiftIntensity ThresholdIntensity Transpose VoteEnsemble Zoom
    """,
)

#: Arguments by which a transform makes more than it was given, and the largest that a file may give; one over it is
#: meant to fill the memory, as volumes and their kernels are smaller.
_LARGEST = {
    **dict.fromkeys(("repeats", "sharpness_factor"), 64),
    **dict.fromkeys(("zoom", "min_zoom", "max_zoom", "zoom_range", "scale_params", "scale_range", "degree"), 8),
    **dict.fromkeys(("radius", "kernel_size", "num_cells"), 32),
    **dict.fromkeys((f"sigma{number}{axis}" for number in ("", 1, 2) for axis in ("", "_x", "_y", "_z")), 64),
    **dict.fromkeys(("sigma_range", "anti_aliasing_sigma"), 64),
    **dict.fromkeys(("to_onehot", "num_classes", "num_control_points", "holes", "max_holes", "window_length"), 1024),
    **dict.fromkeys(
        ("spatial_size", "max_spatial_size", "spatial_border", "to_pad", "margin", "k", "k_divisible"), 1024
    ),
    **dict.fromkeys(("n", "num_bins"), 2**16),
}
#: The same of those that make more the smaller they are.
_SMALLEST = dict.fromkeys(("pixdim", "min_pixdim", "max_pixdim", "spacing"), 0.05)


def _module() -> type:
    from torch import nn

    return nn.Module


def _transform() -> type:
    from monai.transforms import Transform

    found: type = Transform
    return found


def _is_network(found: Any) -> bool:
    places = ("monai.networks.nets.", "torch.nn.modules.")
    return found.__module__.startswith(places) and found.__name__ not in _REACHING


def _is_transform(found: Any) -> bool:
    name = found.__name__
    return found.__module__.startswith("monai.transforms.") and (name in _TRANSFORMS or name[:-1] in _TRANSFORMS)


NETWORKS = Registry("network", _module, ["monai.networks.nets", "torch.nn"], _is_network)
TRANSFORMS = Registry("transform", _transform, ["monai.transforms"], _is_transform, _LARGEST, _SMALLEST)
MODULES = Registry("module", _module)
