"""A stream that keeps exemplars, and the commands that look after them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import Budget, ExemplarMemory, Split, read_cases, split_cases

LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
KEEP = {"policy": "Random", "budget": {"samples": 4}}
HERDING = {"policy": "Herding", "layer": "body.model.0", "budget": {"samples": 4}}


def load(path):
    return torch.load(path, weights_only=True)


def weights(run, name):
    return load(run / f"experiences/{name}/model.ckpt")["state_dict"]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_stream_keeps_exemplars_of_each_experience_and_learns_from_them(stream, run, shapes):
    main(["fit", "--config", stream(LWF, memory=KEEP)])
    memory = ExemplarMemory(run / "memory")
    assert [(e.experience, e.rank) for e in memory.exemplars] == [(n, r) for n in ("ball", "box") for r in range(4)]
    for i, name in enumerate(("ball", "box")):
        cases = split_cases(read_cases(shapes).cases, Split((0.5, 0.25, 0.25), part=(i, 2)), shapes)
        training = {case.patient for case in cases["train"]}
        assert {e.patient for e in memory.exemplars if e.experience == name} <= training
    facts = json.loads((run / "run.json").read_text())["experiences"]
    assert [(e["steps"], e["exemplars"]) for e in facts] == [(4, 4), (6, 8)]  # a batch of exemplars in each epoch
    assert facts[1]["memory_bytes"] >= sum(e.bytes for e in memory.exemplars)


@pytest.mark.slow
def test_without_distillation_exemplars_train_their_own_head(stream, run, tmp_path):
    main(["fit", "--config", stream(memory=KEEP)])
    main(["fit", "--config", stream(), f"--trainer.default_root_dir={tmp_path / 'plain'}"])
    first, without = weights(run, "0_ball"), weights(tmp_path / "plain", "0_ball")
    assert all(torch.equal(value, without[name]) for name, value in first.items())
    last, without = weights(run, "1_box"), weights(tmp_path / "plain", "1_box")
    assert (last["heads.layers.0.weight"] - without["heads.layers.0.weight"]).abs().max() > 1e-4
    mine, theirs = (load(r / "experiences/1_box/model.ckpt") for r in (run, tmp_path / "plain"))
    assert mine["datamodule_hyper_parameters"] == theirs["datamodule_hyper_parameters"]


def test_an_experience_may_be_left_out_of_the_memory(stream, run):
    path = Path(stream(memory=KEEP))
    config = json.loads(path.read_text())
    config["stream"]["experiences"][1]["remember"] = False
    path.write_text(json.dumps(config))
    main(["fit", "--config", str(path), "--trainer.max_epochs=1"])
    assert {e.experience for e in ExemplarMemory(run / "memory").exemplars} == {"ball"}
    assert "box" not in (run / "memory/manifest.json").read_text()


@pytest.mark.slow
def test_a_bound_has_no_memory(stream, run):
    main(["fit", "--config", stream(memory=KEEP), "--stream.mode=single", "--trainer.max_epochs=1"])
    assert not (run / "memory").exists()


def test_policies_and_budgets_are_chosen_on_the_command_line(stream, run):
    options = ["--stream.memory.policy=ClassBalancedReservoir", "--stream.memory.budget.samples=0"]
    main(["fit", "--config", stream(memory=KEEP), "--trainer.max_epochs=1", *options])
    manifest = json.loads((run / "memory/manifest.json").read_text())
    assert manifest["exemplar_free"] is True
    assert manifest["experiences"]["box"] == {"classes": ["box"], "policy": "ClassBalancedReservoir"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("policy=Hrding", "There is no `Hrding` in lit_continual"),
        ("share=1.5", "`share` of exemplars must lie between 0 and 1, got 1.5"),
        ("budget.volumes=2", "counts `samples` or whole `volumes`, got both"),
        ("layr=3", "layr"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(stream, run, option, message, capsys):
    with pytest.raises((SystemExit, ValueError)) as raised:
        main(["fit", "--config", stream(memory=KEEP), f"--stream.memory.{option}"])
    assert message in str(raised.value) + capsys.readouterr().err
    assert not run.exists()


@pytest.mark.slow
def test_a_damaged_memory_stops_a_resumed_run(stream, run):
    config = stream(memory=KEEP)
    main(["fit", "--config", config])
    memory = ExemplarMemory(run / "memory")
    exemplar = memory.exemplars[0]
    (memory.folder / "exemplars" / exemplar.file).write_bytes(b"")
    (run / "experiences/1_box/model.ckpt").unlink()
    with pytest.raises(ValueError, match=rf"{exemplar.file}, an exemplar, is damaged"):
        main(["fit", "--config", config, "--resume"])


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["memory", "memory/manifest.json"])
def test_a_memory_that_is_gone_stops_a_resumed_run(stream, run, lost):
    config = stream(memory=KEEP)
    main(["fit", "--config", config])
    shutil.rmtree(run / lost) if lost == "memory" else (run / lost).unlink()
    (run / "experiences/1_box/model.ckpt").unlink()
    with pytest.raises(ValueError, match=r"manifest.json has no exemplars of ball, box, which the run has kept"):
        main(["fit", "--config", config, "--resume"])
    assert not (run / "experiences/1_box/model.ckpt").exists()


def test_a_memory_that_is_gone_when_more_is_to_be_kept_is_an_error(tmp_path):
    memory = ExemplarMemory(tmp_path / "memory")
    memory.add("ball", ["ball"], [], Budget(samples=2))
    memory.require_of(["ball"])
    memory.path.unlink()
    memory.require_of([])
    with pytest.raises(ValueError, match=r"manifest.json has no exemplars of ball"):
        memory.require_of(["ball"])


@pytest.mark.slow
def test_overwriting_a_run_begins_without_a_memory(stream, run):
    main(["fit", "--config", stream(memory=KEEP)])
    main(["fit", "--config", stream(), "--overwrite"])
    assert not (run / "memory").exists()


def test_memory_is_shown_and_a_patient_is_forgotten(stream, run, capsys, monkeypatch):
    main(["fit", "--config", stream(memory=HERDING), "--trainer.max_epochs=1"])
    memory = ExemplarMemory(run / "memory")
    capsys.readouterr()
    main(["memory", "show", str(memory.folder), "--exemplars"])
    shown = capsys.readouterr().out
    assert "8 exemplars" in shown
    assert "Herding" in shown
    patient = memory.exemplars[0].patient
    assert all(e.patient in shown for e in memory.exemplars)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["lit-continual", "memory", "show", str(memory.folder), "--exemplars"])
        (installed,) = entry_points(group="console_scripts", name="lit-continual")
        assert installed.load()() is None  # else the command would end as if it had failed
    assert capsys.readouterr().out == shown
    main(["memory", "forget", str(memory.folder), "--patient", patient])
    assert f"of {patient} are gone" in capsys.readouterr().out
    assert patient not in {e.patient for e in memory.exemplars}
    with pytest.raises(ValueError, match=r"holds nothing of patient nobody"):
        main(["memory", "forget", str(memory.folder), "--patient", "nobody"])
    with pytest.raises(ValueError, match=r"There is no memory in .*experiences"):
        main(["memory", "show", str(run / "experiences")])


@pytest.mark.slow
@pytest.mark.parametrize("memory", [KEEP, HERDING], ids=["random", "herding"])
def test_two_processes_remember_what_one_does(stream, tmp_path, memory):
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(LWF, memory=memory)]
    command += ["--model.optimizer=SGD", "--model.optimizer.lr=0.1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one", tmp_path / "two"
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2"]
    for run, options in ((one, []), (two, ddp)):
        root = f"--trainer.default_root_dir={run}"
        subprocess.run([*command, *options, root], check=True, env=environment, timeout=900)
    mine, theirs = (ExemplarMemory(run / "memory") for run in (two, one))
    assert [(e.patient, e.slice) for e in mine.exemplars] == [(e.patient, e.slice) for e in theirs.exemplars]
    for name in ("0_ball", "1_box"):
        torch.testing.assert_close(weights(two, name), weights(one, name), rtol=0, atol=1e-5)
