import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from monai.losses import DiceCELoss
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import MiB
from lit_continual.data import collate
from lit_continual.modules import Segmenter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* has no old network"),  # the first fit of a test that trains twice
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "INSTANCE"}


class Foreign(LightningModule):
    """Somebody else's segmenter with one softmax, whose last layer he makes larger himself."""

    def __init__(self, spatial_dims=2):
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        self.body = nn.Sequential(convolution(1, 4, 3, padding=1), nn.LeakyReLU())
        self.last, self.extra = convolution(4, 3, 1), None

    def grow(self, new):
        old, self.last = self.last, type(self.last)(4, 3 + new, 1)
        with torch.no_grad():
            self.last.weight[:3], self.last.bias[:3] = old.weight, old.bias

    def forward(self, image):
        return self.last(self.body(image))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return cross_entropy(logits, batch[1]) if self.extra is None else self.extra(logits, *batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def batches(spatial_dims=2, label=1):
    image = torch.randn(8, 1, *[6] * spatial_dims, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(image, (image[:, 0] > 0.5).long() * label), batch_size=4)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("new", [0, 2])
def test_the_second_fit_of_anybodys_module_equals_the_losses_written_by_hand(trainer, spatial_dims, new):
    torch.manual_seed(0)
    module, method = Foreign(spatial_dims), MiB(loss_kd=3.0)
    trainer(callbacks=method).fit(module, batches(spatial_dims))
    module.grow(new)
    old, by_hand = copy.deepcopy(module), copy.deepcopy(module)

    def total(logits, image, label):
        p = logits.softmax(1)
        with torch.no_grad():
            wanted = old(image)[:, :3].softmax(1)
        to_old = torch.cat([p[:, :1] + p[:, 3:].sum(1, keepdim=True), p[:, 1:3]], 1)
        of_label = torch.where(label == 0, p[:, :3].sum(1), p.gather(1, label[:, None])[:, 0])
        return -of_label.log().mean() - 3.0 * (wanted * to_old.log()).sum(1).mean() / 3

    by_hand.extra = total
    trainer().fit(by_hand, batches(spatial_dims, 3 if new else 2))
    fitted = trainer(callbacks=method)
    fitted.fit(module, batches(spatial_dims, 3 if new else 2))
    assert_close(state(module), state(by_hand), rtol=1e-4, atol=1e-6)
    logged = fitted.callback_metrics
    assert 0 < logged["train/mib_distillation"] < logged["train/mib"]


def shared(**options):
    torch.manual_seed(0)
    sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    return Segmenter(UNET, features=4, heads="shared", optimizer=sgd, roi_size=[8, 8], **options)


def samples(*classes):
    generator, found = torch.Generator().manual_seed(1), []
    for names in classes:
        label = torch.randint(0, 2, (1, 8, 8), generator=generator, dtype=torch.uint8)
        found.append({"image": torch.randn(1, 8, 8, generator=generator), "label": label, "classes": names})
    return DataLoader(found, batch_size=4, collate_fn=collate)


def test_a_segmenter_keeps_its_dice_on_a_background_that_holds_what_is_not_revealed(trainer):
    module, method = shared(classes=[["a"]]), MiB(loss_kd=0.5)
    trainer(callbacks=method).fit(module, samples(("a",), ("a",)))
    old = copy.deepcopy(module).eval()
    module.grow(["b"])
    by_hand, loss, mixed = copy.deepcopy(module), DiceCELoss(softmax=True, to_onehot_y=True), [("b",), ("b",), ("a",)]

    def step(batch, batch_idx):
        logits, label = by_hand(batch["image"]), batch["label"].long()
        with torch.no_grad():
            p = old(batch["image"]).softmax(1)
        z_a, z_b = logits[:, [0, 1]].logsumexp(1, True), logits[:, [0, 2]].logsumexp(1, True)
        new = loss(torch.cat([z_a[:2], logits[:2, 2:]], 1), label[:2])
        exemplar = loss(torch.cat([z_b[2:], logits[2:, 1:2]], 1), label[2:])
        q = torch.cat([z_b, logits[:, 1:2]], 1).log_softmax(1)
        return 2 / 3 * new + exemplar / 3 - 0.5 * (p * q).sum(1).mean() / 2

    by_hand.training_step = step
    trainer().fit(by_hand, samples(*mixed))
    trainer(callbacks=method).fit(module, samples(*mixed))
    assert_close(state(module), state(by_hand), rtol=1e-4, atol=1e-6)


def test_the_teacher_of_a_shared_head_is_the_old_network_bit_for_bit(trainer):
    module, method, seen = shared(classes=[["a"]]), MiB(), []
    trainer(callbacks=method).fit(module, samples(("a",)))
    old, image = copy.deepcopy(module).eval(), torch.randn(1, 1, 8, 8)
    module.grow(["b", "c"])
    method.on_fit_start(fitted := trainer(callbacks=method), module)
    seen.append(method._teacher.module(image))
    method.teardown(fitted, module, "fit")
    assert torch.equal(seen[0], old(image))
    assert module(image).shape[1] == 4


def test_heads_with_a_background_each_are_refused_before_training(trainer):
    module = Segmenter(UNET, features=4, heads=[["a"]], roi_size=[8, 8])
    with pytest.raises(MisconfigurationException, match=r"`MiB` is defined on one softmax.*Set `heads: shared`"):
        trainer(callbacks=MiB()).fit(module, samples(("a",)))


def test_a_segmenter_without_classes_is_nobodys_teacher(trainer):
    module = shared()
    module._of_data = ["a"]
    with pytest.raises(MisconfigurationException, match=r"knows no class at the start of this fit.*leave `teacher`"):
        trainer(callbacks=MiB(teacher="start")).fit(module, samples(("a",)))


@pytest.mark.parametrize("batch", [(torch.zeros(2, 1, 6, 6),), (torch.zeros(2, 1, 6, 6), torch.zeros(2, 6, 6))])
def test_labels_that_are_not_found_are_asked_for(trainer, batch):
    class Unlabelled(Foreign):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

    loader = DataLoader([tuple(part[0] for part in batch)], batch_size=1)
    with pytest.raises(MisconfigurationException, match=r"as integers \(1, 6, 6\), and the batch has .* `target=`"):
        trainer(callbacks=MiB(teacher="start")).fit(Unlabelled(), loader)
    zeros = lambda module, batch: torch.zeros(1, 6, 6, dtype=torch.long)  # noqa: E731
    trainer(callbacks=MiB(teacher="start", target=zeros)).fit(Unlabelled(), loader)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`loss_kd` must be 0 or more and finite, got -1"):
        MiB(loss_kd=-1.0)
