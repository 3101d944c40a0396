import json
import logging
import math

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint

from lit_continual.callbacks import Distillation
from lit_continual.cli import main
from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.modules import Segmenter
from lit_continual.reports.overlay import Overlay
from lit_continual.reports.summary import measures
from lit_continual.runs.run import Run

NETWORK = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}}
LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


def load(path):
    return torch.load(path, weights_only=True)


def matrix(run, score="dice"):
    rows = json.loads((run / "matrix.json").read_text())[score]
    return np.array([[math.nan if value is None else value for value in row] for row in rows])


def described(run):
    return json.loads((run / "run.json").read_text())


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.mark.usefixtures("undrawn")
def test_a_stream_leaves_a_matrix_checkpoints_cases_and_overlays(stream, run, reports):
    main(["fit", "--config", stream(LWF)])
    R = matrix(run)
    assert np.isfinite(R).tolist() == [[True, False], [True, True]]
    first, last = (load(run / f"experiences/{name}/model.ckpt") for name in ("0_ball", "1_box"))
    assert first["hyper_parameters"]["heads"] == [["ball"]]
    assert last["hyper_parameters"]["heads"] == [["ball"], ["box"]]
    assert last["callbacks"]["Distillation[distillation]"]["fitted"]
    facts = described(run)
    assert facts["status"] == "finished"
    assert facts["device"] == "cpu"
    assert [(e["epochs"], e["steps"]) for e in facts["experiences"]] == [(2, 4), (2, 4)]
    for i, e in enumerate(facts["experiences"]):
        assert (run / f"experiences/{i}_{e['name']}/model.ckpt").stat().st_size == e["checkpoint_bytes"]
    lines = (run / "cases.csv").read_text().splitlines()
    assert lines[0] == "after,on,patient,volume,class,dice,assd,hd95"
    cases = [line.split(",") for line in lines[1:]]
    for i, j in ((0, 0), (1, 0), (1, 1)):
        scores = [float(c[5]) for c in cases if c[:2] == [str(i), str(j)]]
        assert len(scores) == 2
        assert np.mean(scores) == pytest.approx(R[i, j], abs=1e-5)
    assert sorted(path.name for path in (run / "overlays").iterdir()) == ["0_0.npz", "1_0.npz", "1_1.npz"]
    patients = {c[2] for c in cases if c[:2] == ["1", "0"]}
    assert {overlay.patient for overlay in Overlay.load_all(run / "overlays/1_0.npz")} == patients
    assert sorted(path.name for path in (run / "experiences/0_ball").iterdir()) == ["model.ckpt"]
    assert not list(run.rglob("*.part"))
    assert (run / "report/report.html").exists()
    assert (run / "config.yaml").exists()


@pytest.mark.slow
def test_the_same_seed_makes_the_same_run_and_another_seed_another(stream, tmp_path):
    config = stream(LWF)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(["fit", "--config", config, f"--seed_everything={seed}", f"--trainer.default_root_dir={tmp_path / name}"])
    weights = [load(tmp_path / name / "experiences/1_box/model.ckpt")["state_dict"] for name in "abc"]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    assert any(not torch.equal(a, c) for a, c in zip(weights[0].values(), weights[2].values(), strict=True))
    for file in ("matrix.json", "cases.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_domain_increment_fills_the_upper_triangle(stream, run, shapes, dim_shapes):
    both = {"ball": 1, "box": 2}
    data = [{}, {"dataset": str(dim_shapes)}, {"dataset": str(dim_shapes), "patch_size": [8, 8]}]
    experiences = [{"name": f"site {i}", "classes": both, "data": d} for i, d in enumerate(data)]
    main(["fit", "--config", stream(experiences=experiences), "--trainer.max_epochs=1"])
    R = matrix(run)
    assert np.isfinite(R).all()
    found = Run.load(run)
    dice = next(score for score in found.scores if score.name == "dice")
    assert measures(found, dice)["fwt"] == pytest.approx((R[0, 1] + R[1, 2]) / 2)  # over a Dice of 0
    assert load(run / "experiences/2_site 2/model.ckpt")["hyper_parameters"]["heads"] == [["ball", "box"]]


@pytest.mark.slow
def test_three_experiences_each_with_its_epochs(stream, run, dim_shapes):
    experiences = [
        {"name": "ball", "classes": {"ball": 1}},
        {"name": "box", "classes": {"box": 2}, "max_epochs": 1},
        {"name": "other box", "classes": {"cube": "box"}, "data": {"dataset": str(dim_shapes)}, "max_epochs": 3},
    ]
    main(["fit", "--config", stream(LWF, experiences=experiences)])
    assert np.isfinite(matrix(run)).tolist() == np.tri(3, dtype=bool).tolist()
    assert [e["epochs"] for e in described(run)["experiences"]] == [2, 1, 3]
    assert load(run / "experiences/2_other box/model.ckpt")["hyper_parameters"]["heads"] == [
        ["ball"],
        ["box"],
        ["cube"],
    ]


def test_joint_mode_has_one_row_and_single_mode_the_diagonal(stream, run):
    fit = ["fit", "--config", stream(), "--trainer.max_epochs=1"]
    main([*fit, "--stream.mode=joint", "--trainer.default_root_dir", str(run / "joint")])
    main([*fit, "--stream.mode=single", "--trainer.default_root_dir", str(run / "single")])
    assert np.isfinite(matrix(run / "joint")).tolist() == [[False, False], [True, True]]
    assert np.isfinite(matrix(run / "single")).tolist() == [[True, False], [False, True]]
    heads = load(run / "joint/experiences/1_box/model.ckpt")["hyper_parameters"]["heads"]
    assert heads == [["ball", "box"]]
    assert load(run / "single/experiences/1_box/model.ckpt")["hyper_parameters"]["heads"] == [["box"]]


def test_a_split_without_validation_volumes_is_no_warning(stream, run):  # which would be an error here
    nobody = "--data.split.fractions=[0.5, 0, 0.5]"
    main(["fit", "--config", stream(), nobody, "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=2"])
    assert np.isfinite(matrix(run)[-1]).all()


def test_settings_are_chosen_on_validation_volumes_and_no_test_volume_is_read(stream, run, monkeypatch):
    read, volumes = set(), SegmentationDataModule._volumes
    monkeypatch.setattr(SegmentationDataModule, "_volumes", lambda d, s, *rest: read.add(s) or volumes(d, s, *rest))
    fit = ["fit", "--config", stream(), "--trainer.max_epochs=1"]
    main([*fit, "--stream.evaluate=val"])
    found, experiences = Run.load(run), yaml.safe_load((run / "config.yaml").read_text())["stream"]["experiences"]
    assert read == {"train", "val"}
    assert (found.title, found.evaluated) == ("run, validation", "val")
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["dataset"]
    for on, part in enumerate(experiences):
        split = Split(fractions=(0.5, 0.25, 0.25), part=tuple(part["data"]["split"]["part"]))
        there = SegmentationDataModule(data, [16, 16], part["classes"], split=split).cases["val"]
        assert {c.patient for c in found.cases if c.on == on} == {case.patient for case in there}
    main([*fit, f"--trainer.default_root_dir={run}2"])
    assert same_weights(run / "experiences/1_box/model.ckpt", f"{run}2/experiences/1_box/model.ckpt")
    with pytest.raises(ValueError, match="The val split of experience ball is empty"):
        main([*fit, "--stream.evaluate=val", "--data.split.fractions=[0.5, 0, 0.5]", "--overwrite"])


def same_weights(one, other):
    a, b = load(one)["state_dict"], load(other)["state_dict"]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_fine_tuning_leaves_the_old_head_as_it_was(stream, run):
    main(["fit", "--config", stream(), "--model.optimizer.weight_decay=0.0", "--trainer.max_epochs=1"])
    first, last = (load(run / f"experiences/{name}/model.ckpt")["state_dict"] for name in ("0_ball", "1_box"))
    assert all(torch.equal(first[name], last[name]) for name in first if name.startswith("heads"))
    assert any(not torch.equal(first[name], last[name]) for name in first if name.startswith("body"))


def test_extending_a_trained_model_begins_with_its_outputs_bit_for_bit(stream, run, tmp_path):
    main(["fit", "--config", stream(), "--trainer.max_epochs=1"])
    start = run / "experiences/0_ball/model.ckpt"
    callbacks = {"class_path": "Distillation", "init_args": {"alpha": 0.5, "teacher": "start"}}
    new = [{"name": "box", "classes": {"box": 2}}]
    config = stream(callbacks, experiences=new, start=str(start), name="extend")
    image = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    old = Segmenter.load_from_checkpoint(start, weights_only=True).eval()
    seen = []

    def on_fit_start(self, trainer, pl_module, original=Distillation.on_fit_start):
        original(self, trainer, pl_module)
        mode = pl_module.training
        seen.append(pl_module.eval()(image).detach())
        pl_module.train(mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "on_fit_start", on_fit_start)
        main(
            ["fit", "--config", config, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path / 'extended'}"]
        )
    assert torch.equal(seen[0][:, :2], old(image))
    assert seen[0].shape[1] == 4
    extended = tmp_path / "extended/experiences/0_box/model.ckpt"
    assert Segmenter.load_from_checkpoint(extended, weights_only=True).classes == ["ball", "box"]
    assert "train/distillation" in next((tmp_path / "extended/logs").rglob("metrics.csv")).read_text()


@pytest.mark.slow
def test_who_starts_from_the_first_experience_learns_the_second_as_the_whole_stream_does(stream, run, tmp_path):
    main(["fit", "--config", stream(LWF), "--trainer.max_epochs=1"])
    main(["fit", "--config", stream(), "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path / 'first'}"])
    start = str(tmp_path / "first/experiences/0_ball/model.ckpt")
    config = json.loads((tmp_path / "config.yaml").read_text())
    known, new = config["stream"]["experiences"]
    begun = stream(LWF, start=start, experiences=[{**known, "max_epochs": 0}, new])
    main(["fit", "--config", begun, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path / 'begun'}"])
    mine, whole = (load(r / "experiences/1_box/model.ckpt")["state_dict"] for r in (tmp_path / "begun", run))
    assert all(torch.equal(mine[name], whole[name]) for name in whole)
    np.testing.assert_array_equal(matrix(tmp_path / "begun"), matrix(run))


def test_what_cannot_be_extended_is_refused_before_a_folder_is_made(stream, run, tmp_path):
    with pytest.raises(ValueError, match=r"There is no checkpoint at .*nowhere\.ckpt"):
        main(["fit", "--config", stream(start=str(tmp_path / "nowhere.ckpt"))])
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "hyper_parameters": {"heads": []}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt does not fit the model of this config"):
        main(["fit", "--config", stream(start=str(tmp_path / "other.ckpt"))])
    assert not run.exists()


def test_without_the_command_line_a_plain_trainer_does_it(shapes, trainer):
    def data(classes, part):
        split = Split(fractions=(0.5, 0.25, 0.25), part=part)
        return SegmentationDataModule(str(shapes), [16, 16], classes, batch_size=4, split=split)

    module, method = Segmenter({**NETWORK, "norm": "INSTANCE"}, features=4), Distillation()
    trainer(callbacks=[method]).fit(module, datamodule=data({"ball": 1}, (0, 2)))
    assert module.head_channels == [[0, 1]]
    second = trainer(callbacks=[method])
    second.fit(module, datamodule=data({"box": 2}, (1, 2)))
    assert module.head_channels == [[0, 1], [2, 3]]
    assert second.callback_metrics["train/distillation"] > 0
    (found,) = trainer().test(module, datamodule=data({"ball": 1}, (0, 2)), verbose=False)
    assert {"test/dice", "test/assd", "test/hd95", "test/dice/ball", "test/dice/left_out"} <= set(found)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # two fits into one folder
def test_callbacks_of_lightning_go_along(stream, run):
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/dice", "mode": "max", "patience": 1}}
    keep = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/dice", "mode": "max"}}
    names = {c.__name__ for c in (EarlyStopping, ModelCheckpoint, LearningRateMonitor)}
    listed = [stop, keep, {"class_path": "LearningRateMonitor"}]
    assert {c["class_path"] for c in listed} == names
    main(["fit", "--config", stream(*listed), "--trainer.enable_checkpointing=false"])
    assert np.isfinite(matrix(run)).sum() == 3


@pytest.mark.slow  # the next one says when an average is of the heads that there are
def test_an_average_of_the_weights_is_one_of_grown_heads_too(stream, tmp_path):
    ema = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 1.0}}  # what is after the first step
    heads = []
    for name, callbacks, length in (("averaged", [ema], "max_epochs=2"), ("short", [], "max_steps=1")):
        options = [f"--trainer.default_root_dir={tmp_path / name}", f"--trainer.{length}"]
        main(["fit", "--config", stream(*callbacks), *options])
        weights = torch.load(tmp_path / name / "experiences/0_ball/model.ckpt", weights_only=True)["state_dict"]
        heads.append([value for name, value in weights.items() if name.startswith("heads.")])
    assert heads[0]
    assert all(map(torch.equal, *heads))


def test_an_average_that_was_copied_before_heads_grew_is_refused(trainer, shapes):
    data = SegmentationDataModule(str(shapes), [16, 16], {"ball": 1}, split=Split(fractions=(0.5, 0.25, 0.25)))
    module = Segmenter(NETWORK, features=4)
    with pytest.raises(MisconfigurationException, match=r"`EMAWeightAveraging` has copied the module .* for ball, so"):
        trainer(callbacks=EMAWeightAveraging()).fit(module, datamodule=data)
    module = Segmenter(NETWORK, features=4, heads=[["ball"]])
    trainer(callbacks=EMAWeightAveraging(), max_steps=1, limit_val_batches=0).fit(module, datamodule=data)


def test_the_terminal_shows_a_line_an_experience_and_no_chatter(stream, capfd):
    main(["fit", "--config", stream(), "--stream.name=tiny"])
    text = "".join(capfd.readouterr())
    assert "1/2 ball: learning on cpu" in text
    assert "2/2 box: 2 epochs in" in text
    assert "dice on ball 0." in text
    for chatter in ("GPU available", "litlogger", "weights_only", "stopped: `max_epochs"):
        assert chatter not in text
    level = logging.getLogger("lightning.pytorch").getEffectiveLevel()
    assert level <= logging.INFO  # Lightning speaks again when the stream is over
