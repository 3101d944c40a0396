"""The network of a trained model of nnU-Net, built by nnU-Net, and its prediction by a sliding window."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_continual.files.printing import printable
from lit_continual.files.whole_files import in_one_line
from lit_continual.interop.nnunet.trained import MALFORMED, Trained, nnunetv2
from lit_continual.segmentation.inference import Inference


def build_network(trained: Trained, outputs: int) -> Any:
    """Build the network of the plans as its trainer does.

    Args:
        trained: The model.
        outputs: Its output channels: the background and the classes.

    Returns:
        A network whose ``decoder.seg_layers`` are 1 x 1 convolutions, the last of them at full resolution.

    Raises:
        ValueError: If the trainer is not there, or builds another network.
    """
    trainer = trainer_of(trained.trainer)
    try:
        network = trainer.build_network_architecture(
            trained.manager, trained.settings, trained.channels, outputs, enable_deep_supervision=False
        )
        layer = network.decoder.seg_layers[-1]
    except (*MALFORMED, ImportError, MemoryError) as error:
        raise ValueError(
            f"The trainer {trained.trainer} builds no U-Net with a decoder from the plans ({in_one_line(error)}). Take"
            " another model."
        ) from error
    if not isinstance(layer, (nn.Conv2d, nn.Conv3d)) or set(layer.kernel_size) != {1} or layer.bias is None:
        raise ValueError(f"The last layer of the network is {layer}, not a 1 x 1 convolution. Take another model.")
    return network


def trainer_of(name: str) -> Any:
    """Find the class of a trainer, first where nnU-Net keeps its variants: others of its folders need more packages."""
    package = nnunetv2()
    place = ["training", "nnUNetTrainer", "variants"]
    try:
        variants = str(Path(package.__path__[0], *place))
        find = package.utilities.find_class_by_name.recursive_find_python_class
        found = find(variants, name, ".".join([package.__name__, *place]))
        found = found or package.utilities.find_objects.recursive_find_trainer_class_by_name(name)
        if not hasattr(found, "build_network_architecture"):  # such as a module that those of nnU-Net import
            raise TypeError(f"it is a {type(found).__name__}")
        return found
    except (*MALFORMED, ImportError) as error:
        raise ValueError(
            f"The package nnunetv2 has no trainer {printable(name[:200])}, which builds the network"
            f" ({in_one_line(error)}). Set `nnUNet_extTrainer` to the folder of your own, or take a model of another"
            " trainer."
        ) from error


class _Network(nn.Module):
    """What nnU-Net's predictor takes for a network; the module that it asks stays as and where it is."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = forward


def slide(
    forward: Callable[[Tensor], Tensor],
    volume: Tensor,
    trained: Trained,
    classes: Sequence[str],
    window: Sequence[int],
    mirror: bool,
    inference: Inference,
) -> Tensor:
    """Predict a volume by nnU-Net's own sliding window.

    Args:
        forward: Maps windows ``(1, C, *window)`` to logits ``(1, 1 + K, *window)``.
        volume: Prepared, ``(C, Z, Y, X)``.
        trained: The model.
        classes: The K classes.
        window: Its size in voxels.
        mirror: Whether to average over the mirrored windows too, along the axes that training has mirrored.
        inference: How to go over the volume; of its arguments ``overlap``, ``mode`` and ``stitch_device`` are used.

    Returns:
        Logits ``(1 + K, Z, Y, X)`` in half precision, in which nnU-Net adds them up.
    """
    handler = nnunetv2().utilities.plans_handling.plans_handler
    device = volume.device
    with contextlib.redirect_stdout(io.StringIO()):  # it prints which options it has changed
        predictor = nnunetv2().inference.predict_from_raw_data.nnUNetPredictor(
            tile_step_size=1 - inference.overlap,
            use_gaussian=inference.mode == "gaussian",
            use_mirroring=mirror,
            perform_everything_on_device=device.type == "cuda" and inference.stitch_device == "same",
            device=device,
            allow_tqdm=False,
        )
    settings = handler.ConfigurationManager({**trained.settings.configuration, "patch_size": list(window)})
    predictor.manual_initialization(
        _Network(forward).eval(), trained.manager, settings, None, trained.with_classes(classes), trained.trainer,
        None if trained.mirror_axes is None else tuple(trained.mirror_axes),
    )  # fmt: skip
    found: Tensor = predictor.predict_sliding_window_return_logits(volume)
    return found if inference.stitch_device == "cpu" else found.to(device)


def is_deeply_supervised(trained: Trained) -> bool:
    """Whether the trainer of a model has trained its layers at lower resolutions too.

    Raises:
        ValueError: If the trainer is not there.
    """
    return not any("nodeepsupervision" in kind.__name__.lower() for kind in trainer_of(trained.trainer).__mro__)


def without_output_layers(network: Any) -> tuple[Any, list[int]]:
    """Take the output layers off a network, in place, and return what is left, and how many features each has taken.

    The last is that at full resolution; nothing but deep supervision asks the others.
    """
    layers = network.decoder.seg_layers
    features = [layer.in_channels for layer in layers]
    for place in range(len(layers)):
        layers[place] = nn.Identity()
    return network, features
