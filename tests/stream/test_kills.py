"""Kills at points of the program, each followed by a resume that must end as if there had been none, bit for bit."""

import shutil
import sys
import traceback
from collections import Counter

import pytest

from tests.processes import STUCK, Prepared
from tests.same_run import assert_same_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")

STEP = "lit_continual.modules.Segmenter.training_step"
VALIDATION_STEP = "lit_continual.modules.Segmenter.validation_step"
TEST_STEP = "lit_continual.modules.Segmenter.test_step"
OPTIMIZER_STEP = "torch.optim.AdamW.step"
FIT_START = "lit_continual.callbacks.Distillation.on_fit_start"
FIT_END = "lit_continual.callbacks.Distillation.on_fit_end"
TEACHER = "lit_continual.methods.bases.old_network.teacher.Teacher.save"
TEARDOWN = "lightning.pytorch.Trainer._teardown"
LOOP = "lit_continual.stream.stream_loop.StreamLoop"
KEEP, NOTE, REMEMBER = f"{LOOP}._keep", f"{LOOP}._note", f"{LOOP}._remember"
RESUME = "lit_continual.stream.resumption.ResumeFiles.save_checkpoint"
SAVED = "lightning.pytorch.Trainer.save_checkpoint"  # of every rank, though one alone writes
FOLDER = "lit_continual.runs.run_folder.RunFolder"
ROW, OVERLAYS, FINISH = f"{FOLDER}.write_row", f"{FOLDER}.write_overlays", f"{FOLDER}.finish"
FACT = f"{FOLDER}.note"
MEMORY = "lit_continual.methods.rehearsal.exemplar_memory.ExemplarMemory"
ADD, COMMIT = f"{MEMORY}.add", f"{MEMORY}._commit"
RECORD = "torch._C.PyTorchFileWriter.write_record"  # one tensor or so into the file of a `torch.save`
SAVE, REPLACE, REMOVE, SYNC = "torch.save", "os.replace", "shutil.rmtree", "os.fsync"


def before(function, call=1, since=None, rank=0):
    return {"function": function, "call": call, "since": since, "rank": rank}


def after(function, call=1, since=None, rank=0):
    return {**before(function, call, since, rank), "after": True}


# Two experiences of two epochs; the first of two batches each, the second of three, one of them of exemplars.
# A run is killed at all points of a list in turn: each process goes on where that before was killed, and counts anew.
IN_FAST_TESTS = {
    "first experience": [
        *(after(REPLACE), before(REPLACE, 3)),  # config.yaml, matrix.json, run.json
        *(before(STEP), after(STEP, 4), before(REPLACE, 2, (KEEP, 1)), before(NOTE)),
        *(before("pathlib.Path.write_bytes", 3, (ADD, 1)), after(ADD, 1), after(ROW, 1)),
    ],
    "second experience": [
        *(after(RESUME, 2), after(TEACHER), after(OPTIMIZER_STEP, 3), before(RECORD, 5, (RESUME, 2))),
        *(before(FIT_END), before(TEARDOWN), before(KEEP), after(NOTE), before(COMMIT)),
        *(before(REPLACE, 2, (ROW, 1)), before(FINISH)),
    ],
}
ALONE = {
    "the run begins": [after(REPLACE), before(REPLACE, 3)],  # config.yaml, matrix.json, run.json
    "training": [before(STEP), after(STEP, 4), after(OPTIMIZER_STEP, 7)],
    "checkpoints": [before(RECORD, 5, (RESUME, 2)), after(RESUME, 2), after(TEACHER), before(REPLACE, 2, (KEEP, 1))],
    "teardown": [before(FIT_END, 2), before(TEARDOWN, 1), before(KEEP, 2)],
    "between checkpoint and note": [before(NOTE, 1), after(NOTE, 2)],
    "memory": [before("pathlib.Path.write_bytes", 3, (ADD, 1)), before(COMMIT, 2), after(ADD, 1)],
    "rows": [before(REPLACE, 2, (ROW, 2)), after(ROW, 1), before(FINISH)],
}
MEANWHILE = {
    "training": [
        *(before(STEP, n) for n in (2, 3, 5, 6, 8, 9, 10)),
        before(VALIDATION_STEP, 3),
        after(FIT_START, 2),
        before(FIT_START, 1),
    ],
    "checkpoints": [
        *(before(RECORD, n, (RESUME, 1)) for n in (1, 9)),
        before(SYNC, 1, (RESUME, 2)),
        before(REPLACE, 1, (RESUME, 2)),
        before(TEACHER),
        *(before(RECORD, n, (KEEP, 1)) for n in (2, 40)),
        after(SAVE, 2, (KEEP, 2)),
        after(REPLACE, 2, (KEEP, 2)),
    ],
    "teardown": [after(FIT_END, 1), after(TEARDOWN, 1), before(TEARDOWN, 3), after(TEARDOWN, 4), after(KEEP, 1)],
    "between checkpoint and note": [before(NOTE, 2), before(REMOVE, 1, (NOTE, 1)), after(REMOVE, 1, (NOTE, 2))],
    "memory": [before(REMEMBER, 1), before(SYNC, 2, (ADD, 2)), after(COMMIT, 1), before(FACT, 1, (REMEMBER, 2))],
    "rows": [
        *(after(TEST_STEP, n) for n in (2, 5)),
        before(TEST_STEP, 4),
        before("lit_continual.runs.run_folder.write_npz", 2),
        after(OVERLAYS, 1),
        before(REPLACE, 1, (ROW, 1)),
        after(ROW, 2),
        after(FINISH),
    ],
}
CACHED = {
    "training": [before(STEP, n) for n in (4, 6, 9)] + [before(FIT_START, 2), after(FIT_START, 2)],
    "checkpoints": [before(RECORD, 7, (RESUME, 2)), after(RESUME, 2), before(REPLACE, 2, (KEEP, 2))],
    "rows": [before(TEST_STEP, 5), before(REPLACE, 2, (ROW, 2))],
}
WORKERS = {
    "training": [before(STEP, n) for n in (1, 4, 7, 10)] + [before(VALIDATION_STEP, 5), before(FIT_END, 2)],
    "checkpoints": [before(RECORD, 7, (RESUME, 2)), after(RESUME, 1), before(REPLACE, 2, (KEEP, 2))],
    "memory": [before(COMMIT, 1), before("pathlib.Path.write_bytes", 2, (ADD, 2))],
}
RANKS = {
    "training": [before(STEP, n, rank=rank) for n in (1, 4, 8) for rank in (0, 1)],
    "checkpoints": [before(RECORD, 7, (RESUME, 2)), after(SAVED, 2, rank=1), before(REPLACE, 2, (KEEP, 2))],
    "teardown": [before(FIT_END, 2, rank=1), before(TEARDOWN, 1), after(TEARDOWN, 1, rank=1), before(KEEP, 2, rank=1)],
    "between checkpoint and note": [before(NOTE, 1), before(NOTE, 1, rank=1)],
    "memory": [before(COMMIT, 1), before(REMEMBER, 2, rank=1)],
    "rows": [before(TEST_STEP, 2), before(TEST_STEP, 2, rank=1), before(REPLACE, 2, (ROW, 2)), after(ROW, 1, rank=1)],
}

INTENSITY = '--data.augmentation.intensity=[{"class_path":"RandGaussianNoised","init_args":{"keys":"image"}}]'
SETTINGS = {
    "alone": (ALONE, [], 1),
    "online": (MEANWHILE, [], 1),
    "cached": (CACHED, ["--trainer.callbacks.targets=cached"], 1),
    "workers": (WORKERS, ["--data.num_workers=2", INTENSITY], 1),
    "two ranks": (RANKS, ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2"], 2),
}


@pytest.fixture
def outcomes(stream, tmp_path):
    """Kill a run at each point, or at each of several in turn, and resume it; return how each ended.

    Identical, different, stuck, or not killed.
    """

    def count(points, options=(), ranks=1):
        method = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
        arguments = ["fit", "--config", stream(method), "--trainer.logger=false", "--trainer.num_sanity_val_steps=0"]
        arguments += ["--model.scheduler=StepLR", "--model.scheduler.step_size=1", "--model.network.dropout=0.2"]
        arguments += [f"--stream.memory.{setting}" for setting in ("policy=Random", "budget.samples=5", "share=0.5")]
        whole, log, found = tmp_path / "whole/run", tmp_path / "log.txt", {}
        prepared = Prepared([*arguments, *options], log, ranks)
        try:
            assert prepared.run(whole) == [0] * ranks, log.read_text()
            for place, kills in points.items():
                for i, kill in enumerate(kills):
                    in_turn = kill if isinstance(kill, list) else [kill]
                    found[f"{place} {i}: {kill}"] = _outcome(prepared, in_turn, tmp_path / "cut/run", whole, log)
                    shutil.rmtree(tmp_path / "cut")
        finally:
            prepared.close()
        return found

    return count


def _outcome(prepared, kills, cut, whole, log):
    for i, kill in enumerate(kills):
        killed = prepared.run(cut, kill, resume=i > 0)
        if STUCK in killed:
            return STUCK
        if killed[kill["rank"]] != -9:
            return f"not killed at {kill} but {killed}: {log.read_text()[-1000:]}"
    resumed = prepared.run(cut, resume=True)
    if any(resumed):
        return STUCK if STUCK in resumed else f"different: {log.read_text()[-1000:]}"
    try:
        assert_same_run(cut, whole)
    except (AssertionError, OSError):
        return f"different: {traceback.format_exc(limit=1)}"
    return "identical"


def assert_identical(found):
    assert Counter(found.values()) == {"identical": len(found)}, "\n".join(
        f"{point} -> {outcome}" for point, outcome in found.items() if outcome != "identical"
    )


def test_killed_at_some_points_one_after_another_a_run_ends_as_if_it_had_not_been(outcomes):
    assert_identical(outcomes({name: [kills] for name, kills in IN_FAST_TESTS.items()}))
    assert sum(map(len, IN_FAST_TESTS.values())) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_at_any_point_a_run_ends_as_if_it_had_not_been(outcomes, setting):
    assert_identical(outcomes(*SETTINGS[setting]))


def test_there_are_many_points():
    lists = [IN_FAST_TESTS, *(points for points, *_ in SETTINGS.values())]
    assert sum(len(kills) for points in lists for kills in points.values()) >= 80
