"""Distillation of small classes that exclude each other, in a stream from YAML."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from lit_continual.cli import main
from lit_continual.data import PatchDataset
from tests import processes
from tests.marks import slow_but
from tests.same_run import assert_same_run, same

OPTIONS = {"alpha": 0.5, "dice": 1.0, "exclusive": True, "old_patches": 0.5}
SMALL = {"class_path": "Distillation", "init_args": OPTIONS}
#: Windows with room to move; scores of label maps; a network that finds something after its first experience.
MORE = ["--data.patch_size=[8,8]", "--model.inference.scored=labels", "--trainer.max_epochs=6"]


PAIRS = itertools.product(["online", "cached"], ["separate", "shared"])


@pytest.mark.parametrize(("targets", "heads"), slow_but(PAIRS, ("cached", "shared")))
def test_patches_of_a_second_experience_are_centred_on_what_the_first_taught(stream, monkeypatch, heads, targets):
    found, centre = [], PatchDataset.centre

    def noted(self, *given, **options):
        centre(self, *given, **options)
        found.extend(self.old.found)

    monkeypatch.setattr(PatchDataset, "centre", noted)
    callback = {**SMALL, "init_args": {**OPTIONS, "targets": targets}}
    config = json.loads(Path(path := stream(callback)).read_text())
    config["stream"]["experiences"][1]["max_epochs"] = 1  # of which each draws its patches alike
    Path(path).write_text(json.dumps(config))
    main(["fit", "--config", path, *MORE, f"--model.heads={heads}"])
    assert len(found) == 2  # the volumes of the second experience alone
    assert all(len(classes) <= 1 for classes in found)  # the teacher knows one class
    assert any(len(voxels) for classes in found for voxels in classes.values())


@pytest.mark.slow
def test_a_killed_stream_and_one_with_workers_end_with_the_same_bits(stream, tmp_path):
    log, arguments = tmp_path / "log.txt", ["fit", "--config", stream(SMALL), *MORE]
    whole, cut, workers = (tmp_path / part for part in ("whole", "cut", "workers"))
    assert processes.run([*arguments, f"--trainer.default_root_dir={whole}"], log, reports=False) == 0, log.read_text()
    mine = [*arguments, f"--trainer.default_root_dir={cut}"]
    kill = {"function": "lit_continual.modules.Segmenter.training_step", "call": 18}
    assert processes.run(mine, log, kill, reports=False) == -9, log.read_text()
    assert processes.run([*mine, "--resume"], log, reports=False) == 0, log.read_text()
    assert_same_run(cut, whole)
    more = ["--data.num_workers=2", f"--trainer.default_root_dir={workers}"]
    assert processes.run([*arguments, *more], log, reports=False) == 0, log.read_text()
    ends = [torch.load(run / "experiences/1_box/model.ckpt", weights_only=True) for run in (workers, whole)]
    assert same(*(end["state_dict"] for end in ends))
