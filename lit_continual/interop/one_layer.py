"""A segmenter as the one network, of one output layer, that other programs know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_continual.interop.bundle.bundle_segmenter import BundleSegmenter
from lit_continual.interop.bundle.linear_heads import LAST, joined, supervised
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.networks import NETWORKS
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.folded_layer import folded_heads
from lit_continual.segmentation.growing_heads import GrowingHeads
from lit_continual.segmentation.hydra_net import HydraNet
from lit_continual.segmentation.label_map import folded_logits
from lit_continual.segmentation.region_segmenter import RegionSegmenter
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.segmentation.shared_head import SharedHead


@dataclass(frozen=True)
class OneLayer:
    """What a segmenter is to those who know no heads.

    Attributes:
        module: The segmenter.
        activation: ``"softmax"`` over the background and all classes, or ``"sigmoid"`` of each region.
        weight: ``(C, F, 1, 1[, 1])`` of the one output layer.
        bias: ``(C,)`` of that.
    """

    module: Segmenter
    activation: str
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, opened: Checkpoint) -> "OneLayer":
        """Fold the heads of a checkpoint: into a softmax, or where regions may overlap into sigmoids.

        Raises:
            ValueError: If its module is none of a body and heads, has no head, or has regions beside a head of several
                classes.
        """
        module = opened.module(Segmenter)
        if isinstance(module, HydraNet):
            raise ValueError(
                f"{opened.path} is of a HydraNet, which has a decoder for each head and no one output layer, and whose"
                " parts MONAI cannot build. Predict with it here, or transfer its encoder to a Segmenter and export"
                " that."
            )
        if type(module) not in (Segmenter, RegionSegmenter, BundleSegmenter, NNUNetSegmenter):
            raise ValueError(
                f"{opened.path} is of a {type(module).__name__}, which is not one network with one output layer."
                " Export a checkpoint of a Segmenter."
            )
        if not module.heads.classes:
            raise ValueError(f"{opened.path} has no head yet. Export a checkpoint that has learnt a class.")
        began_so = module.origin.get("activation") == "sigmoid" and isinstance(module.heads, GrowingHeads)
        overlap = isinstance(module, RegionSegmenter) or began_so
        if overlap and (several := [head for head in module.heads.classes if len(head) > 1]):
            raise ValueError(
                f"{opened.path} has regions that may overlap, and {', '.join(several[0])}, which exclude each other."
                " No one output layer says both; learn each class in an experience of its own."
            )
        activation = "sigmoid" if overlap else "softmax"
        return cls(module, activation, *_folded(module.heads, activation))

    @property
    def names(self) -> list[str]:
        """What the channels are called."""
        return [*(["background"] if self.activation == "softmax" else []), *self.module.classes]

    def logits(self, logits: Tensor) -> Tensor:
        """Map the logits of all heads ``(B, K, *spatial)`` to those of the one layer, ``(B, C, *spatial)``."""
        heads = self.module.head_channels
        if self.activation == "softmax":
            return folded_logits(logits, heads)
        return torch.cat([logits[:, one : one + 1] - logits[:, zero : zero + 1] for zero, one in heads], 1)

    def described(self) -> dict[str, Any]:
        """Sections of a MONAI config that build the network, ``network_def`` among them.

        Raises:
            ValueError: If the body is no network of MONAI, so that nobody can build it without this package.
        """
        if isinstance(self.module, NNUNetSegmenter):
            raise ValueError(
                "A model of nnU-Net has no counterpart as a bundle, which cannot say how its images are prepared."
                " Export it as nnunet, onnx, pt2 or torchscript."
            )
        spec = dict(self.module.hparams["network"])
        found = NETWORKS.find(spec.pop("_target_"))
        if not found.__module__.startswith("monai."):
            raise ValueError(
                f"The network {found.__name__} is none of MONAI, so that a bundle of it could not be built without"
                " this package. Export it as onnx, pt2 or torchscript."
            )
        network = {"_target_": found.__name__, **spec}
        if found.__name__ in LAST:
            supervised = {"deep_supervision": True, "deep_supr_num": len(self._lower)} if self._lower else {}
            return {"network_def": {**network, "out_channels": len(self.bias), **supervised}}
        layer = f"torch.nn.Conv{self.module.spatial_dims}d"
        head = {"_target_": layer, "in_channels": self.weight.shape[1], "out_channels": len(self.bias)}
        return {
            "body_def": {**network, "out_channels": self.weight.shape[1]},
            "head_def": {**head, "kernel_size": 1},
            "network_def": "$torch.nn.Sequential(@body_def, @head_def)",
        }

    def weights(self) -> dict[str, Tensor]:
        """The weights of the network that :meth:`described` builds."""
        body = self.module.body.state_dict()
        name = NETWORKS.find(self.module.hparams["network"]["_target_"]).__name__
        if name in LAST:
            whole = joined(body, name, self.weight, self.bias)
            return supervised(whole, self.described()["network_def"], self._lower) if self._lower else whole
        return {**{f"0.{key}": value for key, value in body.items()}, "1.weight": self.weight, "1.bias": self.bias}

    @property
    def _lower(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the one layer at each lower resolution, from the lowest."""
        found = self.module.auxiliary if isinstance(self.module, BundleSegmenter) else ()
        return [_folded(heads, self.activation) for heads in found]  # type: ignore[arg-type]  # of a ModuleList

    def network(self) -> nn.Sequential:
        """The body, and the one layer behind it, as a network of torch in eval mode."""
        convolution = nn.Conv2d if self.module.spatial_dims == 2 else nn.Conv3d
        layer = convolution(self.weight.shape[1], len(self.bias), kernel_size=1)
        layer.load_state_dict({"weight": self.weight, "bias": self.bias})
        return nn.Sequential(self.module.body, layer).eval()


def _folded(heads: GrowingHeads | SharedHead, activation: str) -> tuple[Tensor, Tensor]:
    return folded_heads(heads) if activation == "softmax" else _regions_layer(list(heads.layers))


@torch.no_grad()
def _regions_layer(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Weights and biases whose outputs are the log-odds of the class of each head."""
    weight, bias = (
        torch.cat([getattr(layer, name)[1:] - getattr(layer, name)[:1] for layer in layers])
        for name in ("weight", "bias")
    )
    return weight, bias
