import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import lit_continual
from lit_continual.cli import main
from lit_continual.cli.commands import COMMANDS
from lit_continual.files.folder_lock import FolderLock
from lit_continual.modules import Segmenter

LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The run of :func:`trained` once it is there, and where it was trained."""
    return [tmp_path_factory.mktemp("kept") / "run"]


@pytest.fixture
def trained(stream, tmp_path, kept):
    """A run of the tiny stream, trained once and copied to where each test would have trained it."""
    run, config = tmp_path / "run", stream(LWF)
    if len(kept) == 1:
        main(["fit", "--config", config, "--trainer.max_epochs=1", "--trainer.logger=false"])
        shutil.copytree(run, kept[0])
        kept.append(str(tmp_path))
    else:
        shutil.copytree(kept[0], run)
        for path in (run / "config.yaml", run / "run.json"):
            path.write_text(path.read_text().replace(kept[1], str(tmp_path)))
    return run


def outcome(capsys, *args):
    """Exit code and what was written, on a command line that ends the process."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return ended.value.code, capsys.readouterr()


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_saved_config_runs_again_and_ends_the_same(trained, tmp_path):
    main(["fit", "--config", str(trained / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'again'}"])
    for name in ("0_ball", "1_box"):
        mine, theirs = (weights(run / "experiences" / name / "model.ckpt") for run in (tmp_path / "again", trained))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_folder_that_holds_a_run_is_kept_resumed_or_overwritten(trained, stream):
    config, run = stream(LWF), ["--trainer.max_epochs=1", "--trainer.logger=false"]
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.ckpt")}
    with pytest.raises(ValueError, match=r"holds a run already\. Add --resume to go on with it, --overwrite"):
        main(["fit", "--config", config, *run])
    main(["fit", "--config", config, *run, "--resume"])
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.ckpt")} == before
    with pytest.raises(ValueError, match="holds another run than this config describes"):
        main(["fit", "--config", config, *run, "--resume", "--seed_everything=1"])
    main(["fit", "--config", config, *run, "--overwrite", "--seed_everything=1"])
    assert json.loads((trained / "run.json").read_text())["seed"] == 1
    assert all(path.stat().st_mtime_ns != before[path] for path in trained.rglob("*.ckpt"))


OTHERWISE = {
    "trainer.callbacks.0.init_args.alpha": ["--trainer.callbacks.alpha=0.7"],
    "trainer.callbacks": ["--trainer.callbacks=null"],
    "model.init_args.optimizer.init_args.lr": ["--model.optimizer.lr=0.1"],
    "trainer.max_epochs": ["--trainer.max_epochs=2"],
    "data.init_args.split.fractions": ["--data.split.fractions=[0.25,0.25,0.5]"],
    "trainer.devices": ["--trainer.devices=1"],
}


def test_a_run_goes_on_with_the_settings_that_it_was_begun_with(trained, stream, capsys):
    resume = ["fit", "--config", stream(LWF), "--trainer.max_epochs=1", "--trainer.logger=false", "--resume"]
    before = (trained / "config.yaml").read_text()
    for name, options in OTHERWISE.items():
        with pytest.raises(ValueError, match=rf"was begun with other settings: {re.escape(name)}.* is .* and was "):
            main([*resume, *options])
    assert (trained / "config.yaml").read_text() == before
    main([*resume, "--trainer.enable_progress_bar=true", "--data.num_workers=1"])
    faster = [*resume, *OTHERWISE["model.init_args.optimizer.init_args.lr"]]
    capsys.readouterr()
    main([*faster, "--resume-with-changes"])
    assert "goes on with changed settings, noted in run.json" in capsys.readouterr().out
    described = json.loads((trained / "run.json").read_text())
    assert described["changes"] == [{"model.init_args.optimizer.init_args.lr": [0.01, 0.1]}]
    main(faster)
    with pytest.raises(ValueError, match=r"lr is 0.01 and was 0.1"):
        main(resume)
    del described["settings"]
    (trained / "run.json").write_text(json.dumps(described))
    main(resume)
    assert "begun by a version that noted no settings" in capsys.readouterr().out


def test_a_run_under_way_is_left_alone(trained, stream):
    before = sorted(path.stat().st_mtime_ns for path in trained.rglob("*"))
    assert FolderLock(trained).take(os.getppid()) == ""
    for option in ("--overwrite", "--resume"):
        with pytest.raises(ValueError, match=rf"is being written by process {os.getppid()} on"):
            main(["fit", "--config", stream(LWF), "--trainer.max_epochs=1", "--trainer.logger=false", option])
    shutil.rmtree(trained / ".running")
    assert sorted(path.stat().st_mtime_ns for path in trained.rglob("*")) == before


def test_a_finished_run_whose_report_fails_is_finished(stream, tmp_path, monkeypatch, capsys):
    def fails(runs, folder=None):
        raise PermissionError(13, "Permission denied", "report")

    monkeypatch.setattr("lit_continual.reports.report.write_report", fails)
    main(["fit", "--config", stream(), "--trainer.max_epochs=1", "--trainer.logger=false"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"lit-continual: warning: the run in {tmp_path / 'run'} is finished, but its report could")
    assert said.endswith(f"Permission denied: 'report'). Make it with `lit-continual report {tmp_path / 'run'}`.")
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


def test_a_run_notes_its_threads_and_goes_on_with_as_many(trained, stream):
    threads = torch.get_num_threads()
    described = json.loads((trained / "run.json").read_text())
    assert described["threads"] == threads
    (trained / "run.json").write_text(json.dumps({**described, "threads": threads + 1}))
    try:
        main(["fit", "--config", stream(LWF), "--trainer.max_epochs=1", "--trainer.logger=false", "--resume"])
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_a_stream_of_one_batch_is_refused(stream, tmp_path):
    with pytest.raises(ValueError, match=r"fast_dev_run. would leave a run of one batch that looks finished"):
        main(["fit", "--config", stream(), "--trainer.fast_dev_run=true"])
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_write_over_what_it_reads(trained, stream, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    config = own / "config.yaml"
    config.write_text(Path(stream()).read_text())
    with pytest.raises(ValueError, match=r"config.yaml would be overwritten. Choose another --trainer.default_r"):
        main(["fit", "--config", str(config), f"--trainer.default_root_dir={own}"])
    start = trained / "experiences/0_ball/model.ckpt"
    with pytest.raises(ValueError, match=r"The input .*model.ckpt would be overwritten"):
        main(["fit", "--config", stream(), f"--stream.start={start}", "--overwrite"])
    assert start.exists()


def test_a_score_that_a_segmenter_does_not_log_is_named_before_a_folder_is_made(stream, tmp_path):
    with pytest.raises(ValueError, match=r"`stream.scores` has dcie, which Segmenter does not log.*assd, dice"):
        main(["fit", "--config", stream(scores={"dcie": {}, "dice": {}})])
    assert not (tmp_path / "run").exists()


class Somebodys(Segmenter):
    def test_step(self, batch, batch_idx):
        self.log("test/mine", 0.5, batch_size=1)

    def on_test_epoch_end(self):
        pass


def test_a_score_that_nobody_logs_is_named_before_the_second_fit(stream, tmp_path):
    config = json.loads(Path(stream(scores={"mine": {}, "mnie": {}})).read_text())
    config["model"]["class_path"] = f"{__name__}.Somebodys"
    (tmp_path / "theirs.yaml").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has mnie, which Somebodys does not log as `test/<name>`: it logs mine\."):
        main(["fit", "--config", str(tmp_path / "theirs.yaml"), "--trainer.max_epochs=1", "--trainer.logger=false"])
    assert [path.name for path in (tmp_path / "run/experiences").iterdir()] == ["0_ball"]


def test_print_config_runs_again(stream, tmp_path, capsys):
    code, written = outcome(capsys, "fit", "--config", stream(LWF), "--trainer.max_epochs=7", "--print_config")
    assert code == 0
    config = yaml.safe_load(written.out)
    assert config["trainer"]["max_epochs"] == 7
    assert [e["name"] for e in config["stream"]["experiences"]] == ["ball", "box"]
    assert config["model"]["class_path"] == "lit_continual.Segmenter"
    (tmp_path / "printed.yaml").write_text(written.out)
    again, repeated = outcome(capsys, "fit", "--config", str(tmp_path / "printed.yaml"), "--print_config")
    assert again == 0
    assert yaml.safe_load(repeated.out) == config


def test_later_configs_and_options_go_over_earlier_ones(stream, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("trainer: {max_epochs: 5, accumulate_grad_batches: 2}\nstream: {mode: joint}")
    arguments = ["--config", stream(), "--config", str(tmp_path / "more.yaml"), "--trainer.max_epochs=6"]
    _, written = outcome(capsys, "fit", *arguments, "--trainer.callbacks+=Distillation", "--print_config")
    config = yaml.safe_load(written.out)
    assert (config["trainer"]["max_epochs"], config["trainer"]["accumulate_grad_batches"]) == (6, 2)
    assert config["stream"]["mode"] == "joint"
    assert [c["class_path"] for c in config["trainer"]["callbacks"]] == ["lit_continual.Distillation"]


@pytest.mark.parametrize("how", ["option", "two words", "config", "short"])
def test_experiences_that_are_given_again_inherit_nothing(stream, tmp_path, capsys, how):
    ball, box = {"name": "ball", "max_epochs": 0, "remember": False, "model": {"features": 8}}, {"name": "box"}
    again = json.dumps([{"name": "box"}, {"name": "rod", "max_epochs": 3}])
    (tmp_path / "again.yaml").write_text(f"stream: {{experiences: {again}}}")
    arguments = {
        "option": [f"--stream.experiences={again}"],
        "two words": ["--stream.experiences", again],
        "config": ["--config", str(tmp_path / "again.yaml")],
        "short": ["-c", str(tmp_path / "again.yaml")],
    }
    config = ["--config", stream(experiences=[ball, box])]
    _, written = outcome(capsys, "fit", *config, *arguments[how], "--print_config")
    first, second = yaml.safe_load(written.out)["stream"]["experiences"]
    assert first == {"name": "box", "classes": {}, "data": {}, "max_epochs": None, "model": {}, "remember": True}
    assert (second["name"], second["max_epochs"]) == ("rod", 3)


@pytest.mark.parametrize("how", ["option", "config"])
def test_callbacks_that_are_given_again_inherit_nothing(stream, tmp_path, capsys, how):
    tgd = {"class_path": "TargetedGradientDescent", "init_args": {"phi": 0.4, "network": "body", "after": 1}}
    again = json.dumps([{"class_path": "TrainOnly", "init_args": {"parts": ["heads"]}}])
    (tmp_path / "again.yaml").write_text(f"trainer: {{callbacks: {again}}}")
    given = {"option": [f"--trainer.callbacks={again}"], "config": ["--config", str(tmp_path / "again.yaml")]}[how]
    _, written = outcome(capsys, "fit", "--config", stream(tgd), *given, "--print_config")
    (callback,) = yaml.safe_load(written.out)["trainer"]["callbacks"]
    assert callback["init_args"] == {"parts": ["heads"], "network": None, "after": 0, "hold_statistics": False}
    _, written = outcome(capsys, "fit", "--config", stream(tgd), "--trainer.callbacks.phi=0.2", "--print_config")
    (callback,) = yaml.safe_load(written.out)["trainer"]["callbacks"]
    assert (callback["init_args"]["phi"], callback["init_args"]["after"]) == (0.2, 1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.max_epohcs=2", "max_epohcs"),
        ("--trainer.max_epoch=2", "Did you mean --trainer.max_epochs"),
        ("--model.featurs=4", "Did you mean features?"),
        ("--data.batchsize=4", "Did you mean batch_size"),
        ("--trainer.callbacks=Destillation", "Did you mean Distillation?"),
        ("--trainer.callbacks=none", "Write `null` for none."),
        (
            "--stream.experiences=[{name: a, data: {class_path: DecathlonDataModule, init_args: {batch_size: 1}}}]",
            "Write `lit_continual.DecathlonDataModule` here.",
        ),
        ("--stream.mode=both", "both"),
        ("--trainer.callbacks+=Destillation", "Destillation"),
        ("--data.batch_size=many", "many"),
        (
            "--model.scheduler={class_path: torch.optim.lr_scheduler.LambdaLR, init_args: {lr_lambda: 1}}",
            "`lr_lambda` takes what no config can hold. Write a function of your own",
        ),
        (
            "--model.scheduler={class_path: torch.optim.lr_scheduler.SequentialLR, init_args: {milestones: [1],"
            " schedulers: [torch.optim.lr_scheduler.LinearLR]}}",
            "`SequentialLR` takes what no config can hold",
        ),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(stream, capsys, tmp_path, option, said):
    code, written = outcome(capsys, "fit", "--config", stream(), option)
    assert code == 2
    assert len(written.err.splitlines()) == 1
    assert said in written.err
    assert written.err.startswith("lit-continual: error: ")
    assert not (tmp_path / "run").exists()


def test_a_wrong_option_of_an_experience_is_an_error_that_names_it(stream):
    experiences = [{"name": "ball", "classes": {"ball": 1}, "data": {"batchsize": 2}}]
    with pytest.raises(ValueError, match=r"The data of experience ball are wrong: .*batchsize"):
        main(["fit", "--config", stream(experiences=experiences)])


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_without_arguments_a_command_says_what_it_needs(command, capsys):
    code, written = outcome(capsys, *command)
    assert code == 2
    assert re.fullmatch(r"lit-continual: error: .*(required|was not provided).* See `--help` .*\n", written.err)


def test_a_misspelt_command_gives_the_nearest(capsys):
    assert outcome(capsys, "fti")[1].err.endswith("Did you mean fit?\n")
    assert outcome(capsys, "memory", "shwo")[1].err.endswith("Did you mean show?\n")


def test_a_misspelt_section_of_a_config_gives_the_nearest(stream, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("trainer: {max_epohcs: 5}")
    code, written = outcome(capsys, "fit", "--config", stream(), "--config", str(tmp_path / "more.yaml"))
    assert code == 2
    assert "Did you mean --trainer.max_epochs" in written.err


def test_the_version(capsys):
    code, written = outcome(capsys, "--version")
    assert (code, written.out) == (0, f"lit-continual {lit_continual.__version__}\n")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "report"])
def test_help_can_be_read(command, capsys):
    code, written = outcome(capsys, command, "--help")
    assert code == 0
    assert written.out.startswith("usage: ")
    assert "--config" in written.out or command in ("predict", "report")
    code, written = outcome(capsys, "--help")
    assert re.search(rf"^ +{command} +\w", written.out, flags=re.M)


def test_resume_and_overwrite_without_a_stream_are_refused(stream):
    with pytest.raises(ValueError, match="--resume and --overwrite are for streams"):
        main(["fit", "--config", stream(experiences=[]), "--resume", "--data.classes={ball: 1}"])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # Lightning, of a test elsewhere than the fit
def test_without_experiences_fit_and_test_are_those_of_lightning(stream, tmp_path):
    ordinary = ["--config", stream(experiences=[]), "--data.classes={ball: 1}", "--trainer.max_epochs=1"]
    cli = main(["fit", *ordinary])
    assert cli.trainer.global_step == 4
    checkpoint = next((tmp_path / "run").rglob("epoch=0-step=4.ckpt"))
    assert Segmenter.load_from_checkpoint(checkpoint, weights_only=True).classes == ["ball"]
    assert next((tmp_path / "run").rglob("config.yaml"))
    tested = main(["test", *ordinary[:3], f"--ckpt_path={checkpoint}", "--trainer.logger=false"])
    assert 0 <= tested.trainer.callback_metrics["test/dice/ball"] <= 1


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_config_without_the_method_scores_what_the_method_has_trained(trained, stream, command):
    path = trained / "experiences/1_box/model.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]  # its state
    given = [command, "--config", stream(experiences=[]), "--data.classes={ball: 1}", "--trainer.logger=false"]
    cli = main([*given, f"--ckpt_path={path}"])  # and says nothing of callbacks, which would be an error here
    assert any(name.endswith("dice/ball") for name in cli.trainer.callback_metrics)


def test_a_checkpoint_is_scored_on_the_experiences_whose_classes_it_has(trained, stream, capsys):
    matrix = json.loads((trained / "matrix.json").read_text())["dice"]
    for command, name in (("test", "1_box"), ("test", "0_ball"), ("validate", "1_box")):
        checkpoint = trained / "experiences" / name / "model.ckpt"
        main([command, "--config", stream(), f"--ckpt_path={checkpoint}"])
        written = capsys.readouterr().out
        rows = dict(re.findall(r"│ (ball|box) +│ +([\d.]+)", written))
        if name == "0_ball":
            assert set(rows) == {"ball"}
            assert "Not scored" in written
        elif command == "test":
            assert float(rows["ball"]) == pytest.approx(matrix[1][0], abs=6e-4)
            assert float(rows["box"]) == pytest.approx(matrix[1][1], abs=6e-4)
        else:
            assert set(rows) == {"ball", "box"}


def test_a_checkpoint_of_a_stream_predicts_without_a_config(trained, shapes, tmp_path, capsys):
    checkpoint = str(trained / "experiences/1_box/model.ckpt")
    main(["predict", checkpoint, str(shapes / "images"), f"--output={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out/labels.json").read_text()) == {"background": 0, "ball": 1, "box": 2}
    names = {path.name.removesuffix(".nii") for path in (shapes / "images").iterdir()}
    assert {path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("*.nii.gz")} == names
    assert "Predictions: " in capsys.readouterr().out


def test_scoring_a_stream_needs_a_checkpoint(stream):
    with pytest.raises(ValueError, match="`test` on a stream needs --ckpt_path"):
        main(["test", "--config", stream()])


@pytest.mark.slow
def test_in_a_process_of_its_own_an_error_is_one_line_and_exit_code_1(stream, tmp_path):
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(), "--data.dataset=nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if "error" in line]
    where = f"There is no data set at nowhere, seen from {Path.cwd()}"
    assert line == f"lit-continual: error: {where}. Give a dataset.json, a CSV table, a folder or one image."
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
