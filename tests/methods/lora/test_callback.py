import copy
import pickle
import sys

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import EWC, Distillation, LoRA, MetaTune, TrainOnly, WeightFusion
from lit_continual.cli import main
from lit_continual.methods.lora.adapters import Adapters
from lit_continual.modules import MAML

RANK, ALPHA = 2, 6.0


class Foreign(LightningModule):
    """Somebody's segmenter in 2D or 3D, with what cannot be adapted too."""

    def __init__(self, dims=2):
        super().__init__()
        torch.manual_seed(0)
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        first, second = convolution(1, 4, 3, padding=1), convolution(4, 6, 1)
        grouped = convolution(6, 6, 3, padding=1, groups=2)
        self.body = nn.Sequential(first, norm(4), nn.ReLU(), second, nn.ReLU(), grouped)
        self.heads = nn.ModuleList([convolution(6, 2, 1)])

    def forward(self, image):
        return torch.cat([head(self.body(image)) for head in self.heads], 1)

    def training_step(self, batch, batch_idx):
        return sum(cross_entropy(logits, batch[1]) for logits in self(batch[0]).split(2, 1))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def images(dims=2):
    return torch.randn(8, 1, *[6] * dims, generator=torch.Generator().manual_seed(1))


def batches(dims=2):
    return DataLoader(TensorDataset(images(dims), (images(dims)[:, 0] > 0.5).long()), batch_size=4)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


class Look(LambdaCallback):
    """What the module answers and holds when training has ended, before anything is merged."""

    def __init__(self, dims=2):
        super().__init__(on_train_end=self.look)
        self.dims = dims

    def look(self, trainer, pl_module):
        self.held = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        with torch.no_grad():
            self.answer = pl_module.eval()(images(self.dims))
        pl_module.train()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}],
    ids=["plain", "accumulated", "bf16"],
)
def test_the_merged_network_is_the_adapted_one_and_moved_by_matrices_of_the_rank(trainer, dims, options):
    module, look = Foreign(dims), Look(dims)
    before, layers = state(module), dict(module.named_modules())
    callback = LoRA(RANK, ALPHA, parts=["heads"])
    trainer(callbacks=[callback, look], max_epochs=3, **options).fit(module, batches(dims))
    assert_close(module.eval()(images(dims)), look.answer, rtol=1e-4, atol=1e-5)
    assert dict(module.named_modules()) == layers
    adapted = {"body.0", "body.3"}
    for layer in adapted:
        assert torch.equal(look.held[f"{layer}.base_layer.weight"], before[f"{layer}.weight"])
        assert torch.equal(look.held[f"{layer}.base_layer.bias"], before[f"{layer}.bias"])
        update = (module.state_dict()[f"{layer}.weight"] - before[f"{layer}.weight"]).double().flatten(1)
        values = torch.linalg.svdvals(update)
        assert values[0] > 1e-3
        assert (values[RANK:] < 1e-5 * values[0]).all() or update.shape[1] <= RANK
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"heads.0.weight", "heads.0.bias", *(f"{layer}.weight" for layer in adapted)}
    assert all(p.requires_grad for p in module.parameters())


class ByHand(nn.Module):
    """The first layer of the network with two thin matrices of its own."""

    def __init__(self, layer, down):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Parameter(down.clone()), nn.Parameter(torch.zeros(layer.out_channels, len(down)))

    def forward(self, image):
        update = torch.einsum("or,ri...->oi...", self.up, self.down) * (ALPHA / RANK)
        weight, convolve = self.layer.weight + update, nn.functional.conv2d if image.ndim == 4 else nn.functional.conv3d
        return convolve(image, weight, self.layer.bias, padding=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_fit_equals_two_thin_matrices_written_by_hand(trainer, dims):
    module = Foreign(dims)
    by_hand, found = copy.deepcopy(module), []
    start = LambdaCallback(
        on_train_start=lambda t, m: found.append(m.body[0].lora_A["default"].weight.detach().clone())
    )
    callback = LoRA(RANK, ALPHA, layers=["body.0"], hold_statistics=True)
    trainer(callbacks=[callback, start], max_epochs=2).fit(module, batches(dims))
    by_hand.requires_grad_(False)
    by_hand.body[0] = ByHand(by_hand.body[0], found[0])
    by_hand.body[1].eval()
    optimizer = torch.optim.AdamW([by_hand.body[0].down, by_hand.body[0].up], lr=0.05, weight_decay=0.1)
    for _ in range(2):
        for batch in batches(dims):
            optimizer.zero_grad()
            by_hand.training_step(batch, 0).backward()
            optimizer.step()
    one = by_hand.body[0]
    expected = one.layer.weight + torch.einsum("or,ri...->oi...", one.up, one.down) * (ALPHA / RANK)
    assert_close(module.body[0].weight, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module.body[0].weight, one.layer.weight, atol=1e-3)


def test_checkpoints_of_a_fit_and_pickles_are_of_the_plain_module(trainer, tmp_path):
    module, look, pickled = Foreign(), Look(), []
    save = ModelCheckpoint(tmp_path, "{epoch}")
    pickle_it = LambdaCallback(on_train_end=lambda t, m: pickled.append(pickle.dumps(m.body)))
    options = {"enable_checkpointing": True, "max_epochs": 2}
    trainer(callbacks=[LoRA(RANK), save, look, pickle_it], **options).fit(module, batches())
    plain = Foreign()
    plain.load_state_dict(torch.load(save.best_model_path, weights_only=True)["state_dict"])
    assert_close(plain.eval()(images()), look.answer, rtol=1e-4, atol=1e-5)
    plain.body = pickle.loads(pickled[0])
    assert [type(layer) for layer in plain.body] == [type(layer) for layer in module.body]
    assert_close(plain.body.state_dict(), module.body.state_dict(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_a_fit_behind_others_is_resumed_and_new_heads_are_trained(trainer, tmp_path):
    def fit(module, callback, **options):
        save = ModelCheckpoint(tmp_path / "c", "{epoch}", save_top_k=-1)
        fitted = trainer(callbacks=[callback, save], enable_checkpointing=True, max_epochs=3)
        fitted.fit(module, batches(), weights_only=True, **options)

    module, callback, resumed = Foreign(), LoRA(RANK, after=1), Foreign()
    trainer(callbacks=callback).fit(module, batches())
    before = state(module)
    for one in (module, resumed):
        one.heads.append(nn.Conv2d(6, 2, 1))
    new = state(module.heads[1])
    fit(module, callback)
    found = module.heads[1].state_dict()  # with its bias, which an adapter has not
    assert not any(torch.equal(value, new[name]) for name, value in found.items())
    assert torch.equal(module.heads[0].bias, before["heads.0.bias"])
    assert torch.equal(module.body[1].weight, before["body.1.weight"])
    again = LoRA(RANK, after=1)
    fit(resumed, again, ckpt_path=tmp_path / "c" / "epoch=0.ckpt")
    assert_close(state(resumed), state(module), rtol=0, atol=0)
    assert again.state_dict()["adapters"] == {}


def test_weights_that_are_loaded_during_a_fit_are_what_it_answers_by(trainer):
    other, found = Foreign(), []
    for p in other.parameters():
        p.data += 1

    def load(trainer, pl_module):
        pl_module.load_state_dict(other.state_dict())
        found.append(pl_module.eval()(images()))
        pl_module.train()

    module = Foreign()
    trainer(callbacks=[LoRA(RANK), LambdaCallback(on_train_end=load)]).fit(module, batches())
    assert_close(found[0], other.eval()(images()), rtol=0, atol=0)


class TwoNames(Foreign):
    def __init__(self):
        super().__init__()
        self.stem = self.body[0]  # as backbones are shared by others


def test_a_layer_with_two_names_has_one_adapter(trainer):
    module, seen = TwoNames(), []
    watch = LambdaCallback(on_train_start=lambda t, m: seen.append((m.stem, m.body[0])))
    trainer(callbacks=[LoRA(RANK), watch]).fit(module, batches())
    assert seen[0][0] is seen[0][1]
    assert module.stem is module.body[0]
    assert type(module.stem) is nn.Conv2d


def test_distillation_has_a_plain_teacher(trainer):
    module, callback = Foreign(), Distillation(teacher="start", heads=[[0, 1]])
    before, seen = state(module), []
    look = LambdaCallback(on_train_end=lambda *_: seen.append(state(callback._teacher.module)))
    trainer(callbacks=[LoRA(RANK), callback, look]).fit(module, batches())
    assert_close(seen[0], before, rtol=0, atol=0)


def test_what_cannot_be_is_refused_and_leaves_the_module_as_it_was(trainer, monkeypatch):
    for arguments, message in (
        ({"rank": 0}, "`rank` must be 1 or more and `alpha` positive, got 0 and 16.0"),
        ({"alpha": -1.0}, "`rank` must be 1 or more and `alpha` positive, got 8 and -1.0"),
        ({"layers": "body"}, "`layers` and `parts` must be lists of names, got 'body'"),
    ):
        with pytest.raises(ValueError, match=message):
            LoRA(**arguments)
    for arguments, message in (
        ({"layers": ["bodi"]}, "has no linear layer or plain convolution in `bodi`.* body"),
        ({"layers": ["body.5"]}, r"no linear layer or plain convolution in `body\.5`"),
        ({"parts": ["hed"]}, "has nothing to train called `hed`.* heads"),
    ):
        module = Foreign()
        with pytest.raises(ValueError, match=message):
            trainer(callbacks=LoRA(**arguments)).fit(module, batches())
        assert {type(layer).__module__.split(".")[0] for layer in module.body} == {"torch"}
    for other in (TrainOnly(["heads"]), WeightFusion(), EWC(), MetaTune(MAML()), EMAWeightAveraging()):
        with pytest.raises(MisconfigurationException, match=f"`{type(other).__name__}` knows weights by their names"):
            trainer(callbacks=[LoRA(), other]).fit(Foreign(), batches())
    plain = trainer()
    plain.fit(Foreign(), batches())
    plain.save_checkpoint(path := plain.default_root_dir + "/plain.ckpt")
    with pytest.raises(MisconfigurationException, match="has no adapters, so a fit with `LoRA` cannot go on from it"):
        trainer(callbacks=LoRA(), max_epochs=2).fit(Foreign(), batches(), ckpt_path=path, weights_only=True)
    compiled = Foreign()
    compiled.body = torch.compile(compiled.body, backend="eager")
    with pytest.raises(MisconfigurationException, match="`LoRA` needs hooks on layers"):
        trainer(callbacks=LoRA()).fit(compiled, batches())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MisconfigurationException, match=r"run `pip install lit-continual\[lora\]`"):
        LoRA()


class Tied(Foreign):
    """Whose last two layers have one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.other.weight = self.one.weight

    def forward(self, image):
        return self.other(self.one(super().forward(image)))


def test_layers_that_share_a_weight_are_left_as_they_are(trainer):
    module, look = Tied(), Look()
    trainer(callbacks=[LoRA(RANK), look]).fit(module, batches())
    assert all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        assert_close(module.eval()(images()), look.answer)


def test_a_stream_has_checkpoints_of_the_plain_network(stream, tmp_path):
    config = stream({"class_path": "LoRA", "init_args": {"rank": 1, "after": 1}})
    main(["fit", "--config", config])
    first, second = (
        torch.load(tmp_path / f"run/experiences/{name}/model.ckpt", weights_only=True) for name in ("0_ball", "1_box")
    )
    old, new = first["state_dict"], second["state_dict"]
    assert list(new)[: len(old)] == list(old)
    assert set(new) - set(old) == {"heads.layers.1.weight", "heads.layers.1.bias"}
    moved = {name for name, value in old.items() if not torch.equal(new[name], value)}
    assert moved
    for name in moved:
        values = torch.linalg.svdvals((new[name] - old[name]).double().flatten(1))
        assert (values[1:] < 1e-5 * values[0]).all()
    assert second["callbacks"]["LoRA[]"]["adapters"] == {}


LAYERS = {
    "2D": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "same": lambda: nn.Conv2d(3, 5, (3, 5), padding="same", bias=False),
    "3D": lambda: nn.Conv3d(3, 4, 3, stride=2, padding=1),
    "flat": lambda: nn.Conv3d(3, 4, (1, 1, 3), padding=(0, 0, 1)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_one_convolution_answers_as_the_three_of_peft(kind):
    torch.manual_seed(0)
    module = nn.Sequential(LAYERS[kind]())
    adapters = Adapters(module, {"0": module[0]}, rank=2, alpha=4)
    nn.init.normal_(module[0].lora_B["default"].weight)  # which is 0 in the beginning
    image, learnt = torch.randn(2, 3, *[6] * (module[0].base_layer.weight.ndim - 2)), [*module[0].lora_A.parameters()]
    learnt += module[0].lora_B.parameters()
    with CountedConvolutions() as calls:
        ours = module(image)
    theirs = type(module[0]).forward(module[0], image)
    assert calls.count == 1
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(answer.square().sum(), learnt) for answer in (ours, theirs)]
    assert_close(*gradients, rtol=1e-4, atol=1e-3)
    adapters.merge()
    assert_close(module(image), theirs, rtol=1e-5, atol=1e-5)


class CountedConvolutions(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket is torch.ops.aten.convolution
        return function(*args, **(kwargs or {}))
