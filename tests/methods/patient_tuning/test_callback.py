import copy

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lit_continual.callbacks import PatientTuning
from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.methods.patient_tuning.callback import chosen_slices
from lit_continual.methods.patient_tuning.tune import Tuning
from lit_continual.modules import Segmenter
from lit_continual.stream.evaluation import CaseRecorder
from tests.tiny import TinyModule

pytestmark = pytest.mark.filterwarnings("ignore:.*num_workers")


@pytest.fixture
def data(decathlon):
    folder = decathlon(count=4, shape=(14, 12, 8))
    split = Split(fractions=(0.5, 0.25, 0.25))
    return SegmentationDataModule(str(folder), [14, 12], {"first": 1, "second": 2}, split=split, batch_size=2)


@pytest.fixture
def module():
    torch.manual_seed(0)
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "kernel_size": 1}
    return Segmenter(network, features=4, heads=[["first", "second"]], roi_size=[14, 12])


def evaluated(module, data, *callbacks, stage="test"):
    recorder = CaseRecorder(0, 0)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[*callbacks, *([recorder] if stage == "test" else [])], **options)
    getattr(trainer, stage)(module, datamodule=data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, recorder


def dice(prediction, truth, value):
    a, b = prediction == value, truth == value
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_scores_are_those_of_the_tuned_network_on_the_slices_that_were_not_shown(module, data):
    counts, tuned = [0, 2, 7], {}
    logged, recorder = evaluated(module, data, PatientTuning(slices=2, steps=counts, lr=0.05))
    data.setup("test")
    (batch,) = data.test_dataloader()
    shown = chosen_slices(batch["label"][0, 0], 2)
    assert shown == [1, 2]  # of the four with a class
    annotated = torch.zeros_like(batch["label"], dtype=torch.bool)
    annotated[..., shown] = True
    volume = {"image": batch["image"][0], "label": batch["label"][0], "annotated": annotated[0]}
    others = [z for z in range(8) if z not in shown]
    for count in counts:
        copied = copy.deepcopy(module).eval()
        Tuning(copied, {**volume, "classes": ("first", "second")}, lr=0.05).go_to(count)
        with torch.no_grad():
            found = copied.labels(copied.infer(batch["image"]))[0, ..., others].numpy()
        truth = batch["label"][0, 0, ..., others].numpy()
        tuned[count] = [dice(found, truth, value) for value in (1, 2)]
        for name, value in zip(("first", "second"), tuned[count], strict=True):
            assert logged[f"test/dice_after_{count}/{name}"] == pytest.approx(value, nan_ok=True)
        assert logged[f"test/dice_after_{count}"] == pytest.approx(np.mean(tuned[count]))
    assert logged["test/dice"] == pytest.approx(np.mean(tuned[7]))
    assert len({round(np.mean(values), 4) for values in tuned.values()}) == 3
    (first,) = (case.values for case in recorder.cases if case.label == "first")
    assert [first[f"dice_after_{count}"] for count in counts] == pytest.approx([tuned[count][0] for count in counts])
    assert first["dice"] == pytest.approx(tuned[7][0])


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_the_network_is_as_it_was_and_nothing_is_left(module, data, stage):
    before, mode = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    callback = PatientTuning(slices=1, steps=3, lr=0.1)
    evaluated(module, data, callback, stage=stage)
    assert all(map(torch.equal, before.values(), module.state_dict().values()))
    assert not {"test_step", "validation_step"} & vars(module).keys()
    assert not callback.state_dict()
    assert [part.training for part in module.modules()] == mode
    assert all(p.grad is None for p in module.parameters())


def test_nothing_is_left_where_it_fails(module, data):
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"The loss at step 2 is (nan|inf). Choose a smaller `lr`"):
        evaluated(module, data, PatientTuning(steps=3, lr=1e30, optimizer="sgd"))
    assert all(map(torch.equal, before.values(), module.state_dict().values()))
    assert "test_step" not in vars(module)


def test_a_volume_without_a_class_is_scored_as_it_is(module, data, tmp_path):
    for path in (tmp_path / "set/labelsTr").iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    plain, _ = evaluated(module, data)
    logged, _ = evaluated(module, data, PatientTuning(steps=[0, 5], lr=0.1))
    assert plain["test/precision/first"] == 0  # of what it finds where nothing is
    assert plain["test/hd95/left_out"] > 0
    for name in ("precision/first", "precision/second", "hd95/first"):
        score, of_class = name.split("/")
        for found in (name, f"{score}_after_5/{of_class}"):
            assert logged[f"test/{found}"] == pytest.approx(plain[f"test/{name}"], nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"slices": 0}, "`slices` must be 1 or more, got 0"),
        ({"steps": []}, r"`steps` must be 0 or more .* got \[\]"),
        ({"steps": [3, -1]}, r"got \[-1, 3\]"),
        ({"lr": 0}, "`lr` must be above 0, got 0"),
        ({"optimizer": "lbfgs"}, "`optimizer` must be one of adam, sgd, got 'lbfgs'"),
        ({"batch_size": 0}, "`batch_size` 1 or more"),
    ],
)
def test_arguments_that_cannot_be(arguments, said):
    with pytest.raises(ValueError, match=said):
        PatientTuning(**arguments)


def test_another_module_is_refused(trainer, loader):
    tiny = TinyModule()
    tiny.test_step = lambda batch: None
    with pytest.raises(MisconfigurationException, match=r"tunes a `Segmenter`, and this is a TinyModule. Leave it out"):
        trainer(callbacks=PatientTuning()).test(tiny, loader)
