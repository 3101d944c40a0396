"""The first change that a user makes to a shipped config works: each config with each change."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_continual.cli import main
from lit_continual.modules import HydraNet, Segmenter
from lit_continual.phantoms.brain.phantom import write_brain_phantom
from lit_continual.phantoms.shoulder.phantom import write_shoulder_phantom
from lit_continual.stream.stream_loop import StreamLoop

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"extend_nnunet"})  # see tests/interop/nnunet
ORGANS = {"head_neck", "streams_exemplar_free", "streams_memory"}
REAL = {
    "covid",
    "decathlon_hippocampus",
    "hippocampus",
    "hydra_net",
    "lgg_sites",
    "pet_real",
    "tgd_hippocampus",
} | ORGANS
SHOULDER = {"data.subjects": 5, "data.split.fractions": [0.4, 0.2, 0.4]}
PET = {"data.size": 32, "data.depth": 8, "data.realisations": 2}
TASKS = {"hydra_net": ["head_neck", "sarcoma", "hippocampus"], "covid": ["head_neck", "sarcoma", "hippocampus"]}
#: What makes a config small, beside one batch of everything.
SMALL = {
    **dict.fromkeys(["aeiseg", "aeiseg_contrast", "agem", "der", "er", "ewc", "extend", "finetune"], SHOULDER),
    **dict.fromkeys(["fusion", "isolation", "l2sp", "lora", "lwfseg", "mib", "plop"], SHOULDER),
    "coriseg": {**SHOULDER, "stream.memory.policy.network": "own", "stream.memory.policy.layers": ["body.conv_0"]},
    "meta_tune": {"data.subjects": 10},
    "pet": {**PET, "data.train_slices": [2, 8]},
    "pet_real": PET,
}
#: Phantoms of as wide slices, but a quarter of them.
PHANTOMS = {"brain": (write_brain_phantom, (96, 112, 5)), "shoulder": (write_shoulder_phantom, (96, 96, 6))}


def each_task(config, **arguments):
    """Arguments of the data module, or of each of several."""
    places = [f"data.tasks.{task}" for task in TASKS[config]] if config in TASKS else ["data"]
    return {f"{place}.{name}": value for place in places for name, value in arguments.items()}


def patch(config):
    if "pet" in config:
        return {"data.size": 48}
    if config in TASKS:
        return {**each_task(config, patch_size=[96, 96]), "model.roi_size": [64, 64]}
    sizes = {"lgg_sites": [64, 64], "meta_tune": [64, 64]}
    return {"data.patch_size": [32, 32, 32] if config in ORGANS else sizes.get(config, [32, 48])}


CHANGES = {
    "as it is": lambda config: {},
    "epochs": lambda config: {"trainer.max_epochs": 3},
    "many epochs": lambda config: {"trainer.max_epochs": 50},
    "batch size": lambda config: each_task(config, batch_size=3),
    "spacing": lambda config: (
        {"data.depth": 10} if "pet" in config else each_task(config, **{"preprocessing.spacing": [2.0, 2.0, 6.0]})
    ),
    "patch": patch,
    "devices": lambda config: {"trainer.devices": 1},
    "precision": lambda config: {"trainer.precision": "bf16-mixed"},
    "seed": lambda config: {"seed_everything": 7},
    "no logger": lambda config: {"trainer.logger": False},
    "logger": lambda config: {"trainer.logger": "CSVLogger", "trainer.logger.save_dir": "logs"},
}
#: Callbacks and memories on the model and the data of others, whose rooms have streams of their own.
ALIKE = {"aeiseg_contrast", "agem", "der", "fusion", "isolation", "l2sp", "plop"}
#: Options that many tests give.
PLAIN = {"epochs", "many epochs", "devices", "seed", "no logger"}
#: Where a change is another one, or meets another kind of data or of training, than in lwfseg.
OTHERWISE = {("pet", "spacing"), ("pet", "patch"), ("meta_tune", "batch size"), ("meta_tune", "patch")}


def marks(config, change):
    """Fast are most configs as they are, most changes of one of them, and where a change is another one elsewhere."""
    fast = (
        (change == "as it is" and config not in ALIKE)
        or (config, change) in OTHERWISE
        or (config == "lwfseg" and change not in PLAIN)
    )
    return [] if fast and config not in REAL else [pytest.mark.slow]


PAIRS = [pytest.param(c, k, id=f"{c}-{k.replace(' ', '_')}", marks=marks(c, k)) for c in NAMES for k in CHANGES]


def seal(module, path):
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "callbacks": {}}
    torch.save({**content, "pytorch-lightning_version": "2.6.4"}, path)
    return str(path)


@pytest.fixture(scope="session")
def starts(tmp_path_factory):
    """The checkpoints that two configs start from."""
    folder = tmp_path_factory.mktemp("starts")
    body = {"spatial_dims": 2, "features": [8, 16, 32, 64, 128, 16], "norm": "BATCH"}
    humerus = Segmenter({"class_path": "BasicUNet", "init_args": body}, features=16, heads=[["humerus"]])
    organs = ["mandible", "spinal_cord", "brainstem", "left_parotid", "right_parotid"]
    hydra = {"class_path": "DenseNet121UNet", "init_args": {"decoder_channels": [64, 48, 32, 24, 16]}}
    sources = HydraNet(hydra, features=16, heads=[organs, ["gtv"], ["anterior", "posterior"]], roi_size=[64, 64])
    return {"extend": seal(humerus, folder / "a.ckpt"), "covid": seal(sources, folder / "b.ckpt")}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fit(tmp_path, monkeypatch, cache, starts):
    for kind, (write, size) in PHANTOMS.items():
        place = f"lit_continual.phantoms.{kind}.{kind}_data_module.{write.__name__}"
        monkeypatch.setattr(place, partial(write, size=size, spacing=(1.8, 1.8, 24.0)))
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def run(config, change, **limits):
        if config in REAL and not os.environ.get("LIT_CONTINUAL_DATA"):
            pytest.skip("needs LIT_CONTINUAL_DATA")
        options = {"trainer.default_root_dir": tmp_path / "run", "trainer.enable_progress_bar": False}
        options |= {"trainer.accelerator": os.environ.get("TEST_ACCELERATOR", "cpu"), **SMALL.get(config, {}), **limits}
        if "pet" in config:
            options["data.cache"] = cache / "studies"
        if config == "decathlon_hippocampus":
            options["data.root"] = os.environ["LIT_CONTINUAL_DATA"]
        if config in starts:
            options["stream.start"] = starts[config]
        options |= CHANGES[change](config)
        files = ["hydra_net", "covid"] if config == "covid" else [config]
        given = [f"--config={CONFIGS / file}.yaml" for file in files]
        main(
            [
                "fit",
                *given,
                *(
                    f"--{k}={v if isinstance(v, str) else json.dumps(v, default=str).strip(chr(34))}"
                    for k, v in options.items()
                ),
            ]
        )
        return tmp_path / "run"

    return run


@pytest.mark.parametrize(("config", "change"), PAIRS)
def test_a_change_is_taken_and_the_stream_can_begin(fit, monkeypatch, config, change):
    began = []
    monkeypatch.setattr(StreamLoop, "run", lambda loop: (began.append(loop), loop.folder.finish()))
    run = fit(config, change)
    assert len(began) == 1
    assert (run / "config.yaml").exists()


TINY = {"trainer.limit_train_batches": 1, "trainer.limit_val_batches": 1, "trainer.limit_test_batches": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "change"), PAIRS)
def test_a_stream_with_a_change_ends(fit, config, change):
    epochs = {} if change.endswith("epochs") else {"trainer.max_epochs": 1}
    run = fit(config, change, **TINY, **epochs, **{"trainer.enable_model_summary": False})
    described = json.loads((run / "run.json").read_text())
    assert described["status"] == "finished"
