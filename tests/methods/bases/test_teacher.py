"""Teachers of other people's modules: how they are copied, read, written and asked."""

import argparse
import copy
import sys
import tracemalloc
from types import SimpleNamespace

import fsspec
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import weight_norm
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_continual.callbacks import Distillation
from lit_continual.methods.bases.old_network.frozen_copy import frozen_copy
from lit_continual.methods.bases.old_network.teacher import Teacher
from lit_continual.modules import Segmenter


class Foreign(LightningModule):
    """A segmenter whose constructor takes what no checkpoint holds."""

    def __init__(self, net=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = net or nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def batches():
    image = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(image, (image[:, 0] > 0).long()), batch_size=4)


def weights(module):
    return {name: value.detach().clone() for name, value in nn.Module.state_dict(module).items()}


def moved(module):
    """Another module with other weights."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    return other


def taught(trainer, module, batches, teacher, **options):
    """Train, and return the weights of the teacher."""
    seen, callback = [], Distillation(teacher=teacher)
    look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(weights(callback._teacher.module)))
    trainer(callbacks=[callback, look], **options).fit(module, batches)
    return seen[-1]


def test_a_teacher_may_be_the_old_module_itself_which_stays_as_it_is(trainer, batches):
    module = Foreign()
    old = moved(module).train()
    before = weights(old)
    assert_close(taught(trainer, module, batches, old), before, rtol=0, atol=0)
    assert_close(weights(old), before, rtol=0, atol=0)
    assert old.training
    assert all(p.requires_grad for p in old.parameters())


def test_a_checkpoint_that_cannot_be_built_is_loaded_into_a_copy_of_the_student(trainer, batches, tmp_path):
    module, old = Foreign(nn.Conv2d(1, 3, 1)), moved(Foreign(nn.Conv2d(1, 3, 1)))
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.ckpt")
    assert_close(taught(trainer, module, batches, tmp_path / "old.ckpt"), weights(old), rtol=0, atol=0)
    torch.save({"state_dict": Foreign(nn.Conv2d(1, 2, 1)).state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt .*nor does the module in training take its weights.*old_module"):
        taught(trainer, module, batches, tmp_path / "other.ckpt")


class WithNamespace(Foreign):
    def __init__(self, args):
        super().__init__()
        self.save_hyperparameters()


def test_pickled_hyper_parameters_are_named_and_may_be_allowed(trainer, batches, tmp_path):
    module, first = WithNamespace(argparse.Namespace(rate=0.1)), trainer()
    first.fit(module, batches)
    first.save_checkpoint(tmp_path / "old.ckpt")
    before = weights(module)
    with pytest.raises(ValueError, match=r"old.ckpt .*holds argparse.Namespace.*add_safe_globals"):
        taught(trainer, module, batches, tmp_path / "old.ckpt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert_close(taught(trainer, module, batches, tmp_path / "old.ckpt"), before, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true", "bf16-mixed"])
@pytest.mark.parametrize("given", ["path", "module"])
def test_a_teacher_has_the_precision_of_the_fit(trainer, batches, tmp_path, precision, given):
    module = Foreign()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "old.ckpt")
    teacher = tmp_path / "old.ckpt" if given == "path" else copy.deepcopy(module)
    found = taught(trainer, module, batches, teacher, precision=precision)
    assert {value.dtype for value in found.values()} == {value.dtype for value in weights(module).values()}


class ReadsTrainer(Foreign):
    def forward(self, image):
        self.log("seen", image.mean())
        return self.net(image) * (1 + self.trainer.current_epoch)


def test_the_forward_of_a_teacher_may_read_the_trainer_and_logs_nothing(trainer, batches):
    run = trainer(callbacks=Distillation(teacher="start"), max_epochs=2)
    run.fit(ReadsTrainer(), batches)
    assert set(run.callback_metrics) == {"seen", "train/distillation"}


class LeavesOut(Foreign):
    """A frozen part that no checkpoint has, as of a language model."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.strict_loading = False

    def forward(self, image):
        return self.frozen(self.net(image))

    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if "frozen" not in k}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_fit_goes_on_with_its_teacher_wherever_checkpoints_lie(trainer, batches, tmp_path, place):
    folder = f"memory://{tmp_path.name}" if place == "memory" else str(tmp_path / "c")
    options = {"enable_checkpointing": True, "max_epochs": 3}

    def callbacks():
        return [Distillation(teacher="start"), ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]

    module, resumed = LeavesOut(), LeavesOut()
    trainer(callbacks=callbacks(), **options).fit(module, batches)
    with torch.no_grad():
        resumed.frozen.weight.zero_()  # the teacher has all of its weights in its own file
    other = copy.deepcopy(resumed)
    trainer(callbacks=callbacks(), **options).fit(
        resumed, batches, ckpt_path=f"{folder}/epoch=0.ckpt", weights_only=True
    )
    files = fsspec.core.url_to_fs(folder)[0].ls(folder, detail=False)
    assert sum("teacher-" in file for file in files) == 1
    assert not (tmp_path / "memory:").exists()
    assert not torch.equal(weights(resumed)["net.0.weight"], weights(other)["net.0.weight"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_moved_checkpoint_asks_for_its_teacher(trainer, batches, tmp_path):
    save = ModelCheckpoint(tmp_path / "c", "{epoch}", save_top_k=-1)
    trainer(callbacks=[Distillation(teacher="start"), save], enable_checkpointing=True, max_epochs=2).fit(
        Foreign(), batches
    )
    moved_to = tmp_path / "elsewhere"
    moved_to.mkdir()
    (tmp_path / "c" / "epoch=0.ckpt").rename(moved_to / "epoch=0.ckpt")
    resume = {"ckpt_path": moved_to / "epoch=0.ckpt", "weights_only": True}
    again = trainer(callbacks=Distillation(teacher="start"), max_epochs=2)
    with pytest.raises(ValueError, match=r"teacher-\w+.pt, is not in .*elsewhere. Move it there"):
        again.fit(Foreign(), batches, **resume)
    (file,) = (tmp_path / "c").glob("teacher-*.pt")
    file.rename(moved_to / file.name)
    trainer(callbacks=Distillation(teacher="start"), max_epochs=2).fit(Foreign(), batches, **resume)


def test_a_copy_shares_what_the_module_holds_of_data(batches):
    module = Foreign()
    module.images, module.volumes = torch.zeros(2_000_000), [torch.zeros(1_000_000)]
    module.train_ds, module.kept = (
        TensorDataset(torch.zeros(2_000_000)),
        SimpleNamespace(arrays={"a": module.images.numpy()}),
    )
    tracemalloc.start()
    copied = frozen_copy(module)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert copied.images is module.images
    assert copied.volumes[0] is module.volumes[0]
    assert copied.volumes is not module.volumes
    assert copied.train_ds is module.train_ds
    assert copied.kept.arrays["a"] is module.kept.arrays["a"]
    assert peak < 1_000_000
    for one, other in zip(copied.parameters(), module.parameters(), strict=True):
        assert one.data_ptr() != other.data_ptr()
        assert not one.requires_grad
    assert all(p.requires_grad for p in module.parameters())
    assert module.training


class Keeps(Foreign):
    """Tensors with a graph in attributes: a list of losses, the heads of deep supervision, an old weight norm."""

    def __init__(self):
        super().__init__()
        self.net[2] = weight_norm(self.net[2])
        self.history, self.last = [], SimpleNamespace(logits=None)

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        self.history.append(outputs["loss"])
        self.last.logits = outputs["logits"]
        return outputs


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_second_fit_begins_where_the_module_holds_graphs(trainer, batches):
    module = Keeps()
    for _ in range(2):
        trainer(callbacks=Distillation(teacher="start")).fit(module, batches)
    assert len(module.history) == 4
    copied = frozen_copy(module)
    assert not copied.history[0].requires_grad
    with torch.no_grad():
        assert_close(copied(torch.ones(1, 1, 4, 4)), module.eval()(torch.ones(1, 1, 4, 4)))


def shapeless(module, batch):
    return module.net(batch[0])


def test_the_command_line_takes_a_function_without_annotations(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "somebodys_project", SimpleNamespace(shapeless=shapeless, __name__="somebodys_project")
    )
    monkeypatch.setattr(shapeless, "__module__", "somebodys_project")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Distillation, "d")
    options = parser.parse_args(["--d.logits", "somebodys_project.shapeless", "--d.teacher", "old.ckpt"])
    callback = parser.instantiate_classes(options).d
    assert callback.logits is shapeless
    assert str(callback.teacher) == "old.ckpt"


def test_the_only_fit_without_a_teacher_warns(trainer, batches):
    with pytest.warns(UserWarning, match=r"no old network in this fit.*teacher='start'"):
        trainer(callbacks=Distillation()).fit(Foreign(), batches)


def test_a_teacher_of_a_plain_network_is_asked_what_the_module_was(trainer, batches):
    module = Foreign()
    found = taught(trainer, module, batches, copy.deepcopy(module.net))
    assert found.keys() == module.net.state_dict().keys()
    assert Teacher(module.net, trainer()).module is not module.net


def test_a_teacher_may_name_the_network_of_its_student_and_no_other(tmp_path, monkeypatch, trainer):
    text = "from torch import nn\nclass Net(nn.Conv2d):\n"
    text += "    def __init__(self, out_channels): super().__init__(1, out_channels, 1)\n"
    for package in ("my_network", "their_network"):
        (tmp_path / f"{package}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    student, other = (
        Segmenter({"_target_": f"{name}.Net"}, features=2, heads=[["a"]]) for name in ("my_network", "their_network")
    )
    for module, name in ((student, "my_network"), (other, "their_network")):
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        module.on_save_checkpoint(content)
        torch.save(content, tmp_path / f"{name}.ckpt")
    teacher = Teacher.from_checkpoint(str(tmp_path / "my_network.ckpt"), trainer(), student)
    assert type(teacher.module.body).__name__ == "Net"
    with pytest.raises(ValueError, match=r"`their_network.Net` is no network that a file may name"):
        Teacher.from_checkpoint(str(tmp_path / "their_network.ckpt"), trainer(), student)
