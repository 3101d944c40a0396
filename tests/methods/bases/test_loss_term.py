import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.multiprocessing import ProcessRaisedException
from torch.testing import assert_close

from lit_continual.callbacks import Distillation, LossTerm

PRECISIONS = {
    "32": lambda: {"precision": "32-true"},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))},
}


class Norm(LossTerm):
    """A term on parameters and batch, which a module can write by hand."""

    def __init__(self, weight=0.5, name="norm", share=1.0):
        self.weight, self.name, self.share = weight, name, share

    def compute(self, pl_module, batch, outputs):
        return self.weight * by_hand(pl_module, batch)

    def share_of_loss(self, batch):
        return self.share


def by_hand(module, batch):
    return module.layer.weight.square().sum() + module.layer(batch[0]).square().mean()


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_the_term_written_into_the_step(module, loader, trainer, precision, accumulate, clip):
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    reference = copy.deepcopy(module)
    reference.extra = lambda m, batch: 0.5 * by_hand(m, batch)
    trainer(**options, **PRECISIONS[precision]()).fit(reference, loader)
    trainer(callbacks=Norm(), **options, **PRECISIONS[precision]()).fit(module, loader)
    assert_close(parameters(module), parameters(reference), rtol=0, atol=0)


def test_terms_add_up_and_share_the_loss(module, loader, trainer):
    both, reference = copy.deepcopy(module), module
    reference.extra = lambda m, batch: 0.3 * by_hand(m, batch)
    step = reference.training_step
    reference.training_step = lambda batch: 0.25 * step(batch) + 0.75 * 0.3 * by_hand(reference, batch)
    trainer().fit(reference, loader)
    trainer(callbacks=[Norm(0.1, "a", share=0.25), Norm(0.2, "b")]).fit(both, loader)
    assert_close(parameters(both), parameters(reference), rtol=1e-5, atol=1e-6)


def test_logs_the_weighted_term_and_the_loss_holds_it(module, loader, trainer):
    seen = []
    watch = LambdaCallback(on_train_batch_end=lambda t, m, outputs, *_: seen.append(outputs["loss"].detach()))
    run = trainer(callbacks=[Norm(1000.0), watch])
    run.fit(module, loader)
    assert run.callback_metrics["train/norm"] > 100
    assert_close(seen[-1], run.callback_metrics["train/norm"], rtol=0.1, atol=10)


@pytest.mark.parametrize("fails", [False, True], ids=["after fit", "after an exception"])
def test_leaves_the_module_as_it_was(module, loader, trainer, fails):
    callbacks = [Norm(), Norm(name="second")]
    if fails:
        callbacks[1].compute = lambda *args: 1 / 0
        with pytest.raises(ZeroDivisionError):
            trainer(callbacks=callbacks).fit(module, loader)
    else:
        trainer(callbacks=callbacks).fit(module, loader)
    assert "training_step" not in vars(module)


def test_works_on_a_compiled_module(module, loader, trainer):
    eager = copy.deepcopy(module)
    trainer(callbacks=Norm()).fit(eager, loader)
    compiled = torch.compile(module, backend="eager")
    trainer(callbacks=Norm()).fit(compiled, loader)
    assert_close(parameters(module), parameters(eager))


def test_refuses_manual_optimization(module, loader, trainer):
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match=r"`Norm` adds to the loss.*automatic_optimization = True"):
        trainer(callbacks=Norm()).fit(module, loader)


class Remembers(Norm):
    def state_dict(self):
        return {"weight": self.weight}


@pytest.mark.slow
def test_refuses_processes_that_forget(module, loader, trainer):
    with pytest.raises(ProcessRaisedException, match=r"`Remembers` keeps state.*Use .*`strategy='ddp'`"):
        trainer(callbacks=Remembers(), strategy="ddp_spawn", devices=1).fit(module, loader)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_what_remembers_nothing_may_be_forgotten(module, trainer, strategy):
    Norm().setup(trainer(strategy=strategy, devices=1), module, "fit")
    Distillation(teacher="start").setup(trainer(strategy=strategy, devices=1), module, "fit")
    for term in (Remembers(), Distillation()):
        with pytest.raises(MisconfigurationException, match="keeps state"):
            term.setup(trainer(strategy=strategy, devices=1), module, "fit")


@pytest.mark.slow
def test_a_term_without_memory_trains_in_forked_processes(module, loader, trainer):
    reference = copy.deepcopy(module)
    reference.extra = lambda m, batch: 0.5 * by_hand(m, batch)
    trainer(callbacks=Norm(), strategy="ddp_fork", devices=1).fit(module, loader)
    trainer(strategy="ddp_fork", devices=1).fit(reference, loader)
    assert_close(parameters(module), parameters(reference))
