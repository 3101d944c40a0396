import copy
import logging
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.testing import assert_close

from lit_continual.callbacks import L2SP, Pretrained


@pytest.fixture
def trainer(trainer):
    return partial(trainer, limit_train_batches=2, limit_val_batches=0)


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(1)
    weights = {"encoder.layer.weight": torch.randn(2, 32), "encoder.layer.bias": torch.randn(2)}
    torch.save({"state_dict": weights}, tmp_path / "source.ckpt")
    return tmp_path / "source.ckpt", {name.removeprefix("encoder."): t for name, t in weights.items()}


def test_training_starts_from_the_weights(trainer, source, caplog):
    path, weights = source
    module = BoringModel()
    by_hand = BoringModel()
    by_hand.load_state_dict(weights)
    torch.manual_seed(2)  # BoringModel draws its data
    trainer().fit(by_hand)
    torch.manual_seed(2)
    with caplog.at_level(logging.INFO):
        trainer(callbacks=Pretrained(str(path))).fit(module)
    assert_close(dict(module.state_dict()), dict(by_hand.state_dict()), rtol=0, atol=0)
    assert "renamed        2  layer" in caplog.text


def test_the_anchor_of_the_start_is_what_was_loaded(trainer, source):
    path, weights = source
    anchor, kept = L2SP(1.0, parameters="layer"), {}
    seen = LambdaCallback(on_train_end=lambda *_: kept.update(anchor.state_dict()["anchor"]))
    trainer(callbacks=[anchor, Pretrained(str(path)), seen]).fit(BoringModel())
    assert_close(kept, weights, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_neither_a_resumed_nor_a_later_fit_loads_again(trainer, source, tmp_path):
    path, _ = source
    module, first = BoringModel(), Pretrained(str(path))
    save = ModelCheckpoint(tmp_path / "checkpoints", "kept")
    trainer(callbacks=[first, save], enable_checkpointing=True).fit(module)
    path.unlink()
    left = copy.deepcopy(module.state_dict())

    later = Pretrained(str(path))
    later.load_state_dict(first.state_dict())
    trainer(callbacks=later, max_epochs=0).fit(module)
    assert_close(dict(module.state_dict()), dict(left), rtol=0, atol=0)

    resumed, again = BoringModel(), Pretrained(str(path))
    trainer(callbacks=again).fit(resumed, ckpt_path=tmp_path / "checkpoints" / "kept.ckpt", weights_only=True)
    assert_close(dict(resumed.state_dict()), dict(left), rtol=0, atol=0)
    assert again.state_dict() == first.state_dict()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_fit_that_goes_on_from_a_checkpoint_without_it_has_the_weights_of_that(trainer, source, tmp_path, caplog):
    path, _ = source
    module, method = BoringModel(), Pretrained(str(path))
    trainer().fit(module)
    kept = trainer(enable_checkpointing=True, max_epochs=0)
    kept.fit(module)
    kept.save_checkpoint(tmp_path / "kept.ckpt")
    found = BoringModel()
    with caplog.at_level(logging.INFO):
        trainer(callbacks=method, max_epochs=0).fit(found, ckpt_path=tmp_path / "kept.ckpt", weights_only=True)
        trainer(callbacks=method, max_epochs=0).fit(found)
    assert_close(dict(found.state_dict()), dict(module.state_dict()), rtol=0, atol=0)
    assert "Weights from" not in caplog.text


def test_names_the_file_that_is_missing(trainer):
    with pytest.raises(ValueError, match=r"no checkpoint at nowhere\.pth"):
        trainer(callbacks=Pretrained("nowhere.pth")).fit(BoringModel())
