"""Targeted gradient descent in a stream: masks anew in each experience, and a resume inside the second."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the process that forks, too
import processes

from lit_continual.cli import main
from lit_continual.methods.tgd.producers import find_producers
from lit_continual.methods.tgd.redundancy import kernel_scores
from lit_continual.modules import Denoiser

PHI = 0.6
TGD = {"class_path": "TargetedGradientDescent", "init_args": {"phi": PHI, "network": "network", "after": 1}}
KEY = "TargetedGradientDescent[network]"
SCORES = {"psnr": {}, "ssim": {}, "liver_cov": {"higher_is_better": False, "unit": "%"}}


def load(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def pet(tmp_path, studies):
    """Write the config of a denoising stream of seconds: v1, v2, and online learning on the test patients."""

    def write(*callbacks, **stream):
        experiences = [{"name": name, "data": {"version": name}} for name in ("v1", "v2")]
        experiences += [{"name": "online", "data": {"pairs": "twin", "low": [9], "high": [9]}}]
        adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}
        network = {"class_path": "DnCNN", "init_args": {"features": 6, "depth": 4}}
        data = {"low": [0], "val": [8], "test": [9], "seconds": [60], "realisations": 2, "size": 32, "depth": 8}
        trainer = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "callbacks": list(callbacks)}
        trainer |= {"default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False, "logger": False}
        config = {
            "seed_everything": 0,
            "stream": {"experiences": experiences, "scores": SCORES, **stream},
            "model": {"class_path": "Denoiser", "init_args": {"network": network, "optimizer": adam}},
            "data": {"class_path": "PetDataModule", "init_args": {**data, "cache": str(studies)}},
            "trainer": {**trainer, "enable_model_summary": False},
        }
        path = tmp_path / "pet.yaml"
        path.write_text(json.dumps(config))
        return str(path)

    return write


def network(checkpoint):
    module = Denoiser(**checkpoint["hyper_parameters"])
    module.load_state_dict(checkpoint["state_dict"])
    return module.network


def masks_of(net):
    return {name: score < PHI for name, score in kernel_scores(net, find_producers(net)).items()}


@pytest.mark.slow
def test_each_experience_retrains_what_its_network_can_spare(pet, tmp_path):
    main(["fit", "--config", pet(TGD)])
    names = ("0_v1", "1_v2", "2_online")
    found = [load(tmp_path / f"run/experiences/{name}/model.ckpt") for name in names]
    assert all(mask.all() for mask in found[0]["callbacks"][KEY]["masks"].values())  # `after: 1`
    differ = []
    for before, after in pairwise(found):
        expected, saved = masks_of(network(before)), after["callbacks"][KEY]["masks"]
        assert saved.keys() == expected.keys()
        moved = 0
        for name, mask in expected.items():
            old, new = before["state_dict"][f"network.{name}"], after["state_dict"][f"network.{name}"]
            assert torch.equal(saved[name], mask)
            assert torch.equal(old[~mask.expand_as(old)], new[~mask.expand_as(new)])
            moved += int((old != new).sum())
        assert moved > 0
        differ.append(saved)
    assert any(not torch.equal(differ[0][name], differ[1][name]) for name in differ[0])
    rows = json.loads((tmp_path / "run/matrix.json").read_text())
    assert rows.keys() == SCORES.keys()
    assert np.isfinite([rows[score] for score in SCORES]).all()  # every experience by every network
    header, *cases = (tmp_path / "run/cases.csv").read_text().splitlines()
    assert header == "after,on,patient,volume,class,psnr,ssim,liver_cov"
    assert [case.split(",")[4] for case in cases] == ["high", "low"] * 9


@pytest.mark.slow  # the next one does so with a segmenter
def test_a_stream_that_starts_from_a_trained_network_has_a_fit_behind_it(pet, tmp_path):
    one, two = ([{"name": name, "data": {"version": name}}] for name in ("v1", "v2"))
    main(["fit", "--config", pet(experiences=one), f"--trainer.default_root_dir={tmp_path / 'first'}"])
    start = tmp_path / "first/experiences/0_v1/model.ckpt"
    main(["fit", "--config", pet(TGD, experiences=two, start=str(start))])
    before, after = load(start), load(tmp_path / "run/experiences/0_v2/model.ckpt")
    for name, mask in masks_of(network(before)).items():
        old, new = before["state_dict"][f"network.{name}"], after["state_dict"][f"network.{name}"]
        assert torch.equal(old[~mask.expand_as(old)], new[~mask.expand_as(new)])
        assert torch.equal(after["callbacks"][KEY]["masks"][name], mask)


@pytest.mark.slow
def test_killed_inside_the_second_experience_it_ends_as_if_it_had_not_been(pet, tmp_path):
    log, arguments = tmp_path / "log.txt", ["fit", "--config", pet(TGD)]
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    assert processes.run([*arguments, f"--trainer.default_root_dir={whole}"], log) == 0, log.read_text()
    mine = [*arguments, f"--trainer.default_root_dir={cut}"]
    kill = {"function": "lit_continual.modules.Denoiser.training_step", "call": 4}  # 2 epochs of 1 batch each
    assert processes.run(mine, log, kill) == -9, log.read_text()
    assert (cut / "experiences/1_v2/resume/resume.ckpt").exists()
    assert processes.run([*mine, "--resume"], log) == 0, log.read_text()
    for path in sorted(whole.glob("experiences/*/model.ckpt")):
        one, two = load(path), load(cut / path.relative_to(whole))
        states = [{**content["state_dict"], **content["callbacks"][KEY]["masks"]} for content in (one, two)]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (whole / "matrix.json").read_text() == (cut / "matrix.json").read_text()


@pytest.mark.slow
def test_only_the_last_blocks_are_one_line_of_the_same_config(pet, tmp_path):
    parts = {"parts": ["blocks.2", "blocks.3"], "network": "network", "after": 1}
    main(["fit", "--config", pet({"class_path": "TrainOnly", "init_args": parts})])
    one, two = (load(tmp_path / f"run/experiences/{name}/model.ckpt")["state_dict"] for name in ("0_v1", "1_v2"))
    moved = {
        name.split(".")[2] for name in one if name.startswith("network.") and not torch.equal(one[name], two[name])
    }
    assert moved == {"2", "3"}


@pytest.mark.slow
@pytest.mark.parametrize("distils", [False, True], ids=["alone", "with distillation"])
def test_holds_the_body_of_a_segmenter_while_a_new_head_learns(stream, tmp_path, distils):
    tgd = {"class_path": "TargetedGradientDescent", "init_args": {"phi": PHI, "after": 1}}
    distillation = [{"class_path": "Distillation", "init_args": {"alpha": 0.5}}] * distils
    main(["fit", "--config", stream(tgd, *distillation)])
    one, two = (load(tmp_path / f"run/experiences/{name}/model.ckpt") for name in ("0_ball", "1_box"))
    masks = two["callbacks"]["TargetedGradientDescent[]"]["masks"]
    held = moved = 0
    for name, old in one["state_dict"].items():
        mask, new = masks[name].expand_as(old), two["state_dict"][name]
        assert torch.equal(new[~mask], old[~mask])
        held, moved = held + int((~mask).sum()), moved + int((new != old).sum())
    assert held > 0
    assert moved > 0
    fresh = [name for name in two["state_dict"] if name not in one["state_dict"]]
    assert fresh
    assert all(masks[name].all() for name in fresh)


def test_a_head_that_grows_on_a_trained_network_is_free(stream, tmp_path):
    first = [{"name": "ball", "classes": {"ball": 1}, "data": {"split": {"part": [0, 2]}}}]
    second = [{"name": "box", "classes": {"box": 2}, "data": {"split": {"part": [1, 2]}}}]
    main(["fit", "--config", stream(experiences=first), f"--trainer.default_root_dir={tmp_path / 'first'}"])
    start = tmp_path / "first/experiences/0_ball/model.ckpt"
    tgd = {"class_path": "TargetedGradientDescent", "init_args": {"phi": PHI, "after": 1}}
    main(["fit", "--config", stream(tgd, experiences=second, start=str(start))])
    old, new = load(start)["state_dict"], load(tmp_path / "run/experiences/0_box/model.ckpt")
    masks = new["callbacks"]["TargetedGradientDescent[]"]["masks"]
    fresh = [name for name in new["state_dict"] if name not in old]
    assert fresh
    assert all(masks[name].all() for name in fresh)
    assert not all(masks[name].all() for name in old)
