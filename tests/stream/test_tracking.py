import csv
import json
import logging
import struct
from importlib.metadata import PackageNotFoundError

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import lit_continual
from lit_continual.cli import main
from lit_continual.reports.overlays import overlays_figure
from lit_continual.runs.run import Run
from lit_continual.stream.tracking import begin_tracking, log_row, quiet, versions

LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}


def fit(stream, *options):
    main(["fit", "--config", stream(LWF), "--trainer.max_epochs=1", *options])


def test_csv_is_the_default_and_its_step_goes_on(stream, tmp_path):
    fit(stream)
    (file,) = (tmp_path / "run/logs").rglob("metrics.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    steps = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps == [0, 1, 2, 3]  # two experiences of two batches
    assert [int(row["step"]) for row in rows if row["train/distillation"]] == [2, 3]
    matrix = json.loads((tmp_path / "run/matrix.json").read_text())["dice"]
    for i, step in enumerate((2, 4)):
        (row,) = [row for row in rows if row["matrix/dice/ball"] and int(row["step"]) == step]
        assert float(row["matrix/dice/ball"]) == pytest.approx(matrix[i][0])
        assert float(row["stream/dice/acc"]) == pytest.approx(sum(matrix[i][: i + 1]) / (i + 1))


def test_a_progress_bar_does_not_number_the_logs(stream, capsys):
    fit(stream, "--trainer.enable_progress_bar=true", "--trainer.callbacks+=TQDMProgressBar")
    said = "".join(capsys.readouterr())
    assert "train/loss" in said
    assert "v_num" not in said


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_by_yaml_gets_steps_numbers_and_pictures(stream, tmp_path):
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path / "tb"), "name": "x"}}
    (tmp_path / "logger.yaml").write_text(json.dumps({"trainer": {"logger": logger}}))
    fit(stream, "--config", str(tmp_path / "logger.yaml"), "--stream.pictures=true")
    events = tensorboard(next((tmp_path / "tb/x").iterdir()))
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3]
    assert [event.step for event in events.Scalars("matrix/dice/ball")] == [2, 4]
    assert {"pictures/matrix/dice", "pictures/overlays"} <= set(events.Tags()["images"])


def test_patients_are_in_no_picture_of_a_logger_unless_asked_for_and_then_without_their_names(make_run, tmp_path):
    folder = make_run()
    for asked in (False, True):
        logger = TensorBoardLogger(tmp_path, name=str(asked))
        log_row([logger], folder, 1, 4, *[True] * asked)
        tags = tensorboard(logger.log_dir).Tags()["images"]
        assert ("pictures/overlays" in tags) is asked
        assert "pictures/matrix/dice" in tags
    texts = [
        [t.get_text() for a in overlays_figure(Run.load(folder), names).axes for t in [a.xaxis.label]]
        for names in (0, 1)
    ]
    assert all(text.startswith("case ") for text in texts[0])
    assert "case_00000" in texts[1][0]
    assert not any("000" in text.split(",")[0] for text in texts[0])


def wandb_records(file):
    """Read the records of a .wandb file: a 7-byte head, then LevelDB's log format, parts within blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts, records = file.read_bytes(), 7, b"", []
    while at < len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def history(records):
    found = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what wandb warns of is its own
def test_wandb_offline_has_one_run_with_steps_config_numbers_and_pictures(stream, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")  # which the logger sets, and leaves to later tests
    arguments = {"project": "tiny", "offline": True, "save_dir": str(tmp_path)}
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": arguments}
    (tmp_path / "logger.yaml").write_text(json.dumps({"trainer": {"logger": logger}}))
    fit(stream, "--config", str(tmp_path / "logger.yaml"), "--stream.pictures=true")
    (file,) = tmp_path.rglob("*.wandb")
    records = wandb_records(file)
    logged = history(records)
    steps = [row["trainer/global_step"] for row in logged if "train/loss" in row]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    matrix = json.loads((tmp_path / "run/matrix.json").read_text())["dice"]
    rows = [row for row in logged if "matrix/dice/ball" in row]
    assert [row["trainer/global_step"] for row in rows] == [2, 4]
    assert [row["matrix/dice/ball"] for row in rows] == pytest.approx([matrix[0][0], matrix[1][0]])
    for picture in ("pictures/matrix/dice", "pictures/overlays"):
        assert [row[f"{picture}/count"] for row in logged if f"{picture}/count" in row] == [1, 1]
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"][:1]
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert run.run_id == described["tracking_id"]
    keys = {u.key or "/".join(u.nested_key) for r in records for u in [*r.run.config.update, *r.config.update]}
    assert any(key.startswith("stream") for key in keys)

    described["status"] = "running"
    del described["experiences"][1]["evaluation_seconds"]
    (tmp_path / "run/run.json").write_text(json.dumps(described))
    fit(stream, "--config", str(tmp_path / "logger.yaml"), "--resume", "--stream.pictures=true")
    runs = [r.run.run_id for f in tmp_path.rglob("*.wandb") for r in wandb_records(f) if r.HasField("run")]
    assert set(runs) == {described["tracking_id"]}
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_the_configs_of_loggers_go_beside_any_other(name, stream, pytestconfig, capsys):
    path = pytestconfig.rootpath / "configs/loggers" / f"{name}.yaml"
    with pytest.raises(SystemExit):
        main(["fit", "--config", stream(), "--config", str(path), "--print_config"])
    logger = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    assert name in logger["class_path"].lower()


def test_quiet_keeps_warnings_and_what_callbacks_say(monkeypatch):
    log, kept, handler = logging.getLogger("lightning.pytorch.trainer"), [], logging.NullHandler()
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "handlers", [handler])  # Lightning may have set none

    def say(path, level, text="said"):
        record = log.makeRecord(log.name, level, path, 1, text, (), None)
        kept.append(bool(handler.filter(record)))

    with quiet():
        say("lib/lightning/pytorch/trainer/setup.py", logging.INFO)
        say("lib/lightning/pytorch/trainer/setup.py", logging.WARNING)
        say("lib/lightning/pytorch/callbacks/early_stopping.py", logging.INFO)
        say("somebody/trainer.py", logging.INFO)
        say("lib/lightning/fabric/accelerators/cuda.py", logging.INFO)  # on the precision of matrix products
        say("lib/lightning/pytorch/accelerators/cuda.py", logging.INFO)  # on ranks
    say("lib/lightning/pytorch/trainer/setup.py", logging.INFO)
    assert kept == [False, True, True, True, False, False, True]
    with quiet(infos=True):  # of an ordinary fit
        say("lib/lightning/pytorch/trainer/setup.py", logging.INFO)
        say("lib/lightning/pytorch/trainer/setup.py", logging.INFO, "Tip: For seamless cloud logging")
    assert kept[7:] == [True, False]


def test_a_tracker_that_cannot_start_says_what_to_do():
    error = type("UsageError", (Exception,), {"__module__": "wandb.errors"})

    class Strange(CSVLogger):
        def log_hyperparams(self, params):
            raise error("api_key not configured (no-tty).\nCall wandb.login")

    with pytest.raises(ValueError, match=r"cannot start a run \(api_key not .*\). Log in by `wandb login`, or set"):
        begin_tracking([Strange("logs")], {}, "id")


def test_keys_and_passwords_of_a_config_are_not_logged():
    logged = {}

    class Seen(CSVLogger):
        def log_hyperparams(self, params):
            logged.update(params)

    given = {"api_key": "abc", "uri": "https://me:abc@host/x"}
    config = {"trainer": {"logger": [{"class_path": "Other", "init_args": given}]}, "seed": 3, "api_token": None}
    begin_tracking([Seen("logs")], config, "id")
    assert "abc" not in str(logged)
    assert logged["trainer"]["logger"][0]["init_args"]["uri"] == "https://***@host/x"
    assert (logged["seed"], logged["api_token"], given["api_key"]) == (3, None, "abc")


def test_versions_are_known_where_this_package_is_not_installed(monkeypatch):
    def of_others(name):
        if name == "lit-continual":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr("lit_continual.stream.tracking.version", of_others)
    assert versions()["lit-continual"] == lit_continual.__version__
