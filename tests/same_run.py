"""Whether two runs are the same, bit for bit, but for their names and how long they took."""

import json

import torch


def load(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


def assert_same_run(run, expected):
    for path in sorted(expected.glob("experiences/*/model.ckpt")):
        mine, theirs = load(run / path.relative_to(expected)), load(path)
        for key in ("state_dict", "callbacks", "hyper_parameters", "epoch", "global_step"):
            assert same(mine[key], theirs[key]), f"{path.parent.name}: {key}"
    for file in ("matrix.json", "cases.csv", "config.yaml"):
        text = (run / file).read_text().replace(str(run), str(expected))
        assert text == (expected / file).read_text(), file
    mine, theirs = (json.loads((folder / "run.json").read_text()) for folder in (run, expected))
    for facts in (mine, theirs):
        facts.update(tracking_id="")
        for experience in facts["experiences"]:
            experience.update(seconds=0, evaluation_seconds=0, checkpoint_bytes=0, selection_seconds=0)
    assert mine == {**theirs, "name": mine["name"]}
    overlays = sorted(path.name for path in (expected / "overlays").iterdir())
    assert sorted(path.name for path in (run / "overlays").iterdir()) == overlays
    mine, theirs = ({path.name: path.read_bytes() for path in r.glob("memory/**/*.*")} for r in (run, expected))
    assert mine == theirs
    assert not list(run.rglob("*.part"))
    assert not list(run.rglob("resume"))
