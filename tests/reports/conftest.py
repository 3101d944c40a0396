import json
from functools import partial

import numpy as np
import pytest

SCORES = {
    "dice": {"higher_is_better": True, "unit": ""},
    "assd": {"higher_is_better": False, "unit": "mm"},
    "hd95": {"higher_is_better": False, "unit": "mm"},
}


def _matrices(size, steps, mode, retention, rng):
    rows = range(steps) if mode != "joint" else [size - 1]
    seen = {"continual": lambda i: range(i + 1), "joint": lambda i: range(size), "single": lambda i: [i]}[mode]
    dice = [[None] * size for _ in range(size)]
    for i in rows:
        for j in seen(i):
            lost = retention ** (i - j) if mode == "continual" else 1.0
            dice[i][j] = round((0.94 - 0.05 * (j % 3)) * lost + rng.uniform(-0.02, 0.02), 4)
    scaled = {"dice": 0, "hd95": 25.0}
    return {
        name: dice if name == "dice" else [[v if v is None else round(mm * (1.05 - v), 3) for v in row] for row in dice]
        for name, mm in scaled.items()
    }


def _cases(matrix, experiences, patients, rng):
    lines = [",".join(["after,on,patient,class", *matrix])]
    for i, row in enumerate(matrix["dice"]):
        for j, value in enumerate(row):
            for patient in range(patients if value is not None else 0):
                for label in experiences[j]["classes"]:
                    dice, lost = value + rng.uniform(-0.03, 0.03), patient == 0 and value < 0.3
                    far = ["" if lost else str(matrix[score][i][j]) for score in matrix if score != "dice"]
                    lines.append(",".join([f"{i},{j},case_{j:02d}{patient:03d},{label},{dice:.4f}", *far]))
    return "\n".join(lines) + "\n"


def _overlay(path, number, classes, quality, shape, spacing, rng):
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    truth = np.zeros((len(classes), *shape), np.uint8)
    prediction = np.zeros_like(truth)
    body = ((rows - 0.5) / 0.45) ** 2 + ((columns - 0.5) / 0.4) ** 2 < 1
    image = 300.0 * body + rng.normal(0, 25, shape) + 80 * np.sin(7 * columns + number)
    for k in range(len(classes)):
        y, x, r = 0.35 + 0.1 * number % 0.4, 0.35 + 0.25 * k, 0.11
        truth[k] = ((rows - y) ** 2 + 0.6 * (columns - x) ** 2) < r**2
        prediction[k] = ((rows - y - 0.08 * (1 - quality)) ** 2 + 0.6 * (columns - x) ** 2) < (r * quality) ** 2
        image = image + 220.0 * truth[k]
    np.savez(
        path,
        image=image.astype(np.float32),
        truth=truth,
        prediction=prediction,
        classes=np.array(classes),
        patient=np.array(f"case_{number:02d}000"),
        spacing=np.array(spacing),
        slice=np.array(31 + number),
    )


def _make_run(
    root,
    folder="run",
    name="lwfseg",
    mode="continual",
    seed=0,
    experiences=(("humerus", ("humerus",)), ("scapula", ("scapula",))),
    steps=None,
    retention=0.96,
    patients=4,
    overlays=True,
    matrix=None,
):
    rng, size = np.random.default_rng(seed), len(experiences)
    steps, path = size if steps is None else steps, root / folder
    (path / "overlays").mkdir(parents=True)
    listed = [{"name": n, "classes": list(c), "epochs": 20} for n, c in experiences]
    for i, e in enumerate(listed[:steps]):
        e |= {"seconds": 61.2 + 30 * i, "evaluation_seconds": 4.0, "checkpoint_bytes": 123456 * (i + 1)}
        e |= {"checkpoint": f"experiences/{i}_{e['name']}/model.ckpt", "memory_bytes": 0}
    found = _matrices(size, steps, mode, retention, rng) if matrix is None else matrix
    described = {
        "format": 1,
        "name": name,
        "mode": mode,
        "seed": seed,
        "status": "finished" if steps == size else "running",
        "experiences": listed,
        "scores": {score: SCORES[score] for score in found},
        "versions": {"lit_continual": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6"},
        "device": "cpu",
        "parameters": 1234567,
    }
    (path / "run.json").write_text(json.dumps(described))
    (path / "matrix.json").write_text(json.dumps(found))
    (path / "cases.csv").write_text(_cases(found, listed, patients, rng))
    (path / "config.yaml").write_text(f"seed_everything: {seed}\nmodel:\n  body: <unet> & friends\n")
    for i in range(steps if overlays else 0):
        for j in range(size):
            if (value := found["dice"][i][j]) is not None:
                shape, spacing = ((96, 96), (1.5, 1.5)) if j % 2 == 0 else ((60, 110), (3.0, 1.0))
                _overlay(path / "overlays" / f"{i}_{j}.npz", j, listed[j]["classes"], value, shape, spacing, rng)
    return path


@pytest.fixture
def make_run(tmp_path):
    return partial(_make_run, tmp_path)


@pytest.fixture(scope="session")
def make_runs(tmp_path_factory):
    return lambda **options: _make_run(tmp_path_factory.mktemp("runs"), **options)
