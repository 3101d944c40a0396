"""What partial training makes of other people's networks: names, buffers, compilers."""

import copy
import io

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import L2SP, PartialTraining, TargetedGradientDescent, TrainOnly
from lit_continual.methods.tgd.producers import find_producers


class Codebook(nn.Module):
    """A quantiser whose average moves in the forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.training:
            self.average.lerp_(x.detach().mean((0, 2, 3)), 0.5)
            self.passing += 1
        return x - self.average.view(1, -1, 1, 1)


class Foreign(LightningModule):
    """Everything beside running statistics that moves by itself; and its encoder has two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        observers = [MinMaxObserver(), PerChannelMinMaxObserver(ch_axis=1)]
        encoder = nn.Sequential(spectral_norm(nn.Conv2d(1, 4, 3, padding=1)), Codebook(), *observers)
        self.net = nn.ModuleDict({"encoder": encoder, "head": nn.Conv2d(4, 2, 1)})
        self.backbone = self.net["encoder"]
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, image):
        return self.net["head"](self.backbone(image))

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def on_train_batch_end(self, *_):
        self.seen += 1

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


@pytest.fixture
def batches():
    return DataLoader(TensorDataset(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))), batch_size=4)


def moved(before, module):
    after = module.state_dict()
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*must run observer", "ignore:.*quantization")
def test_what_is_not_named_keeps_all_buffers_that_a_checkpoint_has(trainer, batches):
    module = Foreign()
    before = copy.deepcopy(module.state_dict())
    trainer(callbacks=TrainOnly(["head"], network="net")).fit(module, batches)
    assert moved(before, module) == {"net.head.weight", "net.head.bias", "seen"}
    trainer(callbacks=TrainOnly(["net.head"])).fit(module, batches)
    assert module.seen.item() == 2
    assert module.backbone[1].passing.item() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*must run observer", "ignore:.*quantization")
@pytest.mark.parametrize("name", ["backbone", "net.encoder"])
def test_a_part_is_found_under_each_of_its_names(trainer, batches, name):
    module = Foreign()
    before = copy.deepcopy(module.state_dict())
    trainer(callbacks=TrainOnly([name])).fit(module, batches)
    assert not {"net.head.weight", "net.head.bias", "seen"} & moved(before, module)
    assert "net.encoder.0.parametrizations.weight.original" in moved(before, module)
    pull, anchors = L2SP(0.1, parameters=name, anchor="start"), []
    seen = LambdaCallback(on_train_end=lambda *_: anchors.extend(pull.state_dict()["anchor"]))
    trainer(callbacks=[pull, seen]).fit(module, batches)
    assert {key.rpartition(".")[0] for key in anchors} == {
        "net.encoder.0",
        "net.encoder.0.parametrizations.weight",
    }


class Twice(LightningModule):
    """One encoder under two names; one weight in two layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
        self.net = nn.ModuleDict({"encoder": nn.Sequential(*layers)})
        self.backbone = self.net["encoder"]
        self.tied, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.again.weight = self.tied.weight
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, image):
        return self.head(self.again(self.tied(self.backbone(image)).relu()))

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_a_submodule_with_two_names_is_traced_once_and_keeps_its_parameters(trainer, batches):
    module = Twice()
    parameters = dict(module.named_parameters())
    found = find_producers(module, module.example_input_array)
    assert dict(module.named_parameters()) == parameters
    assert module.backbone[0].weight is parameters["net.encoder.0.weight"]
    assert {"net.encoder.0.weight", "net.encoder.2.weight"} <= found.layers.keys()
    assert "tied.weight" not in found.layers  # used by two layers
    before = copy.deepcopy(module.state_dict())
    trainer(callbacks=TargetedGradientDescent(1.0)).fit(module, batches)
    assert moved(before, module) >= {"net.encoder.0.weight", "backbone.0.weight"}
    assert not moved(before, module) & {"tied.weight", "again.weight", "head.weight"}
    assert all(type(p) is nn.Parameter for p in module.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo
@pytest.mark.parametrize("compiled", ["torch.compile(module)", "module.compile()", "submodule"])
def test_a_compiled_network_is_scored_as_the_one_that_it_compiles(trainer, batches, compiled):
    eager, module = Twice(), Twice()
    trainer(callbacks=TargetedGradientDescent(share=0.04)).fit(eager, batches)
    given = module
    if compiled == "torch.compile(module)":
        given = torch.compile(module, backend="eager")
    elif compiled == "module.compile()":
        module.compile(backend="eager")
    else:
        module.tied = torch.compile(module.tied, backend="eager")
    trainer(callbacks=TargetedGradientDescent(share=0.04)).fit(given, batches)
    assert_close(list(module.parameters()), list(eager.parameters()))


class HalfOfEachNorm(PartialTraining):
    def choose_masks(self, network, pl_module, fresh):
        names = [*dict(network.named_parameters()), *dict(network.named_buffers())]
        halves = {"norm.running_mean", "norm.running_var"}
        return {name: torch.tensor([True, False] * 4) if name in halves else torch.tensor(True) for name in names}


@pytest.mark.parametrize(
    "callback", [TargetedGradientDescent(1.0, gradient="activation"), HalfOfEachNorm(hold_statistics=True)]
)
def test_hooks_that_a_compiled_network_may_not_see_are_refused(trainer, batches, callback):
    module = Twice()
    module.norm = nn.BatchNorm2d(8)
    module.compile(backend="eager")
    with pytest.raises(MisconfigurationException, match=r"compiled.*without `torch.compile`"):
        trainer(callbacks=callback).fit(module, batches)
    eager = Twice()
    eager.norm = nn.BatchNorm2d(8)
    trainer(callbacks=callback).fit(eager, batches)


def test_a_fit_that_frees_nothing_warns(trainer, batches):
    with pytest.warns(UserWarning, match=r"`TargetedGradientDescent` frees no parameter of Twice.*larger `phi`"):
        trainer(callbacks=TargetedGradientDescent(0.0)).fit(Twice(), batches)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"body": nn.ModuleDict({"stage_one": nn.ModuleDict({"conv_up": nn.Linear(2, 2)})})})


class DeepModule(Twice):
    def __init__(self):
        super().__init__()
        self.wrapped = Deep()


@pytest.mark.parametrize(
    ("callback", "error"),
    [
        (L2SP(parameters="conv_upp", anchor="start"), MisconfigurationException),
        (TrainOnly(["conv_up"]), ValueError),
    ],
)
def test_a_name_that_is_missed_lists_what_would_match_at_any_depth(trainer, batches, callback, error):
    with pytest.raises(error, match=r"at any depth are .*wrapped\.model\.body\.stage_one\.conv_up"):
        trainer(callbacks=callback).fit(DeepModule(), batches)


def test_a_module_saved_in_a_fit_has_no_hooks_that_mask(trainer, batches):
    module, saved = Twice(), []

    class Save(TargetedGradientDescent):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            super().on_train_batch_end(trainer, pl_module, *rest)
            torch.save(pl_module, file := io.BytesIO())
            saved.append(file.getvalue())

    trainer(callbacks=Save(0.9, gradient="activation")).fit(module, batches)
    loaded = torch.load(io.BytesIO(saved[-1]), weights_only=False)
    plain = Twice()
    plain.load_state_dict(loaded.state_dict())
    for one in (loaded, plain):
        one.zero_grad()
        one.training_step(next(iter(batches)), 0).backward()
    assert_close([p.grad for p in loaded.parameters()], [p.grad for p in plain.parameters()], rtol=0, atol=0)
