import json
from functools import partial

import nibabel
import numpy as np
import pytest
import torch

from lit_continual.data import MultiTaskDataModule, SegmentationDataModule, Split
from lit_continual.modules import HydraNet
from lit_continual.stream.stream import Experience, Stream, check_stream

pytestmark = pytest.mark.filterwarnings("ignore:.*Orientation")  # MONAI 1.5 on its own default
NETWORK = {"_target_": "DenseNet121UNet", "decoder_channels": [8, 8, 8, 8, 8]}


def write_task(folder, size, labels, cases=3):
    """A Decathlon folder of boxes, one a label."""
    generator, training = np.random.default_rng(0), []
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for case in range(cases):
        label = np.zeros(size, np.uint8)
        for value in range(1, len(labels) + 1):
            label[4 * value : 4 * value + 4, 4:12] = value
        image = (label * 50 + generator.normal(0, 5, size)).astype(np.float32)
        for kind, array in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{kind}Tr" / f"case{case}.nii.gz")
        training.append({"image": f"./imagesTr/case{case}.nii.gz", "label": f"./labelsTr/case{case}.nii.gz"})
    names = {"0": "background", **{str(k): name for k, name in enumerate(labels, start=1)}}
    listed = {"name": folder.name, "labels": names, "numTraining": cases, "training": training, "test": []}
    (folder / "dataset.json").write_text(json.dumps(listed))
    return str(folder / "dataset.json")


@pytest.fixture
def tasks(tmp_path):
    def task(name, size, labels, patch, batch):
        path = write_task(tmp_path / name, size, labels)
        classes = {label: k for k, label in enumerate(labels, start=1)}
        return SegmentationDataModule(path, patch, classes, batch, Split((0.34, 0.33, 0.33)))

    return {
        "first": task("first", (32, 32, 4), ["anterior", "posterior"], [32, 32], 2),
        "second": task("second", (48, 40, 3), ["tumour"], [48, 32], 3),
    }


def test_every_step_has_a_batch_of_every_task(tasks):
    data = MultiTaskDataModule(tasks)
    for part in tasks.values():
        part.setup("fit")
    batches = [batch for batch, _, _ in data.train_dataloader()]
    lengths = [len(part.train_dataloader()) for part in tasks.values()]
    assert len(batches) == max(lengths)
    for batch in batches:
        assert batch["first"]["image"].shape[1:] == (1, 32, 32)
        assert batch["second"]["image"].shape[1:] == (1, 48, 32)
        assert set(batch["first"]["classes"]) == {("anterior", "posterior")}
        assert set(batch["second"]["classes"]) == {("tumour",)}
    assert len(list(MultiTaskDataModule(tasks, "min_size").train_dataloader())) == min(lengths)


def test_a_task_without_validation_patients_is_left_out_of_validation(tasks):
    tasks["second"].split = Split((0.67, 0.0, 0.33))
    data = MultiTaskDataModule(tasks)
    data.setup("fit")
    assert len(data.val_dataloader()) == 1
    tasks["first"].split = tasks["second"].split
    for part in tasks.values():
        part.__dict__.pop("cases", None)
        part._evaluation.clear()
    assert MultiTaskDataModule(tasks).val_dataloader() == []


@pytest.mark.slow
def test_a_hydra_learns_and_judges_the_tasks(tasks, trainer):
    torch.manual_seed(0)
    module = HydraNet(NETWORK, features=4, optimizer=partial(torch.optim.Adam, lr=0.01))
    data, fitting = MultiTaskDataModule(tasks), trainer(max_epochs=2)
    fitting.fit(module, datamodule=data)
    assert module.heads.classes == data.head_classes == [["anterior", "posterior"], ["tumour"]]
    assert {f"val/dice/{name}" for name in data.classes} <= set(fitting.callback_metrics)
    (scores,) = fitting.test(module, datamodule=data, verbose=False)
    assert {f"test/dice/{name}" for name in data.classes} <= set(scores)


def test_a_patient_who_trains_one_task_and_tests_another_is_found(tasks):
    data = MultiTaskDataModule(tasks)
    assert {split: len(cases) for split, cases in data.cases.items()} == {
        split: sum(len(part.cases[split]) for part in tasks.values()) for split in ("train", "val", "test")
    }
    tasks["second"].cases["test"].append(tasks["first"].cases["train"][0])
    stream = Stream([Experience("both")])
    with pytest.raises(ValueError, match=r"is in the train split of both and the test split of both"):
        check_stream(stream, [data])


def test_bad_input_is_named(tasks):
    with pytest.raises(ValueError, match=r"Class tumour is in the tasks a and b: give it a name .*b_tumour: tumour"):
        MultiTaskDataModule({"a": tasks["second"], "b": tasks["second"]})
    with pytest.raises(ValueError, match="at least one"):
        MultiTaskDataModule({})
