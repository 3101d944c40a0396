import copy
import json
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lit_continual.callbacks import DarkExperienceReplay
from lit_continual.cli import main
from lit_continual.data import ExemplarMemoryDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.* has no old network")  # in a first fit

ALPHA, BETA = 0.7, 0.4
ORIGINS = {"pure": ["new", "new", "exemplar", "exemplar"], "mixed": ["new", "exemplar", "exemplar", "new"]}


class Foreign(LightningModule):
    """Somebody's segmenter in 2D or 3D, with dropout and batch normalisation; ``extra`` is what a step must equal."""

    def __init__(self, dims=2, classes=3):
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        layers = convolution(1, 4, 3, padding=1), norm(4), nn.ReLU(), nn.Dropout(0.2), convolution(4, classes, 1)
        self.net, self.extra = nn.Sequential(*layers), None

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        logits = self(batch["image"])
        loss = cross_entropy(logits, batch["label"])
        return loss if self.extra is None else self.extra(loss, logits, batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def samples(seed, origins, dims=2):
    images = torch.randn(8, 1, *[6] * dims, generator=torch.Generator().manual_seed(seed))
    labels = (images[:, 0] > seed / 2).long()
    parts = [
        {"image": image, "label": label, "k": k} for k, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return [part | ({"origin": origins[k % 4]} if origins else {}) for k, part in enumerate(parts)]


def stored_logits(module, data):
    """What DER would have stored with each sample, not augmented, when the last fit had ended."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        return torch.cat([module(sample["image"][None]) for sample in data])


def der(stored, beta):
    """Eq. 6 by hand, from stored logits."""

    def total(loss, logits, batch):
        old = torch.tensor([origin == "exemplar" for origin in batch["origin"]])
        kept = stored[batch["k"]]
        distance = (logits[:, : kept.shape[1]].float() - kept).square().flatten(1).mean(1)
        return (beta if old.all() else 1.0) * loss + ALPHA * (distance * old).mean()

    return total


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("origins", "size", "beta"), [("pure", 2, BETA), ("mixed", 4, 1.0)])
def test_a_second_fit_equals_eq_6_with_logits_that_were_stored(trainer, dims, origins, size, beta):
    callback, module = DarkExperienceReplay(ALPHA, beta), Foreign(dims)
    trainer(callbacks=callback).fit(module, DataLoader(samples(0, None, dims), batch_size=4))
    data, by_hand = samples(1, ORIGINS[origins], dims), copy.deepcopy(module)
    by_hand.extra = der(stored_logits(module, data), beta)
    for one, callbacks in ((by_hand, None), (module, callback)):
        torch.manual_seed(3)
        trainer(callbacks=callbacks, max_epochs=2).fit(one, DataLoader(data, batch_size=size))
    assert_close(weights(module), weights(by_hand), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}], ids=str
)
def test_it_is_part_of_the_loss(trainer, options):
    module, data = Foreign(), samples(1, ORIGINS["pure"])
    by_hand = copy.deepcopy(module)
    teacher = copy.deepcopy(module).eval()

    def total(loss, logits, batch):
        with torch.no_grad():
            stored = torch.zeros(8, *logits.shape[1:]).index_copy(0, batch["k"], teacher(batch["image"]).float())
        return der(stored, BETA)(loss, logits, batch)

    by_hand.extra = total
    for one, callbacks in ((by_hand, None), (module, DarkExperienceReplay(ALPHA, BETA, teacher="start"))):
        torch.manual_seed(3)
        trainer(callbacks=callbacks, max_epochs=2, **options).fit(one, DataLoader(data, batch_size=2))
    assert_close(weights(module), weights(by_hand), rtol=1e-5, atol=1e-6)


def test_classes_that_came_later_are_left_out(trainer):
    old, module = Foreign(), Foreign(classes=5)
    data, by_hand = samples(1, ["exemplar"] * 4), copy.deepcopy(module)
    by_hand.extra = der(stored_logits(old, data), BETA)
    for one, callbacks in ((by_hand, None), (module, DarkExperienceReplay(ALPHA, BETA, teacher=old))):
        torch.manual_seed(3)
        trainer(callbacks=callbacks).fit(one, DataLoader(data, batch_size=2))
    assert_close(weights(module), weights(by_hand), rtol=1e-5, atol=1e-6)


def test_without_alpha_it_is_replay_and_nobody_is_asked(trainer):
    module, data = Foreign(), samples(1, ORIGINS["pure"])
    by_hand = copy.deepcopy(module)
    by_hand.extra = lambda loss, logits, batch: loss * (BETA if batch["origin"][0] == "exemplar" else 1)
    callback, asked = DarkExperienceReplay(0.0, BETA, teacher="start"), []
    watch = LambdaCallback(on_train_start=lambda *_: callback._teacher.module.register_forward_hook(asked.append))
    for one, callbacks in ((by_hand, None), (module, [callback, watch])):
        torch.manual_seed(3)
        trainer(callbacks=callbacks).fit(one, DataLoader(data, batch_size=2))
    assert_close(weights(module), weights(by_hand), rtol=0, atol=0)
    assert asked == []


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_a_resumed_fit_with_exemplars_ends_as_the_one_that_was_not_stopped(trainer, tmp_path):
    def fit(module, callback, **options):
        seeded = LambdaCallback(on_train_batch_start=lambda t, m, b, i: torch.manual_seed(100 * t.current_epoch + i))
        save, data = ModelCheckpoint(tmp_path / "c", "{epoch}", save_top_k=-1), samples(1, ORIGINS["pure"])
        fitted = trainer(callbacks=[callback, seeded, save], enable_checkpointing=True, max_epochs=3)
        fitted.fit(module, DataLoader(data, batch_size=2), weights_only=True, **options)

    callback, module = DarkExperienceReplay(ALPHA, BETA), Foreign()
    trainer(callbacks=callback).fit(module, DataLoader(samples(0, None), batch_size=4))
    fit(module, callback)
    resumed = Foreign()
    fit(resumed, DarkExperienceReplay(ALPHA, BETA), ckpt_path=tmp_path / "c" / "epoch=0.ckpt")
    assert_close(weights(resumed), weights(module), rtol=0, atol=0)


def test_what_cannot_be_is_said(trainer):
    with pytest.raises(ValueError, match=r"`alpha` and `beta` must be 0 or more and finite, got -1.0 and 0.5"):
        DarkExperienceReplay(alpha=-1.0)
    mixed = DataLoader(samples(1, ORIGINS["mixed"]), batch_size=4)
    with pytest.raises(MisconfigurationException, match=r"cannot have the weight `beta=0.5`. Set `batches: pure`"):
        trainer(callbacks=DarkExperienceReplay(teacher="start")).fit(Foreign(), mixed)
    with pytest.warns(UserWarning, match="`DarkExperienceReplay` met no exemplar in this epoch.*`memory`"):
        trainer(callbacks=DarkExperienceReplay(teacher="start")).fit(Foreign(), DataLoader(samples(1, None), 4))


def test_a_memory_that_is_empty_yet_is_no_fault(trainer, tmp_path):
    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(samples(1, None), 4)

    data = ExemplarMemoryDataModule(Data(), tmp_path / "memory")
    trainer(callbacks=DarkExperienceReplay(teacher="start")).fit(Foreign(), datamodule=data)


def test_a_memory_that_mixes_batches_is_refused_before_anything_is_trained(stream, tmp_path):
    memory = {"policy": "Random", "budget": {"samples": 4}, "batches": "mixed"}
    config = stream({"class_path": "DarkExperienceReplay"}, memory=memory)
    with pytest.raises((SystemExit, MisconfigurationException), match=r"`beta=0.5`. Set `batches: pure`"):
        main(["fit", "--config", config])
    assert not list(tmp_path.glob("run/experiences/*/model.ckpt"))


def test_in_a_stream_exemplars_train_their_own_heads_and_are_held_to_the_old_logits(stream, tmp_path):
    def learn(name, *callbacks, **options):
        path = stream(*callbacks, name=name, **options)
        main(["fit", "--config", path, f"--trainer.default_root_dir={tmp_path / name}"])
        checkpoint = torch.load(tmp_path / name / "experiences/1_box/model.ckpt", weights_only=True)
        return checkpoint["state_dict"]["heads.layers.0.weight"]

    def make(**weights):
        return {"class_path": "DarkExperienceReplay", "init_args": weights}

    memory = {"policy": "Random", "budget": {"samples": 4}}
    replay = learn("er", memory=memory)
    assert torch.equal(learn("beta", make(alpha=0.0, beta=1.0), memory=memory), replay)
    head = learn("der", make(alpha=0.1, beta=1.0), memory=memory)
    assert not torch.equal(head, replay)
    old = torch.load(tmp_path / "er" / "experiences/0_ball/model.ckpt", weights_only=True)["state_dict"]
    first = json.loads(Path(tmp_path / "er" / "run.json").read_text())["experiences"][0]
    assert first["exemplars"] == 4
    assert (head - old["heads.layers.0.weight"]).abs().max() > 0
