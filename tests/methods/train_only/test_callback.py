import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import TrainOnly


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(c, d, 3), nn.BatchNorm2d(d)) for c, d in ((1, 3), (3, 3), (3, 1))]
        self.net = nn.Sequential(*blocks)

    def training_step(self, batch):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


@pytest.fixture
def module():
    seed_everything(0)
    return Module()


@pytest.fixture
def loader():
    return DataLoader(TensorDataset(torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(0))), batch_size=2)


@pytest.fixture
def trainer(tmp_path):
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return partial(Trainer, default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False, **quiet)


def moved(module, before):
    after = module.net.state_dict()
    return {name.partition(".")[0] for name, value in before.items() if not torch.equal(after[name], value)}


def test_only_the_named_parts_move(module, loader, trainer):
    before = copy.deepcopy(module.net.state_dict())
    fitting = trainer(callbacks=TrainOnly(["1", "2.0.weight"], network="net"), max_epochs=3)
    fitting.fit(module, loader)
    assert moved(module, before) == {"1", "2"}
    assert torch.equal(module.net[2][0].bias, before["2.0.bias"])
    assert torch.equal(module.net[2][1].running_mean, before["2.1.running_mean"])
    sizes = {n: p.numel() for n, p in module.net.named_parameters()}
    free = sum(size for n, size in sizes.items() if n.startswith("1.") or n == "2.0.weight")
    assert fitting.callback_metrics["train/free_share"] == pytest.approx(free / sum(sizes.values()))


def test_a_part_is_a_whole_name_and_no_beginning_of_one():
    network = nn.ModuleDict({"up": nn.Linear(1, 1), "upper": nn.Linear(1, 1)})
    masks = TrainOnly(["up"]).choose_masks(network, Module(), set())
    assert {name for name, free in masks.items() if free} == {"up.weight", "up.bias"}


class FirstFrozen(Module):
    """The first block frozen in the ordinary way, in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def training_step(self, batch):
        self.net[0].eval()
        return super().training_step(batch)


def test_with_held_statistics_a_held_block_trains_as_it_is_evaluated(module, loader, trainer):
    trainer().fit(module, loader)  # gives it statistics
    frozen = FirstFrozen()
    frozen.load_state_dict(module.state_dict())
    trainer(max_epochs=2).fit(frozen, loader)
    callback = TrainOnly(["1", "2"], network="net", hold_statistics=True)
    trainer(callbacks=callback, max_epochs=2).fit(module, loader)
    torch.testing.assert_close(dict(module.state_dict()), dict(frozen.state_dict()))
    assert all(layer.training for layer in module.train().modules())
    followed = copy.deepcopy(module)
    trainer(callbacks=TrainOnly(["1", "2"], network="net")).fit(followed, loader)
    trainer(callbacks=callback).fit(module, loader)
    assert not torch.equal(followed.net[1][0].weight, module.net[1][0].weight)


def test_the_first_fits_are_left_alone_and_new_layers_are_trained(module, loader, trainer):
    callback, before = TrainOnly(["net.2"], after=1), copy.deepcopy(module.net.state_dict())
    trainer(callbacks=callback).fit(module, loader)
    assert moved(module, before) == {"0", "1", "2"}
    module.net.append(nn.Conv2d(1, 1, 1))
    before = copy.deepcopy(module.net.state_dict())
    trainer(callbacks=callback).fit(module, loader)
    assert moved(module, before) == {"2", "3"}


def test_without_a_name_what_is_new_is_trained(module, loader, trainer):
    callback = TrainOnly(after=1, hold_statistics=True)
    trainer(callbacks=callback).fit(module, loader)
    before = copy.deepcopy(module.net.state_dict())
    module.net.append(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    trainer(callbacks=callback, max_epochs=2).fit(module, loader)
    assert moved(module, before) == set()
    assert module.net[3][1].num_batches_tracked == 6
    assert (module.net[3][0].weight.grad != 0).all()
    with pytest.warns(UserWarning, match=r"frees no parameter .* or set `after` to the fits that train all"):
        trainer(callbacks=TrainOnly()).fit(module, loader)


def test_bad_input(module, loader, trainer):
    with pytest.raises(ValueError, match="`parts` must be a list of names, got 'net'"):
        TrainOnly("net")
    with pytest.raises(ValueError, match=r"`Module` has nothing to train called `nett`. It has net\."):
        trainer(callbacks=TrainOnly(["nett"])).fit(module, loader)
    with pytest.raises(ValueError, match="`after` must not be negative, got -1"):
        TrainOnly(["net"], after=-1)
