import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

import lit_continual.callbacks
import lit_continual.modules  # noqa: F401  # the names that a config may use
from lit_continual.methods.meta.old_config import how_to_convert

MODULE = {"class_path": "Segmenter", "init_args": {"features": 4}}
STRATEGY = {"class_path": "MAML"}


def message_of(section):
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    with pytest.raises(Exception, match="model") as raised:
        parser.parse_object({"model": section})
    return str(raised.value)


@pytest.mark.parametrize("name", ["MetaTune", "lit_continual.MetaTune", "lit_continual.modules.MetaTune"])
def test_an_old_config_is_told_how_to_convert(name):
    message = message_of({"class_path": name, "init_args": {"strategy": STRATEGY, "module": MODULE}})
    assert "write what stood in its `module` as `model`" in how_to_convert(message)


def test_other_mistakes_are_left_alone():
    assert how_to_convert(message_of({"class_path": "Segmentor", "init_args": {}})) == ""
    assert how_to_convert('Parser key "trainer.callbacks":\n  MetaTune: Key "strategie" is not expected') == ""
