"""Make the picture and the table of the README from finished runs: ``make readme RUNS="runs/a runs/b …"``.

Runs on the same experiences are one table, those of one name are averaged over their seeds, and joint and single runs
are the bounds. The picture shows the phantom, whatever else was run: no image of a person gets into the repository.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_continual.data import ShoulderDataModule, collate
from lit_continual.data.volumes import load_evaluation_volume
from lit_continual.files.whole_files import replaced, write_text
from lit_continual.runs.checkpoints.checkpoint import Checkpoint
from lit_continual.runs.run import Run
from lit_continual.segmentation.segmenter import Segmenter

ROOT = Path(__file__).parents[1]
PICTURE, README = ROOT / "docs" / "assets" / "demo.png", ROOT / "README.md"
START, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
PHANTOM = ("humerus", "scapula")
DATA = {PHANTOM: "Shoulder phantom", ("anterior", "posterior"): "Hippocampus MRI, Decathlon task 4"}
METHODS = {"finetune": "fine-tuning", "lwfseg": "LwfSeg"}
BOUNDS = {"joint": "joint training (bound)", "single": "each alone (bound)"}
MARGIN = 18  # voxels of the slice around what is annotated
INK, GREY, RULE = "#1b2733", "#5d6b78", "#c9d1d8"
COLOURS = {"humerus": "#f59b00", "scapula": "#2f9bff"}
Group = Sequence[Run]


def groups(runs: Iterable[Run]) -> dict[tuple[str, ...], dict[str, Group]]:
    """Sort runs into experiences -> method -> runs that differ in their seed, bounds last.

    A run on one experience of a longer stream is a bound of that stream.

    Raises:
        ValueError: If a run is not finished, or two of one method share a seed.
    """

    def place(run: Run) -> tuple[Any, ...]:
        baseline = METHODS.get(run.name, run.name) == "fine-tuning"
        return len(run.experiences) == 1, run.mode != "continual", not baseline, run.name, run.seed or 0

    found: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in sorted(runs, key=place):
        if not run.finished:
            raise ValueError(f"{run.folder} is not finished. Run it to its end with --resume.")
        names, method = tuple(e.name for e in run.experiences), BOUNDS.get(run.mode) or METHODS.get(run.name, run.name)
        if longer := [other for other in found if set(names) < set(other)]:
            names, method = longer[0], f"{names[0]} alone (bound)"
        seeds = found.setdefault(names, {}).setdefault(method, [])
        if run.seed in [other.seed for other in seeds]:
            raise ValueError(f"{run.folder} has seed {run.seed} like another run of {method}. Give one of the two.")
        seeds.append(run)
    return dict(sorted(found.items(), key=lambda item: item[0] != PHANTOM))


def scores(group: Group, score: str, name: str, learnt: bool = False) -> NDArray[np.float64] | None:
    """What each run scored on experience ``name`` in the end, or when it was learnt; ``None`` if it did not."""
    order = [experience.name for experience in group[0].experiences]
    if name not in order or (learnt and (group[0].mode == "joint" or len(order) == 1)):
        return None
    on = order.index(name)
    return np.array([run.matrix[score][run.learnt_at(on) if learnt else run.last_at(on), on] for run in group])


def spread(values: NDArray[np.float64] | None, scale: float, digits: int = 1, unit: str = "") -> str:
    """Mean and, of two or more values, their standard deviation with n - 1 in the denominator."""
    if values is None:
        return ""
    if not np.isfinite(values).all():  # a distance to nothing
        return "nothing found"
    deviation = f" ± {scale * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * values.mean():.{digits}f}{deviation}{unit}"


def table(methods: Mapping[str, Group], experiences: tuple[str, ...]) -> str:
    """Markdown: a row a method; Dice in % when the first experience was learnt and of all in the end, ASSD in mm."""
    first = experiences[0]
    heads = [f"{first}, when learnt", *(f"{name}, in the end" for name in experiences), f"{first}, ASSD in the end"]
    lines = [["", *heads, "seeds"], ["---", *["---:"] * (len(heads) + 1)]]
    for method, runs in methods.items():
        dice = [scores(runs, "dice", first, learnt=True), *(scores(runs, "dice", name) for name in experiences)]
        distance = spread(scores(runs, "assd", first), 1, 2, " mm")
        lines.append([method, *(spread(values, 100) for values in dice), distance, str(len(runs))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def results(found: Mapping[tuple[str, ...], Mapping[str, Group]]) -> str:
    """The part of the README between the marks."""
    parts = ["![Fine-tuned on the scapula, a network loses the humerus; with LwfSeg it keeps it](docs/assets/demo.png)"]
    for experiences, methods in found.items():
        name, order = DATA.get(experiences, "Stream"), ", then ".join(experiences)
        parts.append(f"**{name}: {order}.** Dice in % on test patients, mean ± standard deviation over seeds:")
        parts.append(table(methods, experiences))
    return "\n\n".join(parts)


def picture(methods: Mapping[str, Group]) -> Figure:
    """A test slice of the phantom as the truth, fine-tuning and LwfSeg see it, and what became of the humerus."""
    finetune, lwfseg = (methods[METHODS[name]] for name in ("finetune", "lwfseg"))
    image, truth, predictions = slices([finetune[0], lwfseg[0]])
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    grid = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.15])
    titles = ["truth", "fine-tuned on the scapula", "LwfSeg on the scapula"]
    notes = ["", found_by(finetune), found_by(lwfseg)]
    for axes, title, note, masks in zip(grid, titles, notes, [truth, *predictions], strict=False):
        panel(axes, image, masks)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.set_xlabel(note, fontsize=10, color=GREY, loc="left")
    for name, mask in truth.items():
        row, column = np.argwhere(mask).mean(0)
        grid[0].text(column, row, name, color="white", fontsize=10, ha="center", va="center")
    curves(grid[3], finetune, lwfseg)
    return figure


def found_by(group: Group) -> str:
    """Dice of a method on each structure in the end, mean over seeds."""
    means = {name: scores(group, "dice", name) for name in PHANTOM}
    return ", ".join(f"{name} {100 * values.mean():.0f} %" for name, values in means.items() if values is not None)


def slices(runs: Sequence[Run]) -> tuple[NDArray[Any], dict[str, NDArray[Any]], list[dict[str, NDArray[Any]]]]:
    """Image, truth and predictions of the last checkpoint of each run, in one slice of a patient nobody trained on."""
    arguments = yaml.safe_load(runs[0].config)["data"]["init_args"]
    known = {key: arguments[key] for key in ("contrast", "subjects", "phantom_seed")}
    data = ShoulderDataModule(**known, classes={name: value for value, name in enumerate(PHANTOM, 1)})
    tested = {case.patient for case in runs[0].cases}
    case = next(case for case in data.listed.cases if case.patient in tested)
    volume = load_evaluation_volume(case, data.values, data.listed, data.preprocessing)
    label = volume["label"][0]
    at = int(torch.stack([(label == k).sum((0, 1)) for k in (1, 2)]).amin(0).argmax())
    around = tuple(slice(max(int(w.min()) - MARGIN, 0), int(w.max()) + MARGIN) for w in label[..., at].nonzero().T)

    def turned(array: torch.Tensor) -> NDArray[Any]:
        return np.rot90(array[around][..., at].numpy())

    batch, predictions = collate([volume]), []
    for run in runs:
        module = Checkpoint(run.checkpoint(len(run.experiences) - 1)).module(Segmenter)
        with torch.no_grad():
            masks = module.eval().predicted_masks(batch)
        predictions.append({name: turned(masks[name][0]) for name in module.classes})
    return turned(volume["image"][0]), {name: turned(label == k) for k, name in enumerate(PHANTOM, 1)}, predictions


def panel(axes: Axes, image: NDArray[Any], masks: Mapping[str, NDArray[Any]]) -> None:
    """Draw a slice with its structures as films of colour and their outlines."""
    low, high = np.percentile(image, (1, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    for name, mask in masks.items():
        film = np.zeros((*mask.shape, 4))
        film[mask] = (*to_rgb(COLOURS[name]), 0.45)
        axes.imshow(film)
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[COLOURS[name]], linewidths=1.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def curves(axes: Axes, finetune: Group, lwfseg: Group) -> None:
    """Draw Dice on the humerus before and after the scapula was learnt, mean and standard deviation over seeds."""
    for runs, label, style in ((lwfseg, "LwfSeg", "o-"), (finetune, "fine-tuning", "o--")):
        values = 100 * np.array([[run.matrix["dice"][after, 0] for after in (0, 1)] for run in runs])
        mean, deviation = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else None
        axes.errorbar([0, 1], mean, deviation, fmt=style, color=COLOURS["humerus"], capsize=3, linewidth=2)
        axes.text(1.1, mean[1], label, va="center", color=INK)
    axes.set(xlim=(-0.2, 1.9), ylim=(-5, 103))
    axes.set_xticks([0, 1], ["humerus", "scapula"], color=INK)
    axes.set_xlabel("after learning", fontsize=10, color=GREY, loc="left")
    axes.set_title(f"humerus, Dice in %, n = {len(lwfseg)}", fontsize=11, color=INK, loc="left")
    axes.tick_params(color=RULE, labelsize=9)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def rewrite(text: str, part: str) -> str:
    """Put ``part`` between the marks of ``text``.

    Raises:
        ValueError: If the marks are not there.
    """
    pattern = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no place for results. Add the lines `{START}` and `{END}`.")
    return pattern.sub(lambda _: f"{START}\n{part}\n{END}", text)


def main(folders: Sequence[str]) -> None:
    """Make picture and table from run folders."""
    found = groups(Run.load(folder) for folder in folders)
    if PHANTOM not in found:
        raise ValueError("No run is on the phantom. Give runs of configs/finetune.yaml and configs/lwfseg.yaml.")
    figure = picture(found[PHANTOM])
    FigureCanvasAgg(figure)
    with replaced(PICTURE) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")
    write_text(README, rewrite(README.read_text(encoding="utf-8"), results(found)))
    sys.stdout.write(f"Wrote {PICTURE} and {README}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
