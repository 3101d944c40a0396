import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from monai.losses import DiceCELoss
from torch.testing import assert_close

from lit_continual.data import ExemplarMemoryDataModule, Exemplars, MultiTaskDataModule, SegmentationDataModule, Split
from lit_continual.data.joint_data_module import JointDataModule
from lit_continual.functional import class_ratio_weights
from lit_continual.modules import ClassRatioCrossEntropy, HydraNet, Segmenter
from lit_continual.segmentation.class_ratio_cross_entropy import head_loss

UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "INSTANCE"}


@pytest.fixture
def data(shapes):
    def make(classes, part=0):
        split = Split(fractions=(0.75, 0.0, 0.25), part=(part, 2))
        return SegmentationDataModule(str(shapes), [16, 16], classes, batch_size=4, split=split, seed=0)

    return make


def ratio(data, value):
    """The weights of a head with one class, from its share of the voxels of the training volumes."""
    foreground = torch.cat([(v["label"] == value).flatten() for v in data.train_dataset.volumes]).double().mean()
    return torch.tensor([1 / (2 * (1 - foreground)), 1 / (2 * foreground)]).float()


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # nothing to validate on
def test_each_head_is_weighed_by_the_data_that_reveal_it(data, trainer):
    module, ball, box = (
        Segmenter(UNET, features=4, loss=ClassRatioCrossEntropy()),
        data({"ball": 1}),
        data({"box": 2}, 1),
    )
    for part in (ball, box):
        trainer(max_steps=1).fit(module, datamodule=part)
    for part, head in ((ball, ["ball"]), (box, ["box"])):
        assert_close(module.loss.of(head), ratio(part, 1))
    batch = next(iter(box.train_dataloader()))
    logits = module(batch["image"])
    log = logits[:, 2:].log_softmax(1)
    label, weights = batch["label"][:, 0], ratio(box, 1)
    weight = torch.where(label == 1, weights[1], weights[0])
    expected = -(weight * torch.where(label == 1, log[:, 1], log[:, 0])).sum() / weight.sum()
    assert_close(module.batch_loss(logits, batch), expected)


def test_the_weights_may_be_tempered(data):
    loss, ball = ClassRatioCrossEntropy(power=0.5), data({"ball": 1})
    ball.setup("fit")
    loss.measure(ball.annotations(), [["ball"]])
    background, organ = ratio(ball, 1)
    assert_close(loss.of(["ball"])[1] / loss.of(["ball"])[0], (organ / background).sqrt())
    with pytest.raises(ValueError, match="`power` must be from 0 to 1, got -1"):
        ClassRatioCrossEntropy(-1)


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # nothing to validate on
def test_classes_annotated_together_and_tasks_side_by_side_are_weighed_too(data, trainer):
    joint = JointDataModule([data({"ball": 1}), data({"box": 2}, 1)])
    module = Segmenter(UNET, features=4, loss=ClassRatioCrossEntropy())
    trainer(max_steps=1).fit(module, datamodule=joint)
    maps = [v["label"] for part in joint.train_dataset.datasets for v in part.volumes]
    assert_close(module.loss.of(["ball", "box"]), class_ratio_weights(maps, 3))

    tasks = MultiTaskDataModule({"a": data({"ball": 1}), "b": data({"box": 2}, 1)})
    narrow = {"_target_": "DenseNet121UNet", "decoder_channels": [4] * 5}
    hydra = HydraNet(narrow, features=4, loss=ClassRatioCrossEntropy())
    trainer(max_steps=1).fit(hydra, datamodule=tasks)
    for part, head in zip(tasks.tasks.values(), (["ball"], ["box"]), strict=True):
        assert_close(hydra.loss.of(head), ratio(part, 1))


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # nothing to validate on
def test_a_head_that_is_replayed_is_weighed_by_its_exemplars(data, trainer, tmp_path):
    module, keep = Segmenter(UNET, features=4, heads=[["ball"]], loss=ClassRatioCrossEntropy()), Exemplars()
    ExemplarMemoryDataModule(data({"ball": 1}), tmp_path, keep, "ball").remember(module)
    both = ExemplarMemoryDataModule(data({"box": 2}, 1), tmp_path, keep, "box")
    trainer(max_steps=1).fit(module, datamodule=both)  # as after a resume, in a process that has not seen the ball
    assert_close(module.loss.of(["ball"]), class_ratio_weights([v["label"] for v in both.stored.volumes], 2))
    assert_close(module.loss.of(["box"]), ratio(both, 1))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_small_classes_and_many_voxels_are_no_infinities_in_half_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 48, 48, 48, generator=generator).to(dtype)
    label = torch.zeros(1, 1, 48, 48, 48, dtype=torch.long)
    label[..., :24] = 1
    loss = ClassRatioCrossEntropy()
    loss.weights[("lesion",)] = torch.tensor([0.5, 150_000.0])  # of one voxel in 300 000
    for kind in (loss, DiceCELoss(softmax=True, to_onehot_y=True)):
        given = logits.clone().requires_grad_()
        found = head_loss(kind, ["lesion"], given, label)
        assert_close(found, head_loss(kind, ["lesion"], logits.float(), label))
        found.backward()
        assert given.grad.isfinite().all()
    assert loss(logits, label, ["lesion"]).isfinite()


def test_says_that_nothing_was_measured():
    module = Segmenter(UNET, features=4, heads=[["ball"]], loss=ClassRatioCrossEntropy())
    with pytest.raises(MisconfigurationException, match=r"has seen no label map of ball\. Train on a data module with"):
        module.batch_loss(torch.zeros(1, 2, 4, 4), {"label": torch.zeros(1, 1, 4, 4), "classes": ["ball"]})
