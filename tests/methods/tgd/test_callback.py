import copy
from functools import partial
from itertools import product
from math import inf, nan

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.multiprocessing import ProcessRaisedException
from torch.nn.functional import mse_loss
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import TargetedGradientDescent
from lit_continual.functional import kernel_sparsity_entropy
from tests.marks import slow_but

exact = partial(assert_close, rtol=0, atol=0)


class Net(nn.Module):
    """A chain with a residual sum and a concatenation, and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.up = nn.Conv2d(6, 6, 3, padding=1), nn.ConvTranspose2d(6, 4, 3, padding=1)
        self.last = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.norm(self.a(x)))
        y = y + torch.relu(self.b(y))
        return self.last(torch.cat([torch.relu(self.up(y)), y], 1))


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "AdamW": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "AdamW fused": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.01, weight_decay=0.1),
    "LBFGS": partial(torch.optim.LBFGS, lr=0.01, max_iter=2),
}


PAIRS = [*product(["parameter", "activation"], OPTIMIZERS)]
#: Momentum, decoupled decay, one kernel for all and a closure; all optimizers make a first update below.
FAST = [*product(["parameter"], ["SGD", "AdamW fused", "LBFGS"]), ("activation", "AdamW")]


class Module(LightningModule):
    def __init__(self, optimizer="AdamW", filled=False):
        super().__init__()
        self.net, self.optimizer, self.filled = Net(), optimizer, filled
        self.edit = None

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        return mse_loss(self(batch[0]), batch[1])

    def on_after_backward(self):
        if self.edit is not None:
            self.edit(self)

    def configure_optimizers(self):
        optimizer = OPTIMIZERS[self.optimizer](self.parameters())
        if self.filled:  # moments of earlier training, which go on moving the weights
            before = copy.deepcopy(self.state_dict())
            generator = torch.Generator().manual_seed(1)
            for _ in range(3):
                for p in self.parameters():
                    p.grad = torch.randn(p.shape, generator=generator)
                optimizer.step()
            optimizer.zero_grad()
            self.load_state_dict(before)
        return optimizer


@pytest.fixture
def module():
    seed_everything(0)
    return Module()


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20, 1, 8, 8, generator=generator), torch.randn(20, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(*data), batch_size=2)


@pytest.fixture
def trainer(tmp_path):
    options = {"default_root_dir": tmp_path, "max_epochs": 1, "accelerator": "cpu", "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return partial(Trainer, **options, **quiet)


def snapshot(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def expected_masks(net, phi):
    """The masks of `Net` written out by hand."""
    b, up = kernel_sparsity_entropy(net.b.weight), kernel_sparsity_entropy(net.up.weight, transposed=True)
    last = kernel_sparsity_entropy(net.last.weight)
    of_sum = torch.maximum(up, last[4:])  # `up` and, behind it in the concatenation, `last` read the sum
    of_a = torch.maximum(b, of_sum) < phi  # which `a` is a part of besides being read by `b`
    of_b, of_up = of_sum < phi, last[:4] < phi
    masks = {f"norm.{part}": of_a for part in ("weight", "bias", "running_mean", "running_var")}
    masks |= {"a.weight": of_a.view(-1, 1, 1, 1), "a.bias": of_a, "b.weight": of_b.view(-1, 1, 1, 1), "b.bias": of_b}
    masks |= {"up.weight": of_up.view(1, -1, 1, 1), "up.bias": of_up, "norm.num_batches_tracked": of_a.any()}
    return masks | {"last.weight": torch.tensor(False), "last.bias": torch.tensor(False)}


def check(module, before, masks):
    """Everything held is bit-identical, and everything free has moved."""
    after = module.net.state_dict()
    for name, free in masks.items():
        free, old = free.expand_as(after[name]), before[f"net.{name}"]
        assert torch.equal(after[name][~free], old[~free]), f"{name} moved"
        if free.any() and name != "a.bias":  # whose gradient is 0 before a batch norm
            assert (after[name] != old)[free].float().mean() > 0.9, f"{name} did not move"


HUGE = [1e30, inf, nan]
PHI = 0.7  # frees two to four kernels of each layer below


def test_masks_are_those_of_the_paper_through_sum_and_concatenation(module, loader, trainer):
    masks, callback = expected_masks(module.net, PHI), TargetedGradientDescent(PHI, network="net")
    trainer(callbacks=callback).fit(module, loader)
    assert callback.masks.keys() == masks.keys()
    for name, mask in masks.items():
        assert torch.equal(callback.masks[name].expand_as(module.net.state_dict()[name]),
                           mask.expand_as(module.net.state_dict()[name])), name  # fmt: skip
    counts = [int(masks[name].sum()) for name in ("a.bias", "b.bias", "up.bias")]
    assert all(0 < count < 6 for count in counts)


@pytest.mark.parametrize(("gradient", "optimizer"), slow_but(PAIRS, *FAST))
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_fifty_steps_and_a_resume_leave_what_is_held_bit_identical(loader, trainer, tmp_path, optimizer, gradient):
    seed_everything(0)
    module = Module(optimizer, filled=optimizer != "LBFGS")
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    resumed = copy.deepcopy(module)

    def fit(module, max_epochs, **options):
        callbacks = [TargetedGradientDescent(PHI, network="net", gradient=gradient),
                     ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)]  # fmt: skip
        trainer(callbacks=callbacks, max_epochs=max_epochs, enable_checkpointing=True).fit(module, loader, **options)
        check(module, before, masks)

    fit(module, 5)
    fit(resumed, 5, ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    exact(snapshot(resumed), snapshot(module))


PRECISIONS = {
    "32": lambda: {},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))},
}


#: Each value of one with each of another.
TRAININGS = [("32", 1, None), ("32", 3, 0.1), ("bf16", 1, 0.1), ("bf16", 3, None), ("fp16", 1, None), ("fp16", 3, 0.1)]


@pytest.mark.parametrize(
    ("precision", "accumulate", "clip"), slow_but(product(PRECISIONS, [1, 3], [None, 0.1]), *TRAININGS)
)
def test_holds_under_every_precision_accumulation_and_clipping(module, loader, trainer, precision, accumulate, clip):
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip, **PRECISIONS[precision]()}
    trainer(callbacks=TargetedGradientDescent(PHI), **options).fit(module, loader)
    check(module, before, masks)


@pytest.mark.parametrize(
    ("value", "algorithm"),
    slow_but(product(HUGE, ["norm", "value"]), (1e30, "value"), (inf, "norm"), (nan, "norm"), (nan, "value")),
)
def test_a_huge_gradient_on_what_is_held_changes_nothing(module, loader, trainer, value, algorithm):
    masks, plain = expected_masks(module.net, PHI), copy.deepcopy(module)

    def edit(module):
        for name, p in module.net.named_parameters():
            p.grad.masked_fill_(~masks[name], value)

    module.edit = edit
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    for one in (module, plain):
        trainer(callbacks=TargetedGradientDescent(PHI), **options).fit(one, loader)
    exact(snapshot(module), snapshot(plain))


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "LBFGS"])  # which mixes its entries
def test_the_first_update_of_what_is_free_is_the_unprotected_one(loader, trainer, optimizer):
    seed_everything(0)
    module = Module(optimizer, filled=True)
    plain, masks = copy.deepcopy(module), expected_masks(module.net, PHI)
    trainer(callbacks=TargetedGradientDescent(PHI, network="net"), max_steps=1).fit(module, loader)
    trainer(max_steps=1).fit(plain, loader)
    for name, value in module.net.named_parameters():
        free = masks[name].expand_as(value)
        assert torch.equal(value[free], plain.net.get_parameter(name)[free])


@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
@pytest.mark.parametrize(
    "average", [partial(EMAWeightAveraging, decay=0.7), partial(EMAWeightAveraging, decay=0.7, use_buffers=True),
                partial(StochasticWeightAveraging, 0.01, swa_epoch_start=1, annealing_epochs=1)]
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*(scheduler|Swapping scheduler)")
def test_averages_of_the_weights_hold_too(module, loader, trainer, average, order):
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    callbacks = [TargetedGradientDescent(PHI, network="net"), average()][::order]
    trainer(callbacks=callbacks, max_epochs=3).fit(module, loader)
    check(module, before, masks)


def test_the_forward_pass_is_unchanged(module, loader, trainer):
    x, seen = torch.randn(2, 1, 8, 8), []
    before = module(x)
    look = LambdaCallback(on_train_batch_start=lambda t, m, *_: seen.append(m(x)))
    trainer(callbacks=[TargetedGradientDescent(PHI, gradient="activation"), look], max_steps=1).fit(module, loader)
    assert torch.equal(seen[0], before)


@pytest.mark.parametrize("gradient", ["parameter", "activation"])
def test_held_channels_may_normalise_in_training_as_in_evaluation(module, loader, trainer, gradient):
    trainer(max_steps=5).fit(module, loader)  # gives it statistics
    norm, held, seen = copy.deepcopy(module.net.norm), ~expected_masks(module.net, PHI)["norm.bias"], []

    def listen(*_):
        module.net.norm.register_forward_hook(lambda layer, args, output: seen.append((args[0], output)))

    tgd = TargetedGradientDescent(PHI, gradient=gradient, hold_statistics=True)
    trainer(callbacks=[tgd, LambdaCallback(on_train_start=listen)], max_steps=4).fit(module, loader)
    assert len(seen) == 4
    for x, output in seen:
        exact(output[:, held], norm.eval()(x)[:, held])
    for part in ("running_mean", "running_var"):
        exact(getattr(module.net.norm, part)[held], getattr(norm, part)[held])
    exact(seen[0][1][:, ~held], norm.train()(seen[0][0])[:, ~held])


def test_activation_masks_are_the_layer_of_the_paper(module, loader, trainer):
    """The gradient of a network in which `y * m + (y * (1 - m)).detach()` follows each scored layer."""
    masks, plain, gradients = expected_masks(module.net, PHI), copy.deepcopy(module), {}

    def keep(trainer, pl_module, optimizer):
        gradients.update({name: p.grad.clone() for name, p in pl_module.net.named_parameters()})

    callbacks = [
        TargetedGradientDescent(PHI, network="net", gradient="activation"),
        LambdaCallback(on_before_optimizer_step=keep),
    ]
    trainer(callbacks=callbacks, max_steps=1).fit(module, loader)

    def tgd(layer, y):
        m = masks[f"{layer}.bias"].view(1, -1, 1, 1).float()
        return y * m + (y * (1 - m)).detach()

    net, batch = plain.net, next(iter(loader))
    y = torch.relu(tgd("norm", net.norm(tgd("a", net.a(batch[0])))))
    y = y + torch.relu(tgd("b", net.b(y)))
    mse_loss(net.last(torch.cat([torch.relu(tgd("up", net.up(y))), y], 1)), batch[1]).backward()
    for name, p in net.named_parameters():
        exact(gradients[name], p.grad if not name.startswith("last") else torch.zeros_like(p))
    assert any(gradients[name].any() for name in ("a.weight", "b.weight"))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_running_statistics_stand_still_also_where_a_step_has_no_loss(module, loader, trainer):
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    step = module.training_step
    module.training_step = lambda batch: step(batch) * 0 if module.global_step else [step(batch), None][1]
    trainer(callbacks=TargetedGradientDescent(PHI), max_epochs=1, limit_train_batches=3).fit(module, loader)
    held = ~masks["norm.bias"]
    for part in ("running_mean", "running_var"):
        assert torch.equal(module.net.state_dict()[f"norm.{part}"][held], before[f"net.norm.{part}"][held])
        assert not torch.equal(module.net.state_dict()[f"norm.{part}"][~held], before[f"net.norm.{part}"][~held])


def test_the_next_fit_scores_anew_and_is_free_to_move_what_was_held(module, loader, trainer):
    callback = TargetedGradientDescent(PHI, network="net")
    trainer(callbacks=callback, max_epochs=3).fit(module, loader)
    first = copy.deepcopy(callback.masks)
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    following = TargetedGradientDescent(PHI, network="net")
    following.load_state_dict(copy.deepcopy(callback.state_dict()))
    trainer(callbacks=following, max_epochs=3).fit(module, loader)
    check(module, before, masks)
    assert any(not torch.equal(first[name], following.masks[name]) for name in first)


def test_a_head_that_has_grown_since_is_free_and_judges_nobody(module, loader, trainer):
    callback = TargetedGradientDescent(PHI, network="net")
    trainer(callbacks=callback).fit(module, loader)
    net = module.net
    net.second = nn.Conv2d(10, 1, 1)
    body = net.forward
    net.last.register_forward_hook(lambda layer, args, output: output + net.second(args[0]))
    before, masks = snapshot(module), expected_masks(net, PHI)
    trainer(callbacks=callback).fit(module, loader)
    assert body == net.forward
    check(module, before, {**masks, "second.weight": torch.tensor(True), "second.bias": torch.tensor(True)})


def test_leaves_the_first_fits_alone_if_told_to(module, loader, trainer):
    plain, callback = copy.deepcopy(module), TargetedGradientDescent(PHI, network="net", after=1)
    trainer().fit(plain, loader)
    first = trainer(callbacks=callback)
    first.fit(module, loader)
    exact(snapshot(module), snapshot(plain))
    assert first.callback_metrics["train/free_share"] == 1
    before, masks = snapshot(module), expected_masks(module.net, PHI)
    trainer(callbacks=callback).fit(module, loader)
    check(module, before, masks)


def test_logs_the_share_that_is_free(module, loader, trainer):
    masks = expected_masks(module.net, PHI)
    fitting = trainer(callbacks=TargetedGradientDescent(PHI))
    fitting.fit(module, loader)
    free = sum(int(masks[name].expand_as(p).sum()) for name, p in module.net.named_parameters())
    assert fitting.callback_metrics["train/free_share"] == pytest.approx(
        free / sum(p.numel() for p in module.parameters())
    )


def test_frees_the_share_asked_for(module, loader, trainer):
    callback = TargetedGradientDescent(share=0.3)
    fitting = trainer(callbacks=callback)
    fitting.fit(module, loader)
    assert 0.3 <= fitting.callback_metrics["train/free_share"] < 0.6
    assert 0 < callback.phi < 1


@pytest.mark.parametrize("phi", [0.0, 1.0])
def test_the_ends_of_phi(module, loader, trainer, phi):
    before = snapshot(module)
    trainer(callbacks=TargetedGradientDescent(phi)).fit(module, loader)
    same = {name for name, value in snapshot(module).items() if torch.equal(value, before[name])}
    assert same == (set(before) if phi == 0 else {"net.last.weight", "net.last.bias"})


class Manual(Module):
    """Two optimizers by hand, clipping before each step."""

    automatic_optimization = False

    def training_step(self, batch):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(mse_loss(self(batch[0]), batch[1]))
            if self.edit is not None:
                self.edit_gradients()
            self.clip_gradients(optimizer, 0.01, "norm")
            optimizer.step()

    def configure_optimizers(self):
        parts = [list(self.net.a.parameters()) + list(self.net.b.parameters()), list(self.net.up.parameters())]
        return [torch.optim.AdamW(part, lr=0.01, weight_decay=0.1) for part in parts]


def test_manual_optimization_with_two_optimizers(loader, trainer):
    seed_everything(0)
    module = Manual()
    module.automatic_optimization = False
    before, masks, norms = snapshot(module), expected_masks(module.net, PHI), []
    look = LambdaCallback(
        on_after_backward=lambda t, m: norms.append(
            sum(p.grad[~masks[n].expand_as(p)].abs().sum() for n, p in m.net.named_parameters())
        )
    )
    trainer(callbacks=[TargetedGradientDescent(PHI, network="net"), look]).fit(module, loader)
    masks = {name: mask & (not name.startswith(("norm.weight", "norm.bias"))) for name, mask in masks.items()}
    check(module, before, masks)  # `norm` has no optimizer
    assert norms
    assert not any(norms)  # nothing that is held counts in a norm


def test_works_on_a_compiled_network(module, loader, trainer):
    eager = copy.deepcopy(module)
    module.net = torch.compile(module.net, backend="eager")
    for one in (module, eager):
        trainer(callbacks=TargetedGradientDescent(PHI, network="net")).fit(one, loader)
    assert_close(list(module.parameters()), list(eager.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phi": 1.5}, r"`phi` must lie in \[0, 1\], got 1.5"),
        ({"phi": -0.1}, r"`phi` must lie in \[0, 1\], got -0.1"),
        ({"phi": float("nan")}, r"`phi` must lie in \[0, 1\], got nan"),
        ({"share": 2}, r"`share` must lie in \[0, 1\], got 2"),
        ({"phi": 0.3, "share": 0.5}, "Give `phi` or `share`, not both: got 0.3 and 0.5"),
        ({"gradient": "both"}, "`gradient` must be 'parameter' or 'activation', got 'both'"),
        ({"after": -1}, "`after` must not be negative, got -1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        TargetedGradientDescent(**options)


def test_a_module_that_cannot_be_traced(module, loader, trainer):
    module.forward = lambda x: module.net(x) if x.sum() > -1e9 else x
    with pytest.raises(ValueError, match=r"`Module` could not be traced.*name the submodule"):
        trainer(callbacks=TargetedGradientDescent(PHI)).fit(module, loader)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_of_another_architecture(module, loader, trainer, tmp_path):
    callbacks = [TargetedGradientDescent(PHI), ModelCheckpoint(tmp_path, "{epoch}")]
    trainer(callbacks=callbacks, enable_checkpointing=True).fit(module, loader)
    other = Module()
    other.net.extra = nn.Conv2d(1, 1, 1)
    other.strict_loading = False
    with pytest.raises(ValueError, match=r"`net.extra.bias` has no mask: the masks are of another architecture"):
        trainer(callbacks=TargetedGradientDescent(PHI), max_epochs=3).fit(
            other, loader, ckpt_path=tmp_path / "epoch=0.ckpt"
        )


@pytest.mark.slow
def test_refuses_processes_that_forget(module, loader, trainer):
    with pytest.raises(ProcessRaisedException, match="`TargetedGradientDescent` keeps state"):
        trainer(callbacks=TargetedGradientDescent(PHI), strategy="ddp_spawn", devices=1).fit(module, loader)
