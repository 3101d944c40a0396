import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import ILT, Distillation
from lit_continual.methods.ilt.loss import normalised_feature_distance

pytestmark = pytest.mark.filterwarnings("ignore:.* has no old network")  # the first fit of a test that trains twice


class Foreign(LightningModule):
    """Somebody else's segmenter; `extra` is the term that the callback should reproduce, of the image."""

    def __init__(self, spatial_dims=2):
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        self.encoder = nn.Sequential(convolution(1, 4, 3, padding=1), nn.LeakyReLU(), convolution(4, 6, 2, stride=2))
        self.up, self.last, self.extra = nn.Upsample(scale_factor=2), convolution(6, 2, 1), None

    def forward(self, image):
        return self.last(self.up(self.encoder(image)))

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self(batch[0]), batch[1])
        return loss if self.extra is None else loss + self.extra(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


class AskedOften(Foreign):
    """Whose optimizer asks `training_step` several times for a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


class AsksOthers(Foreign):
    """Whose step asks an average of the network too, and last the network about another view."""

    def __init__(self, spatial_dims=2):
        super().__init__(spatial_dims)
        self.average = copy.deepcopy(self.encoder).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        others = self(batch[0].flip(-1)).square().mean() + self.average(batch[0]).mean()
        return {"loss": super().training_step(batch, batch_idx) + others, "logits": logits, "view": self(batch[0].mT)}


def batches(spatial_dims=2, sign=1):
    image = torch.randn(8, 1, *[8] * spatial_dims, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(image, (sign * image[:, 0] > 0.5).long()), batch_size=4)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("kind", "spatial_dims"), [(Foreign, 2), (Foreign, 3), (AskedOften, 2), (AsksOthers, 2)])
@pytest.mark.parametrize("layers", [None, ["encoder.1", "encoder"]])
def test_the_second_fit_equals_the_term_written_by_hand(trainer, kind, spatial_dims, layers):
    torch.manual_seed(0)
    module, method, chosen = kind(spatial_dims), ILT(3.0, layers), []
    trainer(callbacks=method).fit(module, batches(spatial_dims))
    old, by_hand = copy.deepcopy(module), copy.deepcopy(module)

    def distance(image, ours, theirs):
        cosine = torch.cosine_similarity(ours(image), theirs(image).detach(), dim=1)
        return (2 - 2 * cosine).mean()

    def total(image):
        found = distance(image, by_hand.encoder, old.encoder)
        return 1.5 * (found + distance(image, by_hand.encoder[:2], old.encoder[:2])) if layers else 3.0 * found

    by_hand.extra = total
    look = LambdaCallback(on_train_batch_end=lambda *_: chosen.append(method._chosen))
    trainer(callbacks=[method, look]).fit(module, batches(spatial_dims, -1))
    trainer().fit(by_hand, batches(spatial_dims, -1))
    assert_close(state(module), state(by_hand), rtol=1e-4, atol=1e-5)
    assert chosen[-1] == (layers or ["encoder.2"])


def test_with_distillation_it_is_the_whole_method(trainer):
    torch.manual_seed(0)
    module, methods = Foreign(), [Distillation(), ILT()]
    for sign in (1, -1):
        fitted = trainer(callbacks=list(methods))
        fitted.fit(module, batches(sign=sign))
    assert fitted.callback_metrics["train/ilt"] > 0
    assert fitted.callback_metrics["train/distillation"] > 0


def test_the_distance_knows_directions_and_no_lengths():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    assert_close(normalised_feature_distance(5 * a, b / 3), normalised_feature_distance(a, b))
    assert normalised_feature_distance(a, 2 * a) < 1e-30
    assert_close(normalised_feature_distance(a, -a), torch.tensor(4.0, dtype=torch.float64))
    assert gradcheck(lambda x: normalised_feature_distance(x, b), a.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"Features have shape \(2, 3, 4, 2\), and those of the old network"):
        normalised_feature_distance(a, b[:1])


class Flat(Foreign):
    """Its features are no maps."""

    def __init__(self):
        super().__init__()
        self.encoder, self.up, self.last = nn.Linear(64, 128), nn.Identity(), nn.Unflatten(1, (2, 8, 8))

    def forward(self, image):
        return self.last(self.up(self.encoder(image.flatten(1))))


def test_a_network_without_maps_is_refused(trainer):
    with pytest.raises(
        MisconfigurationException, match=r"`ILT` finds no layer in training that answers with maps.*in `layers`"
    ):
        trainer(callbacks=ILT(teacher="start")).fit(Flat(), batches())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"`loss_de` must be 0 or more and finite, got -1.0"):
        ILT(loss_de=-1.0)
