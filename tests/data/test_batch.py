import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning_utilities.core.apply_func import apply_to_collection

from lit_continual.data import (
    Budget,
    ExemplarMemoryDataModule,
    Exemplars,
    JointDataModule,
    MultiTaskDataModule,
    PetDataModule,
    SegmentationDataModule,
    Split,
    collate,
)
from lit_continual.modules import Segmenter

UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}


def data(folder, classes, part=0, **options):
    split = Split((0.5, 0.25, 0.25), part=(part, 2))
    return SegmentationDataModule(str(folder), classes=classes, **{"patch_size": [16, 16], "split": split, **options})


def rehearsed(folder, path):
    keep = Exemplars(budget=Budget(samples=3), share=0.5)
    ExemplarMemoryDataModule(data(folder, {"ball": 1}), path, keep, "ball").remember(Segmenter(UNET, 4, [["ball"]]))
    return ExemplarMemoryDataModule(data(folder, {"box": 2}, 1), path, keep, "box")


def tasks(folder):
    return {"a": data(folder, {"ball": 1}), "b": data(folder, {"box": 2})}


MODULES = {
    "slices": lambda folder, path: data(folder, {"ball": 1}),
    "patches": lambda folder, path: data(folder, {"ball": 1}, patch_size=[8, 8, 4]),
    "on disk": lambda folder, path: data(folder, {"ball": 1}, cache="disk"),
    "joint": lambda folder, path: JointDataModule([data(folder, {"ball": 1}), data(folder, {"box": 2}, 1)]),
    "several tasks": lambda folder, path: MultiTaskDataModule(tasks(folder)),
    "with exemplars": rehearsed,
    "studies": lambda folder, path: PetDataModule(low=[0], seconds=[60], realisations=2, size=32, depth=8, cache=path),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_no_batch_holds_a_number_that_a_device_or_a_precision_would_spoil(make, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    module, seen = make(shapes, tmp_path / "more"), []
    module.prepare_data()
    for stage, loaders in (("fit", ["train", "val"]), ("test", ["test"])):
        if stage == "fit" or not isinstance(module, JointDataModule):  # which is for training
            module.setup(stage)
            seen += [first(getattr(module, f"{name}_dataloader")()) for name in loaders]
    dtypes = []
    apply_to_collection(seen, torch.Tensor, lambda tensor: dtypes.append(tensor.dtype))
    assert set(dtypes) <= {torch.float32, torch.uint8, torch.bool}
    for batch in seen:
        moved = HalfPrecision("bf16-true").convert_input(move_data_to_device(batch, "cpu"))
        assert plain(moved) == plain(batch)


def first(loader):
    batch = next(iter(loader))
    return batch[0] if isinstance(batch, tuple) else batch


def plain(batch):
    """All of a batch that is no tensor."""
    return apply_to_collection(batch, torch.Tensor, lambda tensor: None)


def test_tensors_are_stacked_and_all_else_is_listed():
    samples = [
        {"image": torch.full((1, 2), i), "masks": {"a": torch.tensor(i)}, "classes": ("a,b",) * i} for i in (0, 1)
    ]
    batch = collate(samples)
    assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in samples]))
    assert batch["masks"]["a"].tolist() == [0, 1]
    assert batch["classes"] == [(), ("a,b",)]
