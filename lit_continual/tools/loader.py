"""How the images of a checkpoint are read."""

from collections.abc import Callable
from functools import partial

from lit_continual.data import Case, Preprocessing, Sample
from lit_continual.data.volumes import load_case
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.segmenter import Segmenter


def loader_of(module: Segmenter, opened: Checkpoint) -> Callable[[Case], Sample]:
    """Return what reads a case: the module's own ``load_case``, else the preprocessing that it was trained with.

    Raises:
        ValueError: If the checkpoint does not say how images were preprocessed.
    """
    own: Callable[[Case], Sample] | None = getattr(module, "load_case", None)
    return own or partial(load_case, preprocessing=Preprocessing.of(opened))
