"""Schedules whose length is left out are as long as the fit."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.cli import main
from lit_continual.modules import Denoiser, Segmenter
from lit_continual.runs.schedule import ScheduledModule


class Line(ScheduledModule):
    """One weight, whose learning rates are written down."""

    def __init__(self, scheduler, lr=0.1):
        super().__init__()
        self.layer, self.rates = torch.nn.Linear(1, 1), []
        self.optimizer, self.scheduler = partial(torch.optim.SGD, lr=lr), scheduler

    def training_step(self, batch):
        return self.layer(batch[0]).square().mean()

    def on_train_epoch_start(self):
        self.rates.append(self.optimizers().param_groups[0]["lr"])

    on_save_checkpoint = LightningModule.on_save_checkpoint  # of no class that a file may name


@pytest.fixture
def rates(trainer):
    def fit(scheduler, **options):
        module = Line(scheduler)
        trainer(**{"max_epochs": 6, **options}).fit(module, DataLoader(TensorDataset(torch.ones(4, 1)), 1))
        return module.rates

    return fit


def by_torch(scheduler, epochs):
    """The rates of a schedule whose length is given by hand."""
    made = scheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    found = []
    for _ in range(epochs):
        found.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return found


@pytest.mark.parametrize("epochs", [1, 6, 13])
def test_a_schedule_without_a_length_ends_with_the_fit(rates, epochs):
    by_hand = by_torch(partial(OneCycleLR, max_lr=0.1, total_steps=epochs + 1), epochs)
    assert rates(partial(OneCycleLR, max_lr=0.1), max_epochs=epochs) == by_hand
    by_hand = by_torch(partial(CosineAnnealingLR, T_max=epochs), epochs)
    assert rates(partial(CosineAnnealingLR), max_epochs=epochs) == by_hand
    assert rates(CosineAnnealingLR, max_epochs=epochs) == by_hand


def test_a_length_that_is_given_is_kept(rates):
    assert rates(partial(OneCycleLR, max_lr=0.1, total_steps=20)) == by_torch(
        partial(OneCycleLR, max_lr=0.1, total_steps=20), 6
    )
    assert rates(partial(CosineAnnealingLR, T_max=3))[3] == pytest.approx(0)
    assert rates(partial(LinearLR, total_iters=2))[2:] == [0.1] * 4
    assert rates(lambda optimizer: CosineAnnealingLR(optimizer, 3))[3] == pytest.approx(0)


def test_steps_limit_a_fit_as_epochs_do(rates):
    """Four batches are two steps an epoch, so that seven steps are four epochs."""
    by_hand = by_torch(partial(CosineAnnealingLR, T_max=4), 4)
    assert rates(CosineAnnealingLR, max_epochs=-1, max_steps=7, accumulate_grad_batches=2) == by_hand
    assert rates(CosineAnnealingLR, max_epochs=100, max_steps=7, accumulate_grad_batches=2) == by_hand


class Watched(Line):
    """Its score is worse from the third epoch on."""

    def validation_step(self, batch):
        self.log("val/dice", 1.0 - 0.5 * (self.current_epoch > 1), batch_size=1)


@pytest.mark.parametrize(("every", "looks"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6])])
def test_a_plateau_is_looked_for_each_time_that_the_score_is_measured(trainer, every, looks):
    module, ones = Watched(partial(ReduceLROnPlateau, monitor="val/dice", mode="max", patience=0)), torch.ones(4, 1)
    data = DataLoader(TensorDataset(ones), 1)
    trainer(max_epochs=6, check_val_every_n_epoch=every, num_sanity_val_steps=0).fit(module, data, data)
    by_hand = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), mode="max", patience=0
    )
    for epoch in range(1, 7):
        if epoch in looks:
            by_hand.step(1.0 - 0.5 * (epoch > 2))
        if epoch < 6:
            assert module.rates[epoch] == by_hand.optimizer.param_groups[0]["lr"]


def test_a_schedule_that_cannot_be_is_refused(rates):
    with pytest.raises(ValueError, match=r"`OneCycleLR` with `total_steps: 5` ends before the 6 epochs of this fit"):
        rates(partial(OneCycleLR, max_lr=0.1, total_steps=5))
    with pytest.raises(ValueError, match=r"`CosineAnnealingLR` is as long as the fit, which has no end. Give `T_max`"):
        rates(CosineAnnealingLR, max_epochs=-1)
    with pytest.raises(ValueError, match=r"The schedule cannot be made \(.*pct_start"):
        rates(partial(OneCycleLR, max_lr=0.1, pct_start=-1.0))
    with pytest.raises(ValueError, match=r"The optimizer cannot be made \(Invalid learning rate: -1"):
        Line(None, lr=-1).rehearse(None, 1)


NO_SCORES = ["--trainer.limit_val_batches=0", "--trainer.limit_test_batches=1", "--trainer.logger=false"]
COSINE = "torch.optim.lr_scheduler.CosineAnnealingLR"


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ([f"--model.scheduler={COSINE}"], [2, 5]),
        pytest.param([f"--model.scheduler={COSINE}", "--trainer.max_epochs=4"], [4, 5], marks=pytest.mark.slow),
        ([f"--model.scheduler={{class_path: {COSINE}, init_args: {{T_max: 3}}}}", "--trainer.max_epochs=4"], [3, 3]),
        pytest.param(
            [f"--model.scheduler={COSINE}", "--model.scheduler.init_args.T_max=9"], [9, 9], marks=pytest.mark.slow
        ),
    ],
)
def test_each_fit_of_a_stream_has_its_own_length(stream, monkeypatch, options, lengths):
    found = []
    experiences = [{"name": "ball", "classes": {"ball": 1}}, {"name": "box", "classes": {"box": 2}, "max_epochs": 5}]

    def on_train_start(self):
        found.append(self.trainer.lr_scheduler_configs[0].scheduler.T_max)

    monkeypatch.setattr(Segmenter, "on_train_start", on_train_start)
    main(["fit", "--config", stream(experiences=experiences), "--trainer.limit_train_batches=1", *NO_SCORES, *options])
    assert found == lengths


def test_a_denoiser_has_the_same_schedules():
    module = Denoiser({"class_path": "DnCNN", "init_args": {"features": 4}}, scheduler=partial(OneCycleLR, max_lr=0.1))
    module.rehearse(None, 3)
    module.scheduler = partial(OneCycleLR, max_lr=0.1, total_steps=2)
    with pytest.raises(ValueError, match="ends before the 3 epochs"):
        module.rehearse(None, 3)


class Logger:
    """What a config holds beside the optimizer; a copy of it would begin a run at its tracker."""

    def __deepcopy__(self, memo):
        raise AssertionError("the logger was copied")


def test_a_copy_of_a_module_shares_what_makes_its_optimizer():
    optimizer = partial(lambda parameters, logger: torch.optim.SGD(parameters, lr=0.1), logger=Logger())
    module = Denoiser({"class_path": "DnCNN", "init_args": {"features": 4}}, optimizer=optimizer)
    copied = copy.deepcopy([module, module])
    assert copied[0] is copied[1] is not module
    assert copied[0].optimizer is optimizer
    mine, theirs = dict(module.named_parameters()), dict(copied[0].named_parameters())
    assert all(torch.equal(mine[name], theirs[name]) and mine[name] is not theirs[name] for name in mine)
    assert copied[0].hparams == module.hparams
    assert copied[0].hparams is not module.hparams
    assert {id(p) for group in copied[0].configure_optimizers().param_groups for p in group["params"]} == {
        id(p) for p in theirs.values()
    }
