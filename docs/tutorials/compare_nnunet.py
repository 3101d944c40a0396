"""Compare an nnU-Net before and after it has learnt a class, by what nnU-Net predicts: the table of `extend_nnunet.md`.

python docs/tutorials/compare_nnunet.py --seed 0 --output runs/nnunet/seed_0

The same command goes on where it was stopped. It wants `small_nnunet.py` beside it, the extra `nnunet`, and the folder
of `Task04_Hippocampus` in `LIT_CONTINUAL_DATA`.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from small_nnunet import SOURCE, dataset, images, plan, train

CONFIG = Path(__file__).absolute().parents[2] / "configs" / "extend_nnunet.yaml"
CLASSES = {"anterior": 1, "posterior": 2}
OLD, NEW, BOTH = "Dataset901_Anterior", "Dataset902_Posterior", "Dataset903_Both"
TRAINER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
#: What a row of the table is called, and the folder of nnU-Net's results that it is predicted from.
ROWS = {"before": OLD, "fine-tuned": "Dataset904_FineTuned", "extended": "Dataset905_Extended", "both": BOTH}


def prepare(asked: argparse.Namespace) -> None:
    """Write the data sets: anterior of the first patients, posterior of others, both of all, and the test patients."""
    for made in ("nnUNet_raw", "nnUNet_preprocessed", "test"):
        shutil.rmtree(made, ignore_errors=True)
    found = sorted((SOURCE / "imagesTr").glob("*.nii.gz"))
    old, new, shown = found[: asked.patients], found[60 : 60 + asked.patients], found[120:126]
    dataset(OLD, {"anterior": 1}, old)
    dataset(NEW, {"posterior": 2}, [*new, *shown])
    dataset(BOTH, CLASSES, [*old, *new])
    train_names, val_names = ([image.name.removesuffix(".nii.gz") for image in part] for part in (new, shown))
    folds = [{"train": train_names, "val": val_names}]  # of the latter only the fit's own report is made
    (Path("nnUNet_raw") / NEW / "splits_final.json").write_text(json.dumps(folds))
    images(found[136 : 136 + asked.test], Path("test"))
    for name in (OLD, BOTH):
        plan(name, convolutions=2)


def learn(row: str, asked: argparse.Namespace, *options: str) -> None:
    """Learn posterior from the new patients, and export to nnU-Net."""
    run, target = Path("runs") / row, f"nnUNet_results/{ROWS[row]}/{TRAINER}"
    fit = ["fit", "--config", str(CONFIG), f"--seed_everything={asked.seed}", f"--trainer.max_epochs={asked.epochs}"]
    fit += [f"--stream.start=nnUNet_results/{OLD}/{TRAINER}/fold_all", f"--trainer.default_root_dir={run}"]
    fit += [f"--data.init_args.dataset=nnUNet_raw/{NEW}", '--data.init_args.split={"fold": 0}']
    fit += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", *options]
    package = [sys.executable, "-m", "lit_continual"]
    subprocess.run([*package, *fit, *(["--resume"] if (run / "run.json").exists() else [])], check=True)
    export = ["export", str(run / "experiences/0_new/model.ckpt"), "--format=nnunet", f"--output={target}"]
    subprocess.run([*package, *export, "--overwrite"], check=True)


def predict(row: str) -> None:
    """Let nnU-Net predict the test patients."""
    program = Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"
    options = ["-i", "test", "-o", f"predicted/{row}", "-f", "all", "--disable_tta", "-device", "cpu"]
    model = ["-npp", "1", "-nps", "1", "-m", f"nnUNet_results/{ROWS[row]}/{TRAINER}"]
    subprocess.run([program, *options, *model], check=True)


def parts(asked: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """What there is to do, in this order."""
    last = ["--trainer.check_val_every_n_epoch", str(asked.epochs)]
    return {
        "data": lambda: prepare(asked),
        "train before": lambda: train(OLD, "all", asked.seed, asked.steps, lr=0.01),
        "train extended": lambda: learn("extended", asked, *last),
        "train fine-tuned": lambda: learn("fine-tuned", asked, *last, "--trainer.callbacks=null"),
        "train both": lambda: train(BOTH, "all", asked.seed, asked.steps, lr=0.01),
        **{f"predict {row}": lambda row=row: predict(row) for row in ROWS},
    }


def dice(prediction: Path, row: str, name: str) -> float:
    """Overlap of a class of one patient with the truth."""
    values = json.loads((Path("predicted") / row / "dataset.json").read_text())["labels"]
    found = np.asarray(nib.load(prediction).dataobj) == values[name]
    truth = np.asarray(nib.load(SOURCE / "labelsTr" / prediction.name).dataobj) == CLASSES[name]
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def score() -> dict[tuple[str, str], list[float]]:
    """Write `dice.csv`, a line a model, class and patient; return the scores of each model and class."""
    scores: dict[tuple[str, str], list[float]] = {}
    with Path("dice.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["model", "class", "patient", "dice"])
        for row in ROWS:
            for name in [name for name in CLASSES if row != "before" or name == "anterior"]:
                for prediction in sorted((Path("predicted") / row).glob("*.nii.gz")):
                    value = dice(prediction, row, name)
                    scores.setdefault((row, name), []).append(value)
                    lines.writerow([row, name, prediction.name.removesuffix(".nii.gz"), f"{value:.6f}"])
    return scores


def tabulate(scores: dict[tuple[str, str], list[float]], hours: dict[str, dict[str, float]]) -> str:
    """The table in Markdown: mean ± standard error over patients, the worst one, and the hours of each part."""
    lines = ["| | anterior, old | worst | posterior, new | worst | hours to train | of one core |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in ROWS:
        cells = []
        for name in CLASSES:
            found = scores.get((row, name), [])
            error = np.std(found) / max(1, len(found)) ** 0.5 if found else 0.0
            cells += [f"{np.mean(found):.3f} ± {error:.3f}", f"{min(found):.3f}"] if found else ["", ""]
        cells += [f"{hours[f'train {row}'][kind]:.2f}" for kind in ("hours", "core_hours")]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    whole = [f"{part} {spent['hours']:.2f}" for part, spent in hours.items()]
    return "\n".join([*lines, "", f"Hours: {', '.join(whole)}.", ""])


def core_seconds() -> float:
    """Time that this process and those that it has waited for have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def require_same(asked: argparse.Namespace) -> None:
    """Keep one folder to one comparison."""
    given, path = {key: value for key, value in vars(asked).items() if key != "output"}, Path("options.json")
    if path.exists() and json.loads(path.read_text()) != given:
        sys.exit(f"{asked.output} was begun with {path.read_text()}. Give the same options, or another --output.")
    path.write_text(json.dumps(given))


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True, help="Of every training; the patients stay.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="Of each training by nnU-Net.")
    parser.add_argument("--epochs", type=int, default=20, help="Of fine-tuning and of extending.")
    parser.add_argument("--patients", type=int, default=60, help="With anterior, and as many with posterior.")
    parser.add_argument("--test", type=int, default=64, help="Patients to test on.")
    asked = parser.parse_args(arguments)
    asked.output.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.output)
    require_same(asked)
    record = Path("hours.json")
    hours = json.loads(record.read_text()) if record.exists() else {}
    for part, work in parts(asked).items():
        if part not in hours:
            print(f"{time.strftime('%H:%M')} {part}", flush=True)  # noqa: T201  # a script
            start, used = time.time(), core_seconds()
            work()
            spent = {"hours": time.time() - start, "core_hours": core_seconds() - used}
            hours[part] = {kind: round(seconds / 3600, 4) for kind, seconds in spent.items()}
            record.write_text(json.dumps(hours, indent=1))
    table = tabulate(score(), hours)
    Path("table.md").write_text(table, encoding="utf-8")
    print(table)  # noqa: T201


if __name__ == "__main__":
    main()
