"""What every public callback must do, on one small module.

A new method has one line more in `ENTRIES`, and one in `NEUTRAL` if a setting of it is plain training.
"""

import copy
import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from lit_continual import callbacks
from lit_continual.callbacks import (
    AGEM,
    EWC,
    ILT,
    L2SP,
    MAS,
    PLOP,
    SI,
    ChannelsLast,
    CompiledNetwork,
    DarkExperienceReplay,
    Distillation,
    LoRA,
    MetaTune,
    MiB,
    PartialTraining,
    PatientTuning,
    Pretrained,
    RWalk,
    TargetedGradientDescent,
    TrainOnly,
    WeightFusion,
)
from lit_continual.modules import MAML
from tests.marks import slow_but

pytestmark = [  # of first fits, and of fits without a memory
    pytest.mark.filterwarnings("ignore:.* has no old network"),
    pytest.mark.filterwarnings("ignore:.* met no exemplar"),
]

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "own_method.md"


class Small(LightningModule):
    """A segmenter with all that a method can get wrong: batch normalisation, dropout, momentum, a mapping as output."""

    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.encoder = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(4, 3, 1))
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, image):
        return self.head(self.encoder(image))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}

    def predict_step(self, batch):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def small():
    torch.manual_seed(0)
    return Small()


def batches():
    image = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(image, (image[:, 0] > 0).long()), batch_size=4)


class NoBias(PartialTraining):
    """The least that a subclass can be: biases are held."""

    def choose_masks(self, network, pl_module, fresh):
        values = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return {name: torch.tensor(not name.endswith("bias")) for name in values}


def of_the_tutorial(folder):
    page = TUTORIAL.read_text(encoding="utf-8")
    source = re.search(r'^```python title="my_project.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    exec(compile(source[1], str(TUTORIAL), "exec"), known := {"__name__": "my_project"})
    return known["FeatureDistillation"]("encoder")


def of_a_file(folder):
    torch.save(small().state_dict(), folder / "weights.pt")
    return Pretrained(str(folder / "weights.pt"))


# Name of the class, and behind a space which of its ways -> a fresh callback, which may write to a folder.
ENTRIES = {
    "AGEM": lambda folder: AGEM([(image, 1 - label) for image, label in batches().dataset], batch_size=3),
    "ChannelsLast": lambda folder: ChannelsLast(),
    "CompiledNetwork": lambda folder: CompiledNetwork(backend="eager"),
    "DarkExperienceReplay": lambda folder: DarkExperienceReplay(),
    "Distillation": lambda folder: Distillation(),
    "Distillation start": lambda folder: Distillation(teacher="start"),
    "EWC given": lambda folder: EWC(30.0),
    "EWC sampled": lambda folder: EWC(300.0, labels="sampled", mode="online", decay=0.9),
    "ILT": lambda folder: ILT(),
    "L2SP explicit": lambda folder: L2SP(0.7),
    "L2SP proximal": lambda folder: L2SP(0.7, step="proximal", anchor="last_fit", hold_statistics=True),
    "LoRA": lambda folder: LoRA(rank=2, parts=["head"]),
    "LossTerm": of_the_tutorial,
    "MAS": lambda folder: MAS(5.0, decay=0.5),
    "MetaTune": lambda folder: MetaTune(MAML(inner_lr=0.05), learn_inner_lr=True),
    "MiB": lambda folder: MiB(),
    "MiB start": lambda folder: MiB(teacher="start"),
    "PLOP": lambda folder: PLOP(),
    "PLOP start": lambda folder: PLOP(layers=["encoder.2", "encoder"], teacher="start"),
    "PartialTraining": lambda folder: NoBias(),
    "PatientTuning": lambda folder: PatientTuning(),
    "Pretrained": of_a_file,
    "RWalk": lambda folder: RWalk(0.5, every=3),
    "SI": lambda folder: SI(5.0),
    "TargetedGradientDescent parameter": lambda folder: TargetedGradientDescent(0.7),
    "TargetedGradientDescent activation": lambda folder: TargetedGradientDescent(
        share=0.5, gradient="activation", hold_statistics=True
    ),
    "TargetedGradientDescent fisher": lambda folder: TargetedGradientDescent(share=0.3, score="fisher", after=1),
    "TargetedGradientDescent random": lambda folder: TargetedGradientDescent(
        share=0.3, score="random", hold_statistics=True
    ),
    "TrainOnly": lambda folder: TrainOnly(["head"], hold_statistics=True),
    "TrainOnly new": lambda folder: TrainOnly(after=1, hold_statistics=True),
    "WeightFusion": lambda folder: WeightFusion(0.3),
    "WeightFusion start": lambda folder: WeightFusion(0.6, old="start"),
}
# Of the ways of one class the first, and those that compute otherwise; the rest are slow.
FAST = [name for name in ENTRIES if len(name.split()) == 1]
FAST += ["Distillation start", "EWC given", "L2SP explicit", "L2SP proximal", "TargetedGradientDescent parameter"]
FAST += ["TargetedGradientDescent activation"]
# What must be plain training, bit for bit, in a first fit.
NEUTRAL = {
    "AGEM without a past": lambda folder: AGEM(),
    "CompiledNetwork": lambda folder: CompiledNetwork(backend="eager"),
    "DarkExperienceReplay": lambda folder: DarkExperienceReplay(teacher="start"),  # without exemplars
    "Distillation alpha 1": lambda folder: Distillation(alpha=1.0, teacher="start"),
    "Distillation without a teacher": lambda folder: Distillation(),
    "EWC": lambda folder: EWC(),
    "ILT weight 0": lambda folder: ILT(loss_de=0.0, teacher="start"),
    "ILT without a teacher": lambda folder: ILT(),
    "L2SP explicit": lambda folder: L2SP(0.0),
    "L2SP proximal": lambda folder: L2SP(0.0, step="proximal"),
    "LoRA": lambda folder: LoRA(after=1),
    "LossTerm without a term": of_the_tutorial,
    "MAS": lambda folder: MAS(),
    "MetaTune": lambda folder: MetaTune(MAML(), after=1),
    "MiB without a teacher": lambda folder: MiB(),
    "PLOP without a teacher": lambda folder: PLOP(),
    "PatientTuning": lambda folder: PatientTuning(),
    "Pretrained": of_a_file,  # which has the weights that the module begins with
    "RWalk": lambda folder: RWalk(),
    "SI": lambda folder: SI(),
    "TargetedGradientDescent": lambda folder: TargetedGradientDescent(after=1),
    "TrainOnly": lambda folder: TrainOnly(["encoder", "head"]),
    "WeightFusion": lambda folder: WeightFusion(1.0, old="start"),
    "WeightFusion without an old network": lambda folder: WeightFusion(0.3),
}


def test_every_public_callback_has_an_entry():
    found = {name for name, thing in vars(callbacks).items() if isinstance(thing, type) and issubclass(thing, Callback)}
    assert {entry.split()[0] for entry in ENTRIES} == found


@pytest.fixture(params=slow_but(ENTRIES, *FAST))
def make(request, tmp_path):
    with torch.compiler.set_stance("force_eager"):  # tracing takes longer than all fits; a neutral fit is traced
        yield lambda: ENTRIES[request.param](tmp_path)


def _loader(callbacks):
    """Batches, or where MetaTune is at work lists of pairs of them."""
    pairs = any(isinstance(callback, MetaTune) and not callback.after for callback in callbacks)
    return DataLoader([[tuple(batches())]] * 2, batch_size=None) if pairs else batches()


def fit(trainer, module, *callbacks, seed=0, **options):
    """Train with the same random numbers in each batch, wherever a fit begins; return the trainer."""
    seeded = LambdaCallback(on_train_batch_start=lambda t, m, b, i: torch.manual_seed(100 * t.current_epoch + i))
    resume = {key: options.pop(key) for key in ("ckpt_path", "weights_only") if key in options}
    fitted = trainer(callbacks=[*callbacks, seeded], **options)
    fitted.fit(module, _loader(callbacks), **resume)
    return fitted


def exact(module, other):
    assert_close(dict(module.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_setting_is_plain_training(name, trainer, tmp_path):
    module, plain = small(), small()
    fit(trainer, plain)
    fit(trainer, module, NEUTRAL[name](tmp_path))
    exact(module, plain)


def listed(state):
    """Tensors as lists; plain containers, numbers and strings as they are; nothing else."""
    if isinstance(state, dict):
        return {key: listed(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [listed(value) for value in state]
    assert state is None or type(state) in {torch.Tensor, str, int, float, bool}
    return (str(state.dtype), state.tolist()) if torch.is_tensor(state) else state


def test_the_state_is_plain_data_and_comes_back(make, trainer, tmp_path):
    module, callback, again = small(), make(), make()
    fit(trainer, module, callback)
    fit(trainer, module, callback).save_checkpoint(tmp_path / "c.ckpt")
    states = torch.load(tmp_path / "c.ckpt", weights_only=True)["callbacks"]
    if callback.state_key in states:  # Lightning keeps no empty state, and hands none back.
        again.load_state_dict(states[callback.state_key])
    assert listed(again.state_dict()) == listed(callback.state_dict())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_a_resumed_fit_ends_as_the_one_that_was_not_stopped(make, trainer, tmp_path):
    module, callback = small(), make()
    fit(trainer, module, callback)
    save, options = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), {"enable_checkpointing": True, "max_epochs": 3}
    fit(trainer, module, callback, copy.deepcopy(save), **options)
    torch.manual_seed(9)
    resumed, again, path = Small(), make(), tmp_path / "epoch=0.ckpt"
    fit(trainer, resumed, again, save, **options, ckpt_path=path, weights_only=True)
    exact(resumed, module)
    assert listed(again.state_dict()) == listed(callback.state_dict())


def test_a_fit_goes_on_from_the_checkpoint_of_its_exception(make, trainer, tmp_path):
    def fail(trainer, *_):
        if trainer.current_epoch == 1:
            raise ZeroDivisionError

    module, callback = small(), make()
    fit(trainer, module, callback)
    stopped, other = copy.deepcopy(module), copy.deepcopy(callback)
    torch.manual_seed(1)  # adapters are drawn
    fit(trainer, module, callback, max_epochs=2)
    path, failing = tmp_path / "stopped.ckpt", LambdaCallback(on_train_batch_start=fail)
    save = LambdaCallback(on_exception=lambda trainer, *_: trainer.save_checkpoint(path))
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError):
        fit(trainer, stopped, other, failing, save, max_epochs=2)
    resumed, again = Small(), make()
    fit(trainer, resumed, again, max_epochs=2, ckpt_path=path, weights_only=True)
    exact(resumed, module)
    assert listed(again.state_dict()) == listed(callback.state_dict())
    fit(trainer, stopped, other)  # a fit that begins anew knows nothing of the one that failed


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_an_evaluation_of_a_checkpoint_is_no_fit(make, trainer, tmp_path):
    module, callback = small(), make()
    for _ in range(2):
        fit(
            trainer,
            module,
            callback,
            ModelCheckpoint(tmp_path, "last", enable_version_counter=False),
            enable_checkpointing=True,
        )
    left = listed(callback.state_dict())
    evaluated = trainer(callbacks=callback)
    evaluated.predict(module, batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert listed(callback.state_dict()) == left


def traces(module, fitted):
    """Attributes, numbers of hooks and modes of all that a callback could leave something on."""
    loop, parameters = fitted.fit_loop, list(module.parameters())
    things = [*module.modules(), *fitted.optimizers, fitted, fitted.strategy, fitted.precision_plugin, loop]
    names = [set(vars(one)) for one in [*things, *parameters, loop.epoch_loop]]
    hooks = [len(value) for one in things for key, value in vars(one).items() if key.endswith("_hooks") and value]
    hooks += [len(p._backward_hooks or ()) for p in parameters]
    return names, hooks, [one.training for one in module.modules()], [p.requires_grad for p in parameters]


@pytest.mark.parametrize("fails", [None, "setup", "on_fit_start", "on_before_optimizer_step", "on_train_epoch_end"])
def test_nothing_is_left_behind(make, trainer, fails):
    assert of_two_fits(trainer, fails, make()) == plain_traces(trainer, fails)


def of_two_fits(trainer, fails, *callbacks):
    """Traces of two fits, of which the second may fail in a hook of another callback."""
    module = small()
    fit(trainer, module, *callbacks)
    failing = [LambdaCallback(**{fails: lambda *_, **__: 1 / 0})] if fails else []
    fitted = trainer(callbacks=[*callbacks, *failing])
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        fitted.fit(module, _loader(callbacks))
    return traces(module, fitted)


PLAIN = {}


def plain_traces(trainer, fails):
    if fails not in PLAIN:
        PLAIN[fails] = of_two_fits(trainer, fails)
    return PLAIN[fails]


class Apart(TorchDispatchMode):
    """Refuse what a GPU would: a sum of what is made of a module, and of what is not, while the module is away."""

    def __init__(self, module):
        super().__init__()
        self.module, self.away = module, True
        self.made = {value.untyped_storage().data_ptr() for value in module.state_dict().values()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [one for one in tree_leaves((args, kwargs)) if torch.is_tensor(one) and one.ndim]
        mine = [one for one in given if one.untyped_storage().data_ptr() in self.made]
        copies = function.overloadpacket is torch.ops.aten.copy_  # also from one device to another
        assert not self.away or copies or len(mine) in (0, len(given)), function
        found = function(*args, **(kwargs or {}))
        if mine and not copies:
            self.made |= {one.untyped_storage().data_ptr() for one in tree_leaves(found) if torch.is_tensor(one)}
        return found


@pytest.mark.skipif("TEST_ACCELERATOR" in os.environ, reason="stands for a GPU where there is none")
def test_what_looks_at_the_weights_in_the_end_does_so_where_they_were_trained(make, trainer, tmp_path, monkeypatch):
    """Lightning brings a module back from its GPU before ``on_fit_end``, and not what callbacks hold beside it."""
    module, callback, apart = small(), make(), []
    fit(trainer, module, callback)
    move, there = Small.to, torch.device("cpu", 0)  # which is not where Lightning leaves it

    def moved(module, device):
        for one in apart:
            one.away = device != there
        return move(module, device)

    def watched(callback, *given):
        apart.append(Apart(module))
        with apart[0]:
            end(callback, *given)
        assert apart[0].away

    end = type(callback).on_fit_end
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", there)
    monkeypatch.setattr(Small, "to", moved)
    monkeypatch.setattr(type(callback), "on_fit_end", watched)
    fit(trainer, module, callback)


def test_a_copy_made_during_fit_is_a_plain_module(make, trainer):
    module, callback, copies = small(), make(), []
    fit(trainer, module, callback)
    copier = LambdaCallback(on_train_batch_end=lambda t, m, *_: copies.append(copy.deepcopy(m)))
    fit(trainer, module, callback, copier, max_steps=1)
    plain, (copied,) = small(), copies
    for weight in copied.cpu().parameters():  # dropout draws in the order in which memory lies
        weight.data = weight.data.contiguous()
    plain.load_state_dict(copied.state_dict())
    for one in (copied, plain):
        torch.manual_seed(0)
        one.train().zero_grad()
        one.training_step(next(iter(batches())), 0)["loss"].backward()
    assert_close(dict(copied.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in (copied, plain)]
    assert_close(*gradients, rtol=0, atol=0)
