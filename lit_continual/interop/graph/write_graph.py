"""A segmenter as a graph in one file, compared with the network before it is given away."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_continual import __version__
from lit_continual.files.whole_files import in_one_line, write_json
from lit_continual.interop.agreement import agreement
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.interop.one_layer import OneLayer
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.network_input import channels_taken, named_failure
from lit_continual.segmentation.segmenter import Segmenter

if TYPE_CHECKING:
    from lit_continual.interop.graph.graph_formats import GraphFormat

TOLERANCE = 1e-3  # of logits, of the largest of them


@torch.no_grad()
def write_graph(form: "GraphFormat", opened: Checkpoint, folder: Path, images: str | None) -> list[str]:
    """Write the graph of a segmenter, and ``model.json``; return lines to print.

    Args:
        form: The format of the graph.
        opened: The checkpoint.
        folder: An empty folder.
        images: Images on which to compare the one output layer with the heads.

    Raises:
        ValueError: If the segmenter has no window, its network cannot be traced, or the graph computes something else.
    """
    one = OneLayer.of(opened)
    window = one.module.hparams["roi_size"]
    if window is None:
        raise ValueError(
            f"{opened.path} has no `roi_size`, the size of the window that a graph is made for. Train with one, or"
            " export a bundle."
        )
    channels, path = channels_taken(one.module.body) or 1, folder / form.file
    image = torch.rand(3, channels, *window, generator=torch.Generator().manual_seed(0))
    network = one.network()
    with named_failure(image, [opened.path]):
        expected = network(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what parts of torch say of one another
        try:
            form.convert(network, image[:2], path)
            found = {batch: form.run(path, image[:batch]) for batch in (1, 3)}
        except OSError:
            raise  # of the disk
        except Exception as error:  # of anybody's network
            raise ValueError(
                f"The network of {opened.path} cannot be written as {form.name} ({in_one_line(error)}). Choose another"
                " format."
            ) from error
    _require_equal(expected, found, f"{opened.path} as {form.name}")
    write_json(folder / "model.json", _described(form.file, one, opened, channels))
    return agreement(opened, one, images) if images else []


def _require_equal(expected: Tensor, found: dict[int, Tensor | None], what: str) -> None:
    for batch, logits in found.items():
        apart = 0.0 if logits is None else float((logits - expected[:batch]).abs().max())
        if not apart <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(
                f"The graph of {what} computes logits that are up to {apart:.3g} apart from those of the network on"
                f" {batch} windows. Choose another format."
            )


def _described(file: str, one: OneLayer, opened: Checkpoint, channels: int) -> dict[str, Any]:
    module = one.module
    return {
        "file": file,
        "input": {"name": "image", "channels": channels, "window": list(module.hparams["roi_size"])},
        "output": {"name": "logits", "activation": one.activation, "channels": one.names},
        "preprocessing": _preprocessing(module, opened),
        "inference": module.inference.plain(),
        "post": _plain(module.hparams.get("post") or []),
        "lit_continual": __version__,
    }


def _preprocessing(module: Segmenter, opened: Checkpoint) -> Any:
    """How images are prepared, or by which plans nnU-Net prepares them."""
    if isinstance(module, NNUNetSegmenter):
        return {"nnunet": module.model.plain()}
    return _plain(opened.preprocessing) if "datamodule_hyper_parameters" in opened.content else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return [_plain(item) for item in value] if sequence else value
