import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from lightning.pytorch.plugins import MixedPrecision
from torch.testing import assert_close

from lit_continual.callbacks import Distillation
from lit_continual.cli import main
from lit_continual.data import SegmentationDataModule
from lit_continual.data.case_lists.splits import Split
from lit_continual.modules import Segmenter

LWF = {"class_path": "Distillation", "init_args": {"alpha": 0.5}}
L2SP = {"class_path": "L2SP", "init_args": {"strength": 0.5, "parameters": "body.*.weight", "anchor": "last_fit"}}
NETWORK = {"class_path": "UNet", "init_args": {"spatial_dims": 2, "in_channels": 1, "channels": [4, 8], "strides": [2]}}

KEEP = """
import os
from pathlib import Path
import torch
from lightning.pytorch import Callback

class KeepWeights(Callback):
    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_fit_end(self, trainer, pl_module):
        heads = len(pl_module.heads.layers)
        torch.save(pl_module.state_dict(), self.folder / f"rank{trainer.global_rank}-{heads}.pt")
"""


def weights(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [[LWF], [L2SP], []], ids=["distillation", "l2sp", "fine-tuning"])
def test_two_processes_learn_what_one_does_with_the_same_global_batch(stream, tmp_path, callbacks):
    (tmp_path / "keep_weights.py").write_text(KEEP)
    keep = {"class_path": "keep_weights.KeepWeights", "init_args": {"folder": str(tmp_path)}}
    # Adam makes whole steps of rounding errors: the true gradient of a bias before a normalisation is zero.
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.05"]
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(*callbacks, keep), *sgd]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    two, one = tmp_path / "two", tmp_path / "one"
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2"]
    subprocess.run([*command, *ddp, f"--trainer.default_root_dir={two}"], check=True, env=environment, timeout=900)
    for heads in (1, 2):
        ranks = [weights(tmp_path / f"rank{rank}-{heads}.pt") for rank in (0, 1)]
        assert_close(*ranks, rtol=0, atol=0)
    subprocess.run([*command, f"--trainer.default_root_dir={one}"], check=True, env=environment, timeout=900)
    for name in ("0_ball", "1_box"):
        mine, theirs = (weights(run / "experiences" / name / "model.ckpt") for run in (two, one))
        assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=1e-5)
        assert mine["global_step"] == theirs["global_step"]
    mine, theirs = (yaml.safe_load((run / "matrix.json").read_text()) for run in (two, one))
    for score in ("dice", "assd", "hd95"):
        assert mine[score][0][1] is theirs[score][0][1] is None
        for i, j in ((0, 0), (1, 0), (1, 1)):
            assert mine[score][i][j] == pytest.approx(theirs[score][i][j], abs=1e-4)
    assert len((two / "cases.csv").read_text().splitlines()) == len((one / "cases.csv").read_text().splitlines())


def data(shapes, classes, part, batch_size=4):
    split = Split(fractions=(0.5, 0.25, 0.25), part=part)
    return SegmentationDataModule(str(shapes), [16, 16], classes, batch_size=batch_size, split=split, seed=0)


@pytest.fixture
def learnt(shapes, trainer):
    """Learn two experiences, and return the weights after them."""

    def learn(batch_size=4, optimizer=torch.optim.SGD, **options):
        torch.manual_seed(0)
        module = Segmenter({**NETWORK, "norm": "INSTANCE"}, features=4, optimizer=lambda p: optimizer(p, lr=0.1))
        method = Distillation()
        for classes, part in (({"ball": 1}, (0, 2)), ({"box": 2}, (1, 2))):
            torch.manual_seed(1)
            fit = trainer(callbacks=[method], max_epochs=2, limit_val_batches=0, num_sanity_val_steps=0, **options)
            fit.fit(module, datamodule=data(shapes, classes, part, batch_size))
        return module.state_dict()

    return learn


def test_accumulated_halves_are_the_whole_batch(learnt):
    whole, halves = learnt(), learnt(batch_size=2, accumulate_grad_batches=2)
    assert_close(halves, whole, rtol=0, atol=1e-5)
    assert any(not torch.equal(whole[name], value) for name, value in learnt(batch_size=2).items())


def test_clipping_holds_the_gradient_of_loss_and_term_together(shapes, trainer):
    torch.manual_seed(0)
    module, method, norms = Segmenter({**NETWORK, "norm": "INSTANCE"}, features=4), Distillation(), []

    def record(optimizer):
        step = optimizer.step

        def stepped(*args, **kwargs):
            result = step(*args, **kwargs)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
            return result

        optimizer.step = stepped
        return optimizer

    module.optimizer = lambda p: record(torch.optim.SGD(p, lr=0.1))
    for classes, part in (({"ball": 1}, (0, 2)), ({"box": 2}, (1, 2))):
        fit = trainer(callbacks=[method], gradient_clip_val=1e-3, limit_val_batches=0, num_sanity_val_steps=0)
        fit.fit(module, datamodule=data(shapes, classes, part))
    assert len(norms) == 4
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)


@pytest.mark.slow
def test_bf16_mixed_runs_a_stream_and_scores_close_to_full_precision(stream, tmp_path):
    for name, options in (("bf16", ["--trainer.precision=bf16-mixed"]), ("full", [])):
        main(["fit", "--config", stream(LWF), *options, f"--trainer.default_root_dir={tmp_path / name}"])
    mixed, full = (weights(tmp_path / name / "experiences/1_box/model.ckpt")["state_dict"] for name in ("bf16", "full"))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in mixed.values())
    assert any(not torch.equal(mixed[name], full[name]) for name in full)
    assert_close(mixed, full, rtol=0, atol=0.1)
    matrix = json.loads((tmp_path / "bf16/matrix.json").read_text())["dice"]
    assert all(0 <= value <= 1 for value in [matrix[0][0], *matrix[1]])


def test_scaled_fp16_learns_with_old_heads_that_get_no_loss(learnt):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled, full = learnt(plugins=[plugin]), learnt()
    assert all(value.isfinite().all() for value in scaled.values())
    assert_close(scaled, full, rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_without_a_volume_to_evaluate_wait_for_the_others(stream, tmp_path, ranks):
    """One volume to validate and to test on; batch normalisation, whose buffers DDP sends around."""
    network = json.dumps({**NETWORK, "init_args": {**NETWORK["init_args"], "norm": "BATCH"}})
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(LWF), f"--model.network={network}"]
    one = ["--data.split.fractions=[0.8, 0.1, 0.1]", "--data.batch_size=2", "--trainer.max_epochs=1"]
    ddp = ["--trainer.strategy=ddp", f"--trainer.devices={ranks}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, *one, *ddp], env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    matrix = json.loads((tmp_path / "run/matrix.json").read_text())["dice"]
    assert None not in [matrix[0][0], *matrix[1]]
    assert len((tmp_path / "run/cases.csv").read_text().splitlines()) == 1 + 3  # a volume and class each


FAILING = """
import os
from lit_continual.data import SegmentationDataModule

class Failing(SegmentationDataModule):
    @staticmethod
    def _load_training(case, *options):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise ValueError("the first rank cannot read")
        return SegmentationDataModule._load_training(case, *options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_ranks_share_a_cache_on_disk_and_none_waits_for_one_that_fails(stream, tmp_path, fails):
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "lit_continual", "fit", "--config", stream(LWF), "--data.cache=disk"]
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=2", "--trainer.max_epochs=1"]
    own = ["--data=failing.Failing"] if fails else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIT_CONTINUAL_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.getcwd()])
    run = subprocess.run([*command, *own, *ddp], env=environment, capture_output=True, text=True, timeout=900)
    assert (run.returncode != 0) == fails, run.stderr
    assert ("the first rank cannot read" in run.stderr) == fails
    volumes = tmp_path / "cache" / "volumes"
    assert {path.suffix for path in volumes.iterdir() if path.is_file()} <= {".pt"}  # nothing half written
    if not fails:
        assert len(list(volumes.glob("*.pt"))) == 12  # 2 to train, 2 to validate and 2 to test on, for either class
        assert list((volumes / "used").iterdir()) == []
