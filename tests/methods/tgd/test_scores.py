import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.functional import mse_loss
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import LossTerm, TargetedGradientDescent
from lit_continual.methods.tgd.channel_importance import channel_importance, ranks
from lit_continual.methods.tgd.producers import find_producers

MEASURED = ["fisher", "activation_gradient"]


@pytest.fixture
def trainer(tmp_path):
    options = {"default_root_dir": tmp_path, "max_epochs": 1, "accelerator": "cpu", "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lambda **given: Trainer(**{**options, **quiet, **given})


class Module(LightningModule):
    """Any network under half of the squared error; by default it stays where it is."""

    def __init__(self, net, lr=0.0):
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        return 0.5 * mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1, bias=False))


def numbers(count=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, count, 1, 1, 1, generator=generator)


def data(x, y, **options):
    return DataLoader(TensorDataset(x, y), **{"batch_size": 3, **options})


class Huge(LossTerm):
    """A term of somebody else, which has no part in what the data say."""

    name = "huge"

    def compute(self, pl_module, batch, outputs):
        return 1e3 * sum(p.square().sum() for p in pl_module.parameters())


WAYS = {
    "one by one": ({"batch_size": 1}, lambda: {}),
    "all at once": ({"batch_size": 7}, lambda: {}),
    "dropped": ({"batch_size": 2, "shuffle": True, "drop_last": True}, lambda: {"max_epochs": 2}),
    "accumulated": ({}, lambda: {"accumulate_grad_batches": 3, "gradient_clip_val": 1e-3}),
    "bf16": ({}, lambda: {"precision": "bf16-mixed"}),
    "scaled": ({}, lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))}),
    "another term": ({}, lambda: {"callbacks": [Huge()]}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("score", MEASURED)
def test_what_is_measured_has_a_closed_form_whatever_training_is_like(trainer, score, way):
    """Of y = sum(w_c u_c x) and half of the squared error, the gradient by w_c is (y - t) u_c x."""
    (x, t), net, (loading, options) = numbers(), linear(), WAYS[way]
    u, w = (layer.weight.detach().flatten() for layer in net)
    off = (x.flatten() * (w @ u) - t.flatten())[:, None]
    gradient = off * u * x.flatten()[:, None]
    expected = (gradient.square() if score == "fisher" else (w * gradient).abs()).mean(0)
    callback, given = TargetedGradientDescent(share=0.3, score=score, after=1), options()
    given["callbacks"] = [*given.get("callbacks", []), callback]
    trainer(**given).fit(Module(net), data(x, t, **loading))
    assert_close(callback.channels.importance["net.1.weight"], expected / expected.max(), rtol=1e-4, atol=1e-6)


class Net(nn.Module):
    """A residual sum, a concatenation, a transposed convolution, and a channel that two convolutions read."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.up = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose2d(6, 4, 3, padding=1)
        self.last = nn.Conv2d(10, 1, 3, padding=1)
        self.read = None

    def forward(self, x):
        y = torch.relu(self.norm(self.reads("a", x)))
        y = y + torch.relu(self.reads("b", y))
        return self.reads("last", torch.cat([torch.relu(self.reads("up", y)), y], 1))

    def reads(self, name, x):
        if self.read is None:
            return getattr(self, name)(x)
        self.read[name] = (x * 1.0).requires_grad_()  # what this convolution reads, and no other
        self.read[name].retain_grad()
        return getattr(self, name)(self.read[name])


def images():
    return torch.randn(2, 10, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("score", MEASURED)
def test_the_gradient_of_the_kernels_says_what_the_activations_say(trainer, net, score):
    callback, (x, t) = TargetedGradientDescent(share=0.3, score=score, after=1, network="net"), images()
    module = Module(net)
    trainer(callbacks=callback).fit(module, data(x, t))
    total = dict.fromkeys(("b", "up", "last"), 0.0)
    module.eval()
    net.read = {}
    for one, truth in zip(x, t, strict=True):
        module.zero_grad()
        module.training_step((one[None], truth[None])).backward()
        for name in total:
            layer, read = getattr(net, name), net.read[name]
            if score == "fisher":
                total[name] += layer.weight.grad.square().transpose(0, int(name != "up")).flatten(1).sum(1)
            else:
                total[name] += (read * read.grad)[0].sum((1, 2)).abs()
    for name, expected in total.items():
        found = callback.channels.importance[f"{name}.weight"]
        assert_close(found, (expected / expected.max()).detach(), rtol=1e-3, atol=1e-5)


def by_rank(values):
    return torch.tensor([sum(float(other < own) for other in values.tolist()) / len(values) for own in values.tolist()])


@pytest.mark.parametrize("score", MEASURED)
def test_a_kernel_is_free_if_every_reader_ranks_it_low(trainer, net, score):
    (x, t), callback = images(), TargetedGradientDescent(0.6, score=score, after=1, network="net")
    module = Module(net, lr=0.05)
    trainer(callbacks=callback).fit(module, data(x, t))
    assert all(bool(mask.all()) for mask in callback.masks.values())  # it waits
    b, up, last = (by_rank(callback.channels.importance[f"{name}.weight"]) for name in ("b", "up", "last"))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer(callbacks=callback).fit(module, data(x, t))
    of_sum = torch.maximum(up, last[4:])
    expected = {"a": torch.maximum(b, of_sum) < 0.6, "b": of_sum < 0.6, "up": last[:4] < 0.6}
    for name, free in expected.items():
        assert torch.equal(callback.masks[f"{name}.bias"], free)
        held = before[f"{name}.bias"][~free]
        assert torch.equal(net.state_dict()[f"{name}.bias"][~free], held)
    assert 0 < sum(int(free.sum()) for free in expected.values()) < 16
    assert not callback.masks["last.weight"].any()


def test_the_largest_of_all_fits_counts(trainer):
    x, t = numbers()
    net, callback = linear(), TargetedGradientDescent(share=0.0, score="fisher", after=1)
    found = []
    for part in (x[:3], x[3:]):
        alone = TargetedGradientDescent(share=0.0, score="fisher", after=1)
        trainer(callbacks=[alone]).fit(Module(net), data(part, t[: len(part)]))
        found.append(alone.channels.importance["net.1.weight"])
        trainer(callbacks=[callback]).fit(Module(net), data(part, t[: len(part)]))
    assert_close(callback.channels.importance["net.1.weight"], torch.maximum(*found))


@pytest.mark.parametrize("score", ["kse", *MEASURED, "random"])
def test_every_score_frees_the_share_that_is_asked_for(trainer, net, score):
    (x, t), callback = images(), TargetedGradientDescent(share=0.3, score=score, after=1, network="net")
    module = Module(net)
    for _ in range(2):
        trainer(callbacks=callback).fit(module, data(x, t))
    sizes = {name: p.numel() for name, p in net.named_parameters()}
    free = sum(sizes[name] * callback.masks[name].double().mean().item() for name in sizes) / sum(sizes.values())
    assert 0.3 <= free < 0.45  # a kernel is the least that can be added


def test_random_scores_are_those_of_the_seed(trainer):
    def masks(seed):
        torch.manual_seed(0)
        module, callback = Module(Net()), TargetedGradientDescent(0.8, score="random", seed=seed, network="net")
        trainer(callbacks=callback).fit(module, data(*images()))
        return [callback.masks[f"{name}.bias"].tolist() for name in ("a", "b", "up")]

    torch.manual_seed(5)
    one = masks(1)
    torch.manual_seed(6)
    assert masks(1) == one
    assert any(masks(seed) != one for seed in (2, 3))


def test_kse_is_what_no_score_was(trainer, net):
    callback = TargetedGradientDescent(0.7, network="net", score="kse")
    trainer(callbacks=callback).fit(Module(net), data(*images()))
    assert callback.channels is None
    assert not {"score", "importance"} & callback.state_dict().keys()


@pytest.mark.parametrize("score", MEASURED)
def test_channels_that_matter_more_are_kept_at_the_same_share(trainer, score):
    """The old data ask for two of six channels; a random choice would often free one of them."""
    net = nn.Sequential(nn.Conv2d(1, 6, 1, bias=False), nn.Conv2d(6, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1e-3, 2.0, 1e-3, 1e-3, -2.0, 1e-3]).view(6, 1, 1, 1))
        net[1].weight.copy_(torch.tensor([1e-3, 1.0, 1e-3, 1e-3, 1.5, 1e-3]).view(1, 6, 1, 1))
    callback, (x, t) = TargetedGradientDescent(share=0.25, score=score, after=1), numbers()
    for _ in range(2):
        trainer(callbacks=callback).fit(Module(net), data(x, t))
    free = callback.masks["net.0.weight"].flatten()
    assert free.sum() == 4  # which matter the same
    assert not free[[1, 4]].any()


def test_errors(trainer, net):
    with pytest.raises(ValueError, match="`score` must be one of kse, fisher, activation_gradient, random, got 'snip'"):
        TargetedGradientDescent(score="snip")
    with pytest.raises(ValueError, match="`samples` must be positive, or None for all training samples, got 0"):
        TargetedGradientDescent(score="fisher", samples=0)
    with pytest.raises(
        MisconfigurationException, match=r"nothing is known of `a.weight` yet. Set `after: 1`, or start"
    ):
        trainer(callbacks=TargetedGradientDescent(score="fisher", network="net")).fit(Module(net), data(*images()))
    module = Module(net)
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"asks `training_step`, which under manual optimization"):
        trainer(callbacks=TargetedGradientDescent(score="fisher", after=1)).fit(module, data(*images()))


def test_what_another_score_has_left_is_not_taken(trainer, net):
    callback = TargetedGradientDescent(score="fisher", after=1, network="net")
    trainer(callbacks=callback).fit(Module(net), data(*images()))
    again = TargetedGradientDescent(score="activation_gradient", network="net")
    again.load_state_dict(callback.state_dict())
    with pytest.raises(MisconfigurationException, match="`score='activation_gradient'` is measured when a fit"):
        trainer(callbacks=again).fit(Module(net), data(*images()))


def test_transposed_kernels_lie_along_the_other_axis():
    weight, gradient = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    for score in MEASURED:
        found = channel_importance(weight, gradient, score, transposed=True)
        assert_close(found, channel_importance(weight.transpose(0, 1), gradient.transpose(0, 1), score))
        assert found.shape == (5,)


def test_ranks_of_equal_and_of_dead_channels():
    assert ranks(torch.tensor([2.0, 0.0, 2.0, 5.0])).tolist() == [0.25, 0.0, 0.25, 0.75]
    assert ranks(torch.full((3,), 0.1)).tolist() == [1, 1, 1]
    assert ranks(torch.zeros(3)).tolist() == [0, 0, 0]


SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from lit_continual.callbacks import TargetedGradientDescent
from tests.methods.tgd.test_scores import Module, Net, images

if __name__ == "__main__":
    folder, devices = sys.argv[1], int(sys.argv[2])
    for score in ("fisher", "activation_gradient", "random"):
        torch.manual_seed(0)
        module, callback = Module(Net()), TargetedGradientDescent(share=0.3, score=score, after=1, network="net")
        module.net.norm.momentum = 0.0  # running statistics are those of a process
        for _ in range(2):
            trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
                              max_epochs=1, callbacks=callback, logger=False, enable_checkpointing=False,
                              enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)
            trainer.fit(module, DataLoader(TensorDataset(*images()), batch_size=2))
        torch.save(callback.state_dict(), f"{folder}/{score}-{devices}-{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": str(Path(sys.executable).parent)}
    for devices in ("1", "2"):
        command = [sys.executable, tmp_path / "script.py", tmp_path, devices]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=1800)
    load = partial(torch.load, weights_only=True)
    for score in ("fisher", "activation_gradient", "random"):
        alone, *ranks_of = (load(tmp_path / f"{score}-{place}.pt") for place in ("1-0", "2-0", "2-1"))
        for state in ranks_of:
            assert state["phi"] == alone["phi"]
            assert all(torch.equal(mask, alone["masks"][name]) for name, mask in state["masks"].items())
            for name, value in state.get("importance", {}).items():
                assert_close(value, alone["importance"][name], rtol=1e-4, atol=1e-6)
                assert torch.equal(value, ranks_of[0]["importance"][name])


def test_what_is_measured_are_the_convolutions_that_can_be_scored(net):
    callback = TargetedGradientDescent(score="fisher", after=1, network="net")
    names = callback.channels.measured_parameters(Module(net))
    assert names == [f"net.{name}" for name in find_producers(net).layers]
