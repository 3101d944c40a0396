"""Whether what is exported decides as the checkpoint does, on images."""

import torch

from lit_continual.data import Preprocessing, read_cases
from lit_continual.data.volumes import load_case
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.interop.one_layer import OneLayer
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.network_input import named_failure, require_channels


@torch.no_grad()
def agreement(opened: Checkpoint, one: OneLayer, images: str) -> list[str]:
    """Say how many voxels of images the one output layer decides otherwise than the heads do, in a line to print.

    Args:
        opened: The checkpoint.
        one: What is exported of it.
        images: A folder of images, a Decathlon list or a CSV table.

    Raises:
        ValueError: If an image cannot be read, or it is a model of nnU-Net.
    """
    if isinstance(one.module, NNUNetSegmenter):
        raise ValueError(
            f"The heads of {opened.path}, a model of nnU-Net, decide as the one output layer on all images. Leave out"
            " --images, or export it as nnunet to compare with nnU-Net itself."
        )
    module, network, preprocessing = one.module, one.network(), Preprocessing.of(opened)
    voxels, others = 0, 0
    cases = read_cases(images).cases
    for case in cases:
        image = load_case(case, preprocessing)["image"][None]
        require_channels(module.body, image[0], case.images[0])
        with named_failure(image, case.images):
            heads = module.infer(image)
            folded = module.inference.slide(network, image, module.window(image.shape[2:]))
        if one.activation == "softmax":
            differ = module.heads.labels(heads) != folded.argmax(1)
        else:
            differ = (module.masks(heads) != (folded > 0)).any(1)
        voxels, others = voxels + differ.numel(), others + int(differ.sum())
    return [
        f"{others} of {voxels} voxels ({100 * others / max(1, voxels):.3g} %) of {len(cases)} images are decided"
        " otherwise by the one output layer than by the heads."
    ]
