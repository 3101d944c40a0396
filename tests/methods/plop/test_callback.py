import copy
import random

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback
from monai.data import MetaTensor, list_data_collate
from monai.losses import DiceCELoss
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lit_continual.callbacks import ILT, PLOP
from lit_continual.data import collate
from lit_continual.functional import local_pod_distance
from lit_continual.modules import Segmenter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* has no old network"),  # the first fit of a test that trains twice
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2], "norm": "INSTANCE"}


class Foreign(LightningModule):
    """Somebody else's U-Net of two levels with one softmax, whose last layer he makes larger himself."""

    def __init__(self, spatial_dims=2):
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        self.first = nn.Sequential(convolution(1, 4, 3, padding=1), nn.LeakyReLU())
        self.down = nn.Sequential(convolution(4, 6, 2, stride=2), nn.LeakyReLU())
        self.up, self.last, self.extra = nn.Upsample(scale_factor=2), convolution(10, 3, 1), None

    def grow(self, new):
        old, self.last = self.last, type(self.last)(10, 3 + new, 1)
        with torch.no_grad():
            self.last.weight[:3], self.last.bias[:3] = old.weight, old.bias

    def features(self, image):
        first = self.first(image)
        down = self.down(first)
        return first, down, self.up(down)

    def forward(self, image):
        first, _, up = self.features(image)
        return self.last(torch.cat([first, up], 1))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return cross_entropy(logits, batch[1]) if self.extra is None else self.extra(logits, *batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def batches(spatial_dims=2, label=1, **options):
    image = torch.randn(8, 1, *[8] * spatial_dims, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(image, (image[:, 0] > 0.5).long() * label), batch_size=4, **options)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def entropies(logits):
    p = logits.softmax(1)
    return -(p * p.log()).sum(1) / np.log(logits.shape[1]), p.argmax(1)


def medians(old, loader, least):
    """The exact ones, of all background voxels."""
    found = [(entropies(old(image)[:, :3]), label == 0) for image, label in loader]
    entropy = torch.cat([e[background] for (e, _), background in found])
    winner = torch.cat([w[background] for (_, w), background in found])
    found = [entropy[winner == c] for c in range(3)]
    return torch.tensor([max(of_class.quantile(0.5).item(), least) if len(of_class) else least for of_class in found])


@pytest.mark.parametrize(
    ("spatial_dims", "new", "schedule", "ilt"),
    [(2, 2, True, None), (2, 2, False, None), (3, 1, True, None), (2, 0, True, None), (2, 2, True, 0), (2, 1, True, 1)],
)
def test_the_second_fit_of_anybodys_module_equals_the_loss_written_by_hand(trainer, spatial_dims, new, schedule, ilt):
    torch.manual_seed(0)
    module, method = Foreign(spatial_dims), PLOP(0.5, 0.2, threshold=0.05, schedule=schedule)
    methods = [method]
    if ilt is not None:  # at one of both places, beside the term that takes the place of the module's own loss
        methods.insert(ilt, ILT(3.0, ["down"]))
    trainer(callbacks=list(methods), max_epochs=3).fit(module, batches(spatial_dims))
    module.grow(new)
    old, by_hand = copy.deepcopy(module), copy.deepcopy(module)
    loader, seen = batches(spatial_dims, 3 if new else 2), []
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(method._thresholds))
    with torch.no_grad():
        expected = medians(old, loader, 0.05)

    def total(logits, image, label):
        with torch.no_grad():
            answer, features = old(image)[:, :3], old.features(image)
        entropy, winner = entropies(answer)
        background, valid = label == 0, entropy < seen[0][winner]
        losses = cross_entropy(logits, torch.where(background & valid, winner, label), reduction="none")
        losses = torch.where(background & ~valid, 0.0, losses)
        share = [(b & v).sum() / b.sum() for b, v in zip(background, valid, strict=True)]
        supervised = torch.stack([s * loss.mean() for s, loss in zip(share, losses, strict=True)]).mean()
        z = torch.cat([logits[:, [0, *range(3, 3 + new)]].exp().sum(1, True).log(), logits[:, 1:3]], 1)
        z = z if new else logits  # a distance of rounding errors has a gradient
        pairs = zip(by_hand.features(image), features, strict=True)
        pod = 0.5 * sum(local_pod_distance(a, b) for a, b in pairs) + 0.2 * local_pod_distance(z, answer)
        ours, theirs = by_hand.features(image)[1], features[1]
        beside = 3.0 * (2 - 2 * torch.cosine_similarity(ours, theirs, dim=1)).mean() if ilt is not None else 0.0
        return supervised + beside + pod / 4 * (((3 + new) / new) ** 0.5 if new and schedule else 1.0)

    by_hand.extra = total
    fitted = trainer(callbacks=[*methods, look])
    fitted.fit(module, loader)
    assert_close(seen[0], expected, rtol=0, atol=0.002)
    trainer().fit(by_hand, loader)
    assert_close(state(module), state(by_hand), rtol=1e-4, atol=3e-5)
    logged = fitted.callback_metrics
    assert 0 < logged["train/plop_pod"] < logged["train/plop"]
    assert 0 < logged["train/plop_certain"] < 1


def samples(*classes):
    generator, found = torch.Generator().manual_seed(1), []
    for names in classes:
        image = torch.randn(1, 8, 8, generator=generator)
        found.append({"image": image, "label": (image > 0.8).to(torch.uint8), "classes": names})
    return DataLoader(found, batch_size=4, collate_fn=collate)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_segmenter_keeps_its_dice_and_ignores_what_is_not_certain(trainer, at_once):
    torch.manual_seed(0)
    sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    loss = DiceCELoss(softmax=True, to_onehot_y=True, batch=at_once)
    module = Segmenter(UNET, features=4, heads="shared", classes=[["a"]], optimizer=sgd, roi_size=[8, 8], loss=loss)
    method, seen = PLOP(0.0, 0.0), []
    trainer(callbacks=method, max_epochs=3).fit(module, samples(("a",), ("a",)))
    old = copy.deepcopy(module).eval()
    module.grow(["b"])
    by_hand = copy.deepcopy(module)

    def step(batch, batch_idx):
        logits, label = by_hand(batch["image"]), 2 * batch["label"][:, 0].long()
        entropy, winner = (v.detach() for v in entropies(old(batch["image"])))
        background, valid = label == 0, entropy < seen[0][winner]
        target, unsure = torch.where(background & valid, winner, label), background & ~valid
        sure = torch.tensor([30.0, -30.0, -30.0]).view(1, 3, 1, 1)
        z, target = torch.where(unsure[:, None], sure, logits), target[:, None]
        share = (background & valid).flatten(1).sum(1) / background.flatten(1).sum(1)
        if at_once:  # the third has no classes
            return (share[0] + share[1]) / 3 * loss(z[:2], target[:2])
        return sum(share[i] * loss(z[i : i + 1], target[i : i + 1]) for i in range(2)) / 3

    by_hand.training_step = step
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(method._thresholds))
    given = [("b",), ("b",), ()]
    trainer(callbacks=[method, look]).fit(module, samples(*given))
    trainer().fit(by_hand, samples(*given))
    assert_close(state(module), state(by_hand), rtol=1e-4, atol=1e-6)


def test_the_pass_over_the_data_leaves_random_numbers_and_limits_as_they_are(trainer):
    drawn = []

    class Draws(Foreign):
        def training_step(self, batch, batch_idx):
            drawn.append((torch.rand(1).item(), np.random.rand(), random.random(), batch[0].sum().item()))
            return super().training_step(batch, batch_idx)

    class Counts(TensorDataset):
        read = 0

        def __getitem__(self, k):
            Counts.read += 1
            return super().__getitem__(k)

    data = Counts(*batches().dataset.tensors)
    for callbacks in ([], [PLOP(teacher="start")]):
        for module in (torch, np.random, random):
            getattr(module, "manual_seed" if module is torch else "seed")(0)
        Counts.read = 0
        torch.manual_seed(0)
        trainer(callbacks=callbacks, limit_train_batches=1).fit(Draws(), DataLoader(data, 4, shuffle=True))
        assert Counts.read <= 4 * 2 * (1 + len(callbacks))  # Lightning fetches a batch ahead
    assert drawn[0] == drawn[1]


def test_images_of_monai_leave_plain_tensors_in_the_state(trainer):
    data = [(MetaTensor(image), MetaTensor(label)) for image, label in batches().dataset]
    method, seen = PLOP(teacher="start"), []
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(method.state_dict()["thresholds"]))
    trainer(callbacks=[method, look]).fit(Foreign(), DataLoader(data, batch_size=4, collate_fn=list_data_collate))
    assert {type(found) for found in seen} == {torch.Tensor}


class WithoutEnd(IterableDataset):
    def __iter__(self):
        for _ in range(3):
            yield from batches().dataset
        pytest.fail("more is read than the fit trains on")


def test_of_data_without_an_end_as_much_is_measured_as_the_fit_trains_on(trainer):
    module, method, seen = Foreign(), PLOP(teacher="start", threshold=0.05), []
    with torch.no_grad():
        expected = medians(module, batches(), 0.05)
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(method._thresholds))
    data = DataLoader(WithoutEnd(), batch_size=4)
    trainer(callbacks=[method, look], max_epochs=-1, max_steps=2).fit(module, data)
    assert_close(seen[0], expected, rtol=0, atol=0.002)


def test_layers_are_chosen_at_the_ends_of_levels_and_may_be_named(trainer):
    method, seen = PLOP(teacher="start"), []
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(method._chosen))
    trainer(callbacks=[method, look]).fit(Foreign(), batches())
    assert seen[-1] == ["first.1", "down.1", "up"]
    with pytest.raises(MisconfigurationException, match=r"Foreign has no layer `dawn`\. The most like it are down"):
        trainer(callbacks=PLOP(layers=["dawn"], teacher="start")).fit(Foreign(), batches())


class Unused(Foreign):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(1, 1, 1)


def test_a_layer_that_does_not_answer_is_named(trainer):
    with pytest.raises(MisconfigurationException, match=r"Layer `other` has answered no tensor in this step"):
        trainer(callbacks=PLOP(layers=["other"], teacher="start")).fit(Unused(), batches())


def test_heads_with_a_background_each_are_refused_before_training(trainer):
    module = Segmenter(UNET, features=4, heads=[["a"]], roi_size=[8, 8])
    with pytest.raises(MisconfigurationException, match=r"`PLOP` is defined on one softmax.*Set `heads: shared`"):
        trainer(callbacks=PLOP()).fit(module, samples(("a",)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pod_factor": -1.0}, "must be 0 or more and finite, got -1.0 and 0.0005"),
        ({"pod_logits_factor": float("inf")}, "got 0.01 and inf"),
        ({"scales": []}, "`scales` must be one or more numbers from 1 on"),
        ({"threshold": 2.0}, r"`threshold` must be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PLOP(**arguments)
