"""What a stream holds of experiences that are over: nothing of their images, and no more memory each time."""

import gc
import subprocess
import sys
import weakref
from itertools import product
from pathlib import Path

import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import SegmentationDataModule
from lit_continual.modules import Segmenter
from lit_continual.stream.stream_loop import StreamLoop
from tests.marks import slow_but

BENCH = Path(__file__).parents[1] / "benchmarks" / "bench_stream_memory.py"
CACHED = {"class_path": "Distillation", "init_args": {"targets": "cached"}}


MEMORIES = {"none": {}, "exemplars": {"memory": {"policy": "Random", "budget": {"samples": 1}}}}


@pytest.mark.parametrize(("cache", "memory"), slow_but(product(["memory", "disk"], MEMORIES), ("disk", "exemplars")))
def test_no_tensor_of_an_earlier_experience_is_left(stream, tmp_path, monkeypatch, cache, memory):
    """When a fit begins, and when all is over: neither volumes and batches nor answers of the teacher to them."""
    monkeypatch.setenv("LIT_CONTINUAL_CACHE", str(tmp_path / "cache"))
    seen, left = [], []
    load, step, fit = SegmentationDataModule._load_training, Segmenter.training_step, StreamLoop._fit

    def loaded(*options):
        volume = load(*options)
        seen.append(weakref.ref(volume["image"]))
        return volume

    def stepped(module, batch, batch_idx):
        seen.extend(weakref.ref(value) for value in batch.values() if torch.is_tensor(value))
        return step(module, batch, batch_idx)

    def fitted(loop, *given):
        gc.collect()
        left.append((len(seen), sum(reference() is not None for reference in seen)))
        fit(loop, *given)

    monkeypatch.setattr(SegmentationDataModule, "_load_training", staticmethod(loaded))
    monkeypatch.setattr(Segmenter, "training_step", stepped)
    monkeypatch.setattr(StreamLoop, "_fit", fitted)
    main(["fit", "--config", stream(CACHED, **MEMORIES[memory]), f"--data.cache={cache}"])
    gc.collect()
    assert len(left) == 2
    assert left[1][0] > 4
    assert left[1][1] == 0
    assert not any(reference() is not None for reference in seen)
    assert list((tmp_path / "cache").rglob("answers-*")) == []
    assert list((tmp_path / "cache").rglob("used/*")) == []


def test_a_memory_that_begins_empty_behind_a_trained_model_is_told(stream, tmp_path, capsys):
    """Nothing of what the model knows is in it, and the methods that rehearse would be plain training in silence."""
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.logger=false"]
    main(["fit", "--config", stream(**MEMORIES["exemplars"]), *quick])
    first = tmp_path / "run/experiences/0_ball/model.ckpt"
    box = [{"name": "box", "classes": {"box": 2}, "data": {"split": {"part": [1, 2]}}}]
    begun = {"policy": "Random", "start": str(tmp_path / "run/memory")}
    ball = [{"name": "ball", "classes": {"ball": 1}, "max_epochs": 0}]  # what the model knows fills the memory
    empty = MEMORIES["exemplars"]["memory"]
    for i, (known, memory, told) in enumerate([([], None, 0), ([], empty, 1), ([], begun, 0), (ball, empty, 0)]):
        capsys.readouterr()
        more = stream(start=str(first), experiences=[*known, *box], memory=memory, name="more")
        main(["fit", "--config", more, *quick, f"--trainer.default_root_dir={tmp_path / str(i)}"])
        assert ("The memory begins empty: `stream.memory.start` takes" in capsys.readouterr().out) == told


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_resident_memory_is_flat(tmp_path, cache):
    """Eight experiences of 30 MB; the benchmark itself says whether they have left anything."""
    options = ["--gigabytes=0.03", "--experiences=8", f"--cache={cache}", "--targets=cached", "--workers=1"]
    run = subprocess.run([sys.executable, str(BENCH), *options], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Skipped" not in run.stdout


def test_a_leak_is_found(monkeypatch):
    """Of the verdict that the benchmark ends with."""
    from tests.benchmarks import bench_stream_memory as bench

    flat = [(300e6, 400e6, 310e6)] * 4
    assert bench.verdict(flat, 30e6, "disk") == []
    assert bench.verdict([*flat, (310e6, 400e6, 345e6)], 30e6, "memory") == ["memory has grown by 35 MB"]
    assert bench.verdict([*flat, (310e6, 900e6, 310e6)], 30e6, "disk") == ["a fit with `cache: disk` takes 590 MB"]
