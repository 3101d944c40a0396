"""How redundant the kernels of a trained network are, and what becomes of its output without them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_continual.data import Case, Preprocessing
from lit_continual.data.volumes import load_case
from lit_continual.denoising.denoiser import Denoiser
from lit_continual.files.printing import show
from lit_continual.images.file_names import stem
from lit_continual.methods.bases.fit.frozen_entries import free_share
from lit_continual.methods.tgd.producers import find_producers
from lit_continual.methods.tgd.redundancy import drop_kernels, kernel_scores
from lit_continual.methods.tgd.report import Dropped, KernelReport, kernel_table, write_kernel_report
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.network_input import named_failure, require_channels
from lit_continual.segmentation.segmenter import Segmenter
from lit_continual.tools.loader import loader_of


def report_kernels(
    checkpoint: str,
    image: str | list[str] | None = None,
    phis: Sequence[float] = (0.3, 0.4, 0.5, 0.6),
    output: str = "kse",
    k: int = 5,
    alpha: float = 1.0,
    trust: str | Sequence[str] = (),
) -> Path:
    """Score every kernel of a checkpoint, and say what each threshold would free for training.

    The table of layers is printed.

    Args:
        checkpoint: A checkpoint of a ``Segmenter`` or a ``Denoiser``.
        image: An image to look at with the kernels below each threshold dropped; one file a channel.
        phis: Thresholds on the scores, from 0 to 1.
        output: Folder for ``kse.html``, ``layers.csv``, ``kernels.csv`` and the pictures.
        k: Nearest neighbours in the kernels' entropy.
        alpha: Weight of the entropy.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.

    Returns:
        The page.

    Raises:
        ValueError: If the checkpoint is neither's, the network cannot be traced, the image cannot be read, a
            threshold is not in [0, 1], or a file would fall on one that is there.
    """
    phis, files = sorted(set(phis)), [image] if isinstance(image, str) else image or []
    if not phis or not all(0 <= phi <= 1 for phi in phis):
        raise ValueError(f"`phis` must be thresholds in [0, 1], got {phis}.")
    opened = Checkpoint(checkpoint, trust)
    module: LightningModule = opened.module(Segmenter, Denoiser)
    producers = find_producers(module)
    scores = kernel_scores(module, producers, k, alpha)
    report = KernelReport(
        str(checkpoint),
        {name.removesuffix(".weight"): scores[name].flatten().numpy() for name in producers.layers},
        {phi: free_share(module, {name: score < phi for name, score in scores.items()}) for phi in phis},
        producers.notes,
        _dropped(module, opened, files, scores, phis) if files else None,
    )
    show(kernel_table(report), soft_wrap=False)
    return write_kernel_report(report, Path(output), [checkpoint, *files])


@torch.no_grad()
def _dropped(
    module: LightningModule, opened: Checkpoint, files: Sequence[str], scores: dict[str, Tensor], phis: Sequence[float]
) -> Dropped:
    case = Case(tuple(map(Path, files)), None, stem(files[0]))
    as_it_is = Preprocessing(orientation=None, normalise=())  # a denoiser takes SUV so
    load = loader_of(module, opened) if isinstance(module, Segmenter) else partial(load_case, preprocessing=as_it_is)
    volume: Tensor = load(case)["image"]
    if isinstance(module, Segmenter):
        require_channels(module.body, volume, case.images[0])
    shown, intact = _output(module, volume, case.images[0])
    most = 1.0 if isinstance(module, Segmenter) else 2 * float(shown[shown > 0].median().nan_to_num())
    at = int(shown.clamp(max=most).flatten(0, 1).double().sum(0).argmax())  # a bladder alone is not much to see
    pictures, errors = {}, {}
    for phi in phis:
        picture, output = _output(drop_kernels(module, scores, phi), volume, case.images[0])
        pictures[phi] = picture[..., at].numpy()
        errors[phi] = float((output - intact).square().mean().sqrt())
    images = volume[0, ..., at].numpy(), shown[..., at].numpy()
    labels = isinstance(module, Segmenter)
    unchanged = None if labels else float((volume[0] - intact).square().mean().sqrt())
    return Dropped(case.patient, *images, pictures, errors, unchanged, labels)


def _output(module: nn.Module, volume: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """What is shown of a network's answer to ``(C, H, W, D)``, as ``(H, W, D)``, and what is compared."""
    with named_failure(volume[None], [path]):
        if isinstance(module, Segmenter):
            logits = module.infer(volume[None])
            return module.labels(logits)[0], module.probabilities(logits)
        assert isinstance(module, Denoiser)
        denoised = module.infer(volume.movedim(-1, 1))[0].movedim(0, -1)
        return denoised, denoised
