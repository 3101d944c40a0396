"""Writing an extended model as a trained-model folder of nnU-Net."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_continual.data import collate, read_cases
from lit_continual.files.whole_files import explaining, write_json
from lit_continual.interop.nnunet.model_folder import SEGMENTATION_LAYER
from lit_continual.interop.nnunet.network import build_network
from lit_continual.interop.nnunet.nnunet_segmenter import NNUNetSegmenter
from lit_continual.interop.nnunet.preparation import as_stored
from lit_continual.interop.nnunet.trained import MALFORMED, nnunetv2
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.segmentation.folded_layer import folded_heads

FINAL = "checkpoint_final.pth"
#: What nnU-Net raises where it cannot predict; a `ValueError` of ours says what is wrong with an image.
_OF_NNUNET = (ImportError, *(kind for kind in MALFORMED if kind is not ValueError))


def write_model_folder(opened: Checkpoint, folder: Path, images: str | None = None) -> list[str]:
    """Write the model of a checkpoint as nnU-Net does, with all heads folded into its last layer.

    Args:
        opened: A checkpoint of a :class:`NNUNetSegmenter`.
        folder: An empty folder.
        images: Images on which the predictions of nnU-Net from the folder are compared with those of the checkpoint.

    Returns:
        Lines that say what was written, and in how many voxels the predictions differ.

    Raises:
        ValueError: If the checkpoint is of another module, or a class has a name that nnU-Net keeps for itself.
    """
    module = opened.module(NNUNetSegmenter)
    trained, classes = module.model, module.classes
    if kept := [name for name in classes if name in ("background", "ignore")]:
        raise ValueError(f"nnU-Net has its own meaning for a class called {kept[0]}, so it is not written. Rename it.")
    dataset = trained.with_classes(classes)
    fold = folder / f"fold_{trained.fold}"
    fold.mkdir()
    files = {"plans": trained.plans, "dataset": dataset, "dataset_fingerprint": trained.fingerprint}
    for name, content in files.items():
        if content is not None:
            write_json(folder / f"{name}.json", content)
    arguments = {"plans": trained.plans, "configuration": trained.configuration, "fold": trained.fold}
    content = {
        "network_weights": _weights(module),
        "trainer_name": trained.trainer,
        "init_args": {**arguments, "dataset_json": dataset},
        "inference_allowed_mirroring_axes": None if trained.mirror_axes is None else tuple(trained.mirror_axes),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
    }
    torch.save(content, fold / FINAL)
    said = [f"{len(classes)} classes: {', '.join(f'{name} {k}' for k, name in enumerate(classes, 1))}."]
    if not images:
        return said
    with explaining("nnU-Net cannot predict from the new folder", "Leave out --images, or mend that.", *_OF_NNUNET):
        return [*said, _compared(module, folder, images)]


def _weights(module: NNUNetSegmenter) -> dict[str, Tensor]:
    """The weights under all the names that nnU-Net's network has for them."""
    network = build_network(module.model, len(module.classes) + 1)
    state, body = network.state_dict(), module.body.state_dict()
    layers = [dict(zip(("weight", "bias"), folded_heads(heads), strict=True)) for heads in module.all_heads]
    for name, value in state.items():
        layer = SEGMENTATION_LAYER.fullmatch(name)
        value.copy_(body[name] if layer is None else layers[int(layer[1])][layer[2]])
    return dict(state)


@torch.no_grad()
def _compared(module: NNUNetSegmenter, folder: Path, images: str) -> str:
    """Count the voxels in which an unmodified predictor of nnU-Net and the module differ."""
    cases, different, contested, voxels = read_cases(images).cases, 0, 0, 0
    package = nnunetv2()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        predictor = package.inference.predict_from_raw_data.nnUNetPredictor(
            use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(folder), (module.model.fold,), FINAL)
        reader = module.model.manager.image_reader_writer_class()
        for case in cases:
            batch: Any = collate([module.load_case(case)])
            logits = module.predict_step(batch, 0)
            ours = module.labels(logits)[0].numpy()
            array, properties = reader.read_images([str(path) for path in case.images])
            theirs = np.asarray(predictor.predict_single_npy_array(array, properties))
            theirs = as_stored(theirs[None], batch["source_affine"][0], module.model)[0]
            different += int((theirs != ours).sum())
            contested += int((module.masks(logits)[0].sum(0) > 1).sum())
            voxels += ours.size
    share = f"{contested} of {voxels} voxels are claimed by several heads"
    return f"{share}; in {different} the label of nnU-Net is another than here ({len(cases)} images)."
