"""Trained models of other programs, in and out: the formats that the door and ``export`` know, one line each."""

from lit_continual.interop.bundle.bundle_format import BundleFormat
from lit_continual.interop.graph.graph_formats import OnnxFormat, Pt2Format, TorchScriptFormat
from lit_continual.interop.nnunet.nnunet_format import NNUNetFormat
from lit_continual.runs.checkpoints.formats import Format

FORMATS: list[Format] = [
    NNUNetFormat(),
    BundleFormat(),
    OnnxFormat(),
    Pt2Format(),
    TorchScriptFormat(),
]
