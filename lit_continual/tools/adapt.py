"""Online learning: a denoiser is retrained on the study that it is to denoise."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from lit_continual.data import EpochSampler
from lit_continual.data.arguments import require_at_least
from lit_continual.data.nifti import write_nifti
from lit_continual.denoising.denoiser import Denoiser
from lit_continual.denoising.noisy_pair import NoisyPair, read_noisy_pair
from lit_continual.denoising.pet_slices import PetSlices
from lit_continual.methods.tgd.callback import TargetedGradientDescent
from lit_continual.runs.checkpoint import Checkpoint
from lit_continual.runs.files import replaced
from lit_continual.runs.outputs import require_apart, require_folder, require_new
from lit_continual.runs.seal import SECTION, seal, weights_digest
from lit_continual.stream.rehearsal import explained
from lit_continual.stream.tracking import quiet
from lit_continual.tools.adaptation_figure import write_adaptation


def adapt(
    checkpoint: str,
    study: str,
    output: str = "adapted",
    phi: float | None = None,
    epochs: int = 150,
    lr: float = 1e-4,
    batch_size: int = 8,
    seed: int = 0,
    accelerator: str = "auto",
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Retrain a denoiser on one study by Noise2Noise, and denoise the study with it.

    Args:
        checkpoint: A checkpoint of a ``Denoiser``, which is left as it is.
        study: Two noise realisations or more: a folder or list of images, an image with frames, or an acquisition.
        output: Folder for ``model.ckpt``, ``<study>.nii.gz``, and ``adapted.png``, which shows before and after.
        phi: Threshold of targeted gradient descent, such as 0.4: TGD_N2N. Without it all kernels are retrained.
        epochs: Passes over the study.
        lr: Learning rate of Adam.
        batch_size: Slices a batch.
        seed: Seed of the order of the slices, and of an acquisition's halves.
        accelerator: As for the Trainer.
        trust: Package of your own whose classes the checkpoint may name, or a list of them.
        overwrite: Replace what is there already.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is no Denoiser's, the study has one realisation only, a number is out of range, or
            a file would fall on the checkpoint or the study, or unasked on what is there.
    """
    require_at_least(1, batch_size=batch_size)
    require_at_least(0, epochs=epochs, seed=seed)
    if not 0 < lr < float("inf"):
        raise ValueError(f"`lr` must be above 0, got {lr}.")
    folder, opened = Path(output), Checkpoint(checkpoint, trust)
    seed_everything(seed, verbose=False)
    module, pair = opened.module(Denoiser), read_noisy_pair(study, seed)
    outputs = [folder / name for name in ("model.ckpt", f"{pair.name}.nii.gz", "adapted.png")]
    require_folder(folder)
    require_apart([*outputs, folder], [checkpoint, study, *pair.files])
    made_of = _made_of(opened, study, phi, epochs, lr, batch_size, seed)
    require_new(outputs, overwrite or _origin(outputs[0]) == made_of)
    methods = [] if phi is None else [TargetedGradientDescent(phi, network="network", hold_statistics=True)]
    before = _denoised(module, pair)
    module.optimizer = partial(torch.optim.Adam, lr=lr)
    halves = PetSlices([(pair.first.numpy(), pair.second.numpy())], "twin")
    loader = DataLoader(halves, batch_size, sampler=EpochSampler(halves, seed, None, 1, 0))
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    options["limit_val_batches"] = 0  # nobody knows the truth
    with quiet():
        with explained("The adaptation cannot run"):
            trainer = Trainer(accelerator=accelerator, devices=1, max_epochs=epochs, callbacks=list(methods), **options)
        trainer.fit(module.train(), loader, [])
    after = _denoised(module.eval().cpu(), pair)
    kept = {key: value for key, value in opened.content.items() if key in _KEPT}
    kept |= {"state_dict": module.state_dict(), "callbacks": {m.state_key: m.state_dict() for m in methods}}
    seal(kept, type(module))
    kept[SECTION]["adapted"] = made_of
    with replaced(outputs[0]) as temporary:
        torch.save(kept, temporary)
    write_nifti(outputs[1], after.movedim(0, -1).numpy(), pair.affine)
    write_adaptation(outputs[2], pair.whole.numpy(), before.numpy(), after.numpy())
    return folder


#: What an adapted checkpoint takes over: not the state of a training that is over.
_KEPT = {"hyper_parameters", "datamodule_hyper_parameters", "pytorch-lightning_version", "epoch", "global_step"}


def _made_of(opened: Checkpoint, study: str, *options: Any) -> str:
    """What distinguishes an adapted network from others: another call that is to make the same may replace it."""
    parts = [weights_digest(opened.state_dict), str(Path(study).resolve()), *map(repr, options)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _origin(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return str(Checkpoint(path).content[SECTION]["adapted"])
    except (ValueError, KeyError):
        return ""  # of something else


@torch.no_grad()
def _denoised(module: Denoiser, pair: NoisyPair) -> Tensor:
    return module.infer(pair.whole[None])[0]
