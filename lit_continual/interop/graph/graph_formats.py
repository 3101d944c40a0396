"""The network of a segmenter alone, as a graph that needs neither this package nor MONAI."""

import importlib.util
import io
import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.checkpoints.formats import Format

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_ONNX = 1_500_000_000  # bytes of weights in the file of the graph itself, which protobuf limits to 2 GB


class GraphFormat(Format):
    """A graph from a window of an image to logits, in one file, with ``model.json`` beside it.

    The graph maps ``image`` ``(B, C, *window)`` float32, of any batch size, to ``logits`` ``(B, K, *window)``: those of
    one softmax over the background and all classes, or of a sigmoid of each region. ``model.json`` names the channels
    and says what is done to an image before, and how windows are laid over it.

    Attributes:
        name: What ``--format`` calls it.
        file: The file of the graph.
        needs: Packages that write it.
    """

    file: str
    needs: Sequence[str] = ()

    @abstractmethod
    def convert(self, network: "nn.Module", image: "Tensor", path: Path) -> None:
        """Write the graph of a network in eval mode.

        Args:
            network: The network.
            image: Two windows, as an example.
            path: The file.
        """

    @abstractmethod
    def run(self, path: Path, image: "Tensor") -> "Tensor | None":
        """Return what a graph makes of windows; ``None`` where nothing is installed that can say it."""

    @override
    def write(self, opened: Checkpoint, folder: Path, images: str | None) -> Sequence[str]:
        from lit_continual.interop.graph.write_graph import write_graph

        if missing := [name for name in self.needs if importlib.util.find_spec(name) is None]:
            raise ValueError(f"An export to ONNX needs {' and '.join(missing)}. Run `pip install lit-continual[onnx]`.")
        return write_graph(self, opened, folder, images)


class OnnxFormat(GraphFormat):
    """ONNX, for ONNX Runtime, TensorRT, OpenVINO and others."""

    name, file, needs = "onnx", "model.onnx", ("onnx", "onnxscript")

    @override
    def convert(self, network: "nn.Module", image: "Tensor", path: Path) -> None:
        import torch

        logger = logging.getLogger("torch.onnx")
        before = logger.level
        logger.setLevel(logging.ERROR)  # it warns of operators that torchvision would have
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        try:
            torch.onnx.export(
                network,
                (image,),
                path,
                dynamo=True,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=shapes,
                external_data=size > LARGEST_ONNX,
                verbose=False,
            )
        finally:
            logger.setLevel(before)

    @override
    def run(self, path: Path, image: "Tensor") -> "Tensor | None":
        if importlib.util.find_spec("onnxruntime") is None:
            return None
        import onnxruntime
        import torch

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


class Pt2Format(GraphFormat):
    """An archive of ``torch.export``, for ``torch.export.load`` and compilation ahead of time."""

    name, file = "pt2", "model.pt2"

    @override
    def convert(self, network: "nn.Module", image: "Tensor", path: Path) -> None:
        import torch

        shapes = ({0: torch.export.Dim("batch", min=1)},)
        found = io.BytesIO()  # torch ends the process where the disk is full
        torch.export.save(torch.export.export(network, (image,), dynamic_shapes=shapes), found)
        path.write_bytes(found.getbuffer())

    @override
    def run(self, path: Path, image: "Tensor") -> "Tensor | None":
        import torch

        found: Tensor = torch.export.load(path).module()(image)
        return found


class TorchScriptFormat(GraphFormat):
    """TorchScript, for ``torch.jit.load`` in Python and C++."""

    name, file = "torchscript", "model.ts"

    @override
    def convert(self, network: "nn.Module", image: "Tensor", path: Path) -> None:
        import torch

        found = io.BytesIO()
        torch.jit.save(torch.jit.trace(network, (image,), check_trace=False), found)
        path.write_bytes(found.getbuffer())

    @override
    def run(self, path: Path, image: "Tensor") -> "Tensor | None":
        import torch

        found: Tensor = torch.jit.load(path)(image)
        return found
