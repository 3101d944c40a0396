"""Other people's projects: small modules that do what theirs do, and what each method makes of them."""

import copy
import io
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import pytorch_lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback, ModelPruning
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

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
    Distillation,
    LoRA,
    LossTerm,
    MiB,
    Pretrained,
    RWalk,
    TargetedGradientDescent,
    TrainOnly,
    WeightFusion,
)
from lit_continual.functional import distillation_loss
from lit_continual.methods.bases.guards import is_compiled

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature"),
]


class Items(Dataset):
    """Eight images, each as somebody's data set gives it."""

    def __init__(self, form):
        self.images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.form = form

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.form(self.images[k], (self.images[k, 0] > 0).long())


def batches(form=lambda image, label: (image, label), **options):
    return DataLoader(Items(form), batch_size=4, **options)


class Project(LightningModule):
    """A segmenter with dropout; `extra` is what a term must equal, of the loss, the logits and the network's input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 3, 1))
        self.extra = None

    def forward(self, image):
        return self.net(image)

    def with_extra(self, loss, logits, image):
        return loss if self.extra is None else self.extra(loss, logits, image)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return self.with_extra(cross_entropy(logits, batch[1]), logits, batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def eq_1(teacher, alpha=0.5):
    with torch.no_grad():
        teacher = copy.deepcopy(teacher).eval()

    def total(loss, logits, image):
        with torch.no_grad():
            answer = teacher.net(image)
        return alpha * loss + (1 - alpha) * distillation_loss(logits, answer, [list(range(answer.shape[1]))])

    return total


def equals_by_hand(module, trainer, data=None, seed=3, **options):
    """Train with `Distillation` and with eq. 1 written into the step; all weights must be equal."""
    by_hand = type(module)()
    by_hand.extra = eq_1(module)
    for one, callbacks in ((by_hand, None), (module, [Distillation(teacher="start", **options)])):
        torch.manual_seed(seed)
        trainer(callbacks=callbacks).fit(one, data or batches())
    assert_close(weights(module), weights(by_hand), rtol=1e-6, atol=1e-7)


class Prepares(Project):
    def training_step(self, batch, batch_idx):
        image = (batch["img"] - 3) * 0.1
        logits = self.forward(image)
        loss = self.with_extra(cross_entropy(logits, batch["seg"]), logits, image)
        return {"loss": loss, "logits": logits.detach()}


@dataclass
class Sample:
    pixels: torch.Tensor
    label: torch.Tensor


class OfDataclass(Project):
    """A batch that is an object, a forward of two arguments that returns a mapping, as torchvision's segmenters do."""

    def forward(self, pixels, *, gain):
        return {"out": self.net(gain * pixels), "aux": pixels.mean()}

    def training_step(self, batch, batch_idx):
        logits = self(batch.pixels, gain=2.0)["out"]
        return self.with_extra(cross_entropy(logits, batch.label), logits, 2.0 * batch.pixels)


class OfTuple(Project):
    """A forward with a second head, of which the step says which part the logits are."""

    def forward(self, image):
        return image.mean(), self.net(image)

    def training_step(self, batch, batch_idx):
        _, logits = self(batch[0])
        return {"loss": self.with_extra(cross_entropy(logits, batch[1]), logits, batch[0]), "logits": logits.detach()}


class TwoViews(Project):
    """A pseudo-label from a weak view, a loss on a strong one."""

    def training_step(self, batch, batch_idx):
        strong = self(batch[0].flip(-1))
        with torch.no_grad():
            weak = self(batch[0]).argmax(1)
        return self.with_extra(cross_entropy(strong, weak.flip(-1)), strong, batch[0].flip(-1))


class Scripted(Project):
    """A network of TorchScript, whose copies and parameters are of another kind."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(torch.jit.script(self.net[:2]), *self.net[2:])


class Classifier(Project):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 5))

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return self.with_extra(cross_entropy(logits, batch[1][:, 0, 0]), logits, batch[0])


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Project, {}),
        (Prepares, {"form": lambda image, label: {"img": image, "seg": label}}),
        (
            OfDataclass,
            {
                "form": Sample,
                "collate_fn": lambda items: Sample(*map(torch.stack, zip(*map(vars_of, items), strict=True))),
            },
        ),
        (OfTuple, {}),
        (TwoViews, {}),
        (Scripted, {}),
        (Classifier, {}),
    ],
)
def test_distillation_equals_eq_1_written_into_the_step(kind, data, trainer):
    equals_by_hand(kind(), trainer, batches(**data))


def vars_of(item):
    return item.pixels, item.label


@pytest.mark.parametrize("compiled", ["torch.compile(module)", "module.compile()", "submodule"])
def test_a_compiled_module_has_a_teacher_of_its_own(compiled, trainer):
    eager, module = Prepares(), Prepares()
    data = batches(lambda image, label: {"img": image, "seg": label})
    torch.manual_seed(3)
    trainer(callbacks=Distillation(alpha=0.1, teacher="start"), max_epochs=2).fit(eager, data)
    given = module
    if compiled == "torch.compile(module)":
        given = torch.compile(module, backend="eager")
    elif compiled == "module.compile()":
        module.compile(backend="eager")
    else:
        module.net = torch.compile(module.net, backend="eager")
    torch.manual_seed(3)
    trainer(callbacks=Distillation(alpha=0.1, teacher="start"), max_epochs=2).fit(given, data)
    assert_close(list(module.parameters()), list(eager.parameters()))
    assert "forward" not in vars(module) or compiled == "torch.compile(module)"


class Watch(LossTerm):
    """Keep what a term is offered, and look at it in the middle of a fit."""

    name = "watch"

    def __init__(self):
        self.seen = []

    def compute(self, pl_module, batch, outputs):
        self.seen.append(self.captured and (self.captured.args[0].shape, self.captured.output.requires_grad))


def test_a_term_is_offered_the_call_and_keeps_no_graph(trainer):
    term, left = Watch(), []
    look = LambdaCallback(on_train_batch_end=lambda t, m, *_: left.append((term.captured, "forward" in vars(m))))
    trainer(callbacks=[term, look]).fit(Project(), batches())
    assert term.seen == [((4, 1, 8, 8), True)] * 2
    assert left == [(None, False)] * 2


def test_nothing_is_left_of_the_capture_after_an_exception(trainer):
    class Fails(Project):
        def forward(self, image):
            raise ZeroDivisionError

    term, module = Watch(), Fails()
    with pytest.raises(ZeroDivisionError):
        trainer(callbacks=term).fit(module, batches())
    assert "forward" not in vars(module)
    assert "training_step" not in vars(module)
    assert term.captured is None


def test_a_module_saved_in_a_fit_is_a_plain_module(trainer):
    saved = []

    def save(trainer, pl_module, *_):
        torch.save(pl_module, file := io.BytesIO())
        saved.append(file.getvalue())

    callbacks = [Watch(), TrainOnly(["net.0"], hold_statistics=True), LambdaCallback(on_train_batch_end=save)]
    trainer(callbacks=callbacks).fit(Project(), batches())
    loaded = torch.load(io.BytesIO(saved[0]), weights_only=False)
    assert loaded.training_step.__self__ is loaded
    assert loaded.training_step.__func__ is Project.training_step


class NoForward(Project):
    """A step that asks the network itself."""

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": self.answer(logits)}

    def answer(self, logits):
        return logits


def test_a_step_that_does_not_call_forward_is_told_what_is_asked(trainer):
    with pytest.warns(UserWarning, match="does not call `forward`.*images as they are.*give `logits=`"):
        trainer(callbacks=Distillation(teacher="start")).fit(NoForward(), batches())


class Detached(NoForward):
    def answer(self, logits):
        return logits.detach()


class InEvaluation(Project):
    """Logits in training, probabilities in evaluation; four channels, so that no sum gives it away."""

    def forward(self, image):
        logits = self.net(image)
        return logits if self.training else logits.sigmoid()


class Probabilities(Project):
    def forward(self, image):
        return self.net(image).softmax(1)


class Tuple(Project):
    def forward(self, image):
        return self.net(image), self.net(image)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0])[0], batch[1])


class Regression(Project):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def training_step(self, batch, batch_idx):
        return mse_loss(self(batch[0]), batch[0])


class Ignores(Project):
    """A network of some project whose loss knows what to ignore."""

    def __init__(self, kind):
        super().__init__()
        self.net = kind().net

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


class Tokens(Project):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 5)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0][:, 0]).mT, batch[1][:, :, 0])


class Supervised(Project):
    """Deep supervision in training."""

    def forward(self, image):
        return torch.stack([self.net(image)] * 2, 1) if self.training else self.net(image)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0])[:, 0], batch[1])


class Features(Project):
    """A forward that is not the network."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 7, 1)

    def training_step(self, batch, batch_idx):
        logits = self.head(self(batch[0]))
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}


class Missing(NoForward):
    forward = LightningModule.forward

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch["x"]), batch["y"])


def named(image, label):
    return {"x": image, "y": label}


@pytest.mark.parametrize(
    ("kind", "form", "message"),
    [
        (Detached, None, r"without a gradient.*Give `logits="),
        (InEvaluation, None, r"in evaluation mode.*Give `logits="),
        (Probabilities, None, r"probabilities.*Give `logits="),
        (Tuple, None, r"forward` returns tuple.*Give `logits="),
        (Regression, None, r"One channel.*regression.*heads='sigmoid'"),
        (Tokens, None, r"\(4, 8, 5\).*\(B, tokens, C\).*give `logits="),
        (Supervised, None, r"in evaluation mode.*Give `logits="),
        (Features, None, r"cannot tell the logits.*Give `logits="),
        (Missing, named, r"KeyError: 'image'.*Give `logits="),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_the_first_step(kind, form, message, trainer):
    with pytest.raises(MisconfigurationException, match=message):
        trainer(callbacks=Distillation(teacher="start")).fit(kind(), batches(form) if form else batches())


@pytest.mark.parametrize("make", [MiB, PLOP])
@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [(Regression, 1, "the logits have one channel in all"), (Project, 255, "from 0 to 2, and the batch has 0 to 255")],
)
def test_what_is_no_softmax_of_the_labels_is_refused_in_the_first_step(make, kind, value, message, trainer):
    with pytest.raises(MisconfigurationException, match=message):
        trainer(callbacks=make(teacher="start")).fit(
            Ignores(kind), batches(lambda image, label: (image, value * label))
        )


def test_one_sigmoid_is_distilled_where_it_is_said_to_be_one(trainer):
    class Binary(Regression):
        def training_step(self, batch, batch_idx):
            return binary_cross_entropy_with_logits(self(batch[0]), batch[1][:, None].float())

    run = trainer(callbacks=Distillation(teacher="start", heads="sigmoid"))
    run.fit(Binary(), batches())
    assert run.callback_metrics["train/distillation"] > 0


class WithOrigin(Project):
    """Somebody's module of mappings; it knows nothing of exemplars."""

    def training_step(self, batch, batch_idx):
        logits = self(batch["image"])
        return self.with_extra(cross_entropy(logits, batch["label"]), logits, batch["image"])


def test_a_batch_of_exemplars_has_no_loss_but_the_term(trainer):
    module, other = WithOrigin(), WithOrigin()
    data = batches(lambda image, label: {"image": image, "label": label, "origin": "exemplar"})
    by_hand = eq_1(other, alpha=0.0)
    other.extra = by_hand
    for one, callbacks in ((other, None), (module, Distillation(teacher="start"))):
        torch.manual_seed(3)
        trainer(callbacks=callbacks).fit(one, data)
    assert_close(weights(module), weights(other))


def test_a_foreign_module_is_given_no_mixed_batches(trainer):
    data = batches(
        lambda image, label: {"image": image, "label": label, "origin": ["new", "exemplar"][int(image[0, 0, 0] > 0)]}
    )
    with pytest.raises(MisconfigurationException, match=r"one loss for a batch of new samples and exemplars.*'pure'"):
        trainer(callbacks=Distillation(teacher="start")).fit(WithOrigin(), data)


IMPORTANCES = {
    "ewc": lambda: EWC(0.1),
    "sampled": lambda: EWC(0.1, labels="sampled"),
    "mas": lambda: MAS(0.1),
    "si": lambda: SI(0.1),
    "rwalk": lambda: RWalk(0.1),
}


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Prepares, {"form": lambda image, label: {"img": image, "seg": label}}),
        (
            OfDataclass,
            {
                "form": Sample,
                "collate_fn": lambda items: Sample(*map(torch.stack, zip(*map(vars_of, items), strict=True))),
            },
        ),
        (OfTuple, {}),
        (TwoViews, {}),
        (Scripted, {}),
        (Classifier, {}),
        (NoForward, {}),
    ],
)
def test_importances_are_measured_in_other_peoples_projects(kind, data, name, trainer):
    callback, module = IMPORTANCES[name](), kind()
    for _ in range(2):
        run = trainer(callbacks=callback)
        run.fit(module, batches(**data))
    weight = next(n for n in callback.importance if n.endswith("weight"))
    assert callback.importance[weight].sum() > 0
    assert run.callback_metrics[f"train/{callback.name}"] >= 0
    assert {"training_step", "forward", "log"} & vars(module).keys() == set()


@pytest.mark.parametrize("name", ["ewc", "si", "rwalk", "mas"])
def test_a_regression_has_importances_too(name, trainer):
    callback = IMPORTANCES[name]()
    trainer(callbacks=callback).fit(Regression(), batches())
    assert callback.importance["net.weight"].sum() > 0


@pytest.mark.parametrize("name", IMPORTANCES)
def test_what_nobody_has_measured_is_told_of_where_a_fit_would_train_it(name, trainer):
    callbacks, module = [IMPORTANCES[name](), IMPORTANCES[name]()], Project()
    callbacks[0].follow(module)
    trainer(callbacks=callbacks[0], max_epochs=0).fit(module, batches())
    state, measures = callbacks[0].state_dict(), name not in ("si", "rwalk")  # which know what steps have done
    assert bool(state) == measures
    if state:
        callbacks[1].load_state_dict(state)
    else:
        callbacks[1].follow(module)  # as a stream does
    with nullcontext() if measures else pytest.warns(UserWarning, match="has measured nothing of the model"):
        trainer(callbacks=callbacks[1]).fit(module, batches())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("make", [*IMPORTANCES.values(), lambda: TargetedGradientDescent(share=0.1)])
def test_weights_may_be_of_another_precision(make, precision, trainer):
    callback, module = make(), Project()
    module.example_input_array = torch.zeros(1, 1, 8, 8)
    for _ in range(2):
        run = trainer(callbacks=callback, precision=precision)
        run.fit(module, batches())
    assert all(0 <= value < float("inf") for value in run.callback_metrics.values())


def test_agem_says_where_it_has_nothing_of_the_past(trainer):
    with pytest.warns(UserWarning, match=r"`AGEM` met no exemplar, and has no `reference`"):
        trainer(callbacks=AGEM()).fit(Project(), batches())
    data = batches(lambda image, label: {"image": image, "label": label, "origin": "new"})
    trainer(callbacks=AGEM()).fit(WithOrigin(), data)


def test_a_regression_has_no_labels_to_draw(trainer):
    with pytest.raises(MisconfigurationException, match=r"One channel.*regression.*heads='sigmoid'"):
        trainer(callbacks=EWC(labels="sampled")).fit(Regression(), batches())


@pytest.mark.parametrize("make", [lambda: TrainOnly(["net.2"]), lambda: LoRA(2)])
def test_a_scripted_part_is_held_bit_for_bit(make, trainer):
    module = Scripted()
    before = weights(module)
    trainer(callbacks=make()).fit(module, batches())
    moved = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} == {"net.2"}


def test_a_scripted_part_shows_no_layers(trainer):
    with pytest.raises(MisconfigurationException, match="`ILT` finds no layer in training that answers with maps"):
        trainer(callbacks=ILT(teacher="start")).fit(Scripted(), batches())


@pytest.mark.parametrize("make", [lambda: TrainOnly(["net.0"]), lambda: LoRA(2), ChannelsLast])
def test_weights_that_another_callback_prunes_are_not_held(make, trainer):
    pruning = ModelPruning("l1_unstructured", amount=0.5)
    with pytest.raises(MisconfigurationException, match=r"and `ModelPruning` puts others in their place"):
        trainer(callbacks=[make(), pruning]).fit(Project(), batches())


class Lazy(Project):
    def __init__(self):
        super().__init__()
        self.net = nn.LazyConv2d(3, 1)


LAZY = [lambda: Distillation(teacher="start"), lambda: L2SP(parameters="net"), EWC, SI, lambda: TrainOnly(["net"])]


@pytest.mark.parametrize("make", [*LAZY, lambda: LoRA(2)])
def test_lazy_layers_are_asked_to_be_called_once(make, trainer):
    with pytest.raises(MisconfigurationException, match=r"`net.weight` of Lazy is lazy.* Call the module once"):
        trainer(callbacks=make()).fit(Lazy(), batches())
    module = Lazy()
    module(torch.zeros(1, 1, 8, 8))
    trainer(callbacks=make()).fit(module, batches())


class Draws(Project):
    def training_step(self, dataloader_iter):
        return super().training_step(next(dataloader_iter)[0], 0)


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize(
    "make", [Distillation, lambda: TrainOnly(["net.0"]), lambda: L2SP(parameters="net"), AGEM, MAS]
)
def test_a_step_that_draws_its_batches_is_refused(make, trainer):
    with pytest.raises(MisconfigurationException, match="`training_step` of Draws draws them from `dataloader_iter`"):
        trainer(callbacks=make()).fit(Draws(), batches())


class SparseGradients(Project):
    def __init__(self):
        super().__init__()
        self.names = nn.EmbeddingBag(3, 3, sparse=True)


@pytest.mark.parametrize("make", [L2SP, EWC, SI, RWalk, AGEM])
def test_gradients_that_are_sparse_are_not_edited(make, trainer):
    message = r"edits gradients, and those of `names` are sparse. Set `sparse=False` in it"
    with pytest.raises(MisconfigurationException, match=message):
        trainer(callbacks=make(parameters="net") if make is L2SP else make()).fit(SparseGradients(), batches())
    trainer(callbacks=L2SP(parameters="net", step="proximal")).fit(SparseGradients(), batches())


class OfTheOtherPackage(pytorch_lightning.LightningModule):
    training_step, forward = Project.training_step, Project.forward
    configure_optimizers, with_extra = Project.configure_optimizers, Project.with_extra

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
        self.extra, self.example_input_array = None, torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: Distillation(teacher="start"),
        lambda folder: L2SP(parameters="net", anchor="start"),
        lambda folder: EWC(0.1),
        lambda folder: EWC(0.1, labels="sampled"),
        lambda folder: MAS(0.1),
        lambda folder: SI(0.1),
        lambda folder: RWalk(0.1),
        lambda folder: AGEM(Items(lambda image, label: (image, 1 - label)), batch_size=4),
        lambda folder: TargetedGradientDescent(share=0.1),
        lambda folder: TrainOnly(["net.0"]),
        lambda folder: Watch(),
        lambda folder: (
            torch.save(OfTheOtherPackage().state_dict(), folder / "w.pt"),
            Pretrained(str(folder / "w.pt")),
        )[1],
    ],
    ids=[
        "distillation",
        "l2sp",
        "ewc",
        "ewc_sampled",
        "mas",
        "si",
        "rwalk",
        "agem",
        "tgd",
        "train_only",
        "term",
        "pretrained",
    ],
)
def test_modules_and_trainers_of_pytorch_lightning_are_served(make, trainer, tmp_path):
    module = OfTheOtherPackage()
    before = weights(module)
    other = pytorch_lightning.Trainer(callbacks=[make(tmp_path)], **trainer.keywords)
    for _ in range(2):
        other = pytorch_lightning.Trainer(callbacks=other.callbacks, **trainer.keywords)
        other.fit(module, batches())
    assert not torch.equal(weights(module)["net.0.weight"], before["net.0.weight"])
    assert "training_step" not in vars(module)


class Configured(Project):
    """Layers that are made when the trainer is known, after callbacks are set up."""

    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        with torch.random.fork_rng():
            self.net = self.net or Project().net


class MadeInSetup(Configured):
    def configure_model(self):
        pass

    def setup(self, stage):
        self.net = Project().net


def of_other_weights(folder):
    other = {name: value + 0.01 for name, value in Project().state_dict().items()}
    torch.save(other, folder / "w.pt")
    return Pretrained(str(folder / "w.pt"))


NEED_LAYERS = {
    "lora": lambda folder: LoRA(rank=2),
    "pretrained": of_other_weights,
    "fusion": lambda folder: WeightFusion(0.3, old="start"),
    "compiled": lambda folder: CompiledNetwork(backend="eager"),
}


@pytest.mark.parametrize("name", NEED_LAYERS)
def test_layers_of_configure_model_are_there_when_callbacks_are_set_up(name, trainer, tmp_path):
    found = []
    for module in (Project(), Configured()):
        look = LambdaCallback(on_train_batch_start=lambda t, m, *_: found.append(is_compiled(m.net)))
        torch.manual_seed(3)
        trainer(callbacks=[NEED_LAYERS[name](tmp_path), look]).fit(module, batches())
        found.append(weights(module))
    assert found[:2] == found[3:5]
    assert_close(found[2], found[5], rtol=0, atol=0)


@pytest.mark.parametrize("name", NEED_LAYERS)
def test_layers_that_come_later_are_asked_for(name, trainer, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"needs the layers of MadeInSetup .* not in `setup`"):
        trainer(callbacks=NEED_LAYERS[name](tmp_path)).fit(MadeInSetup(), batches())
