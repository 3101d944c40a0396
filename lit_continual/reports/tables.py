"""The numbers of a report as CSV and JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from lit_continual.files.csv_text import csv_text
from lit_continual.reports.summary import Row, class_means, experiences_of, labels, references, scores_of, summary
from lit_continual.runs.run import FORMAT, Run
from lit_continual.runs.score import Score


def write_csv(runs: Sequence[Run], folder: Path) -> None:
    """Write ``matrix_<score>.csv``, ``scores.csv`` and ``classes.csv``; what is undefined is an empty field."""
    for score in scores_of(runs):
        columns = experiences_of(runs)
        write_rows(
            folder / f"matrix_{score.file}.csv", ["run", "seed", "after", *columns], _matrix_lines(runs, score, columns)
        )
    write_rows(folder / "scores.csv", ["run", "seeds", "score", "measure", "value", "std"], _score_lines(runs))
    columns = ["run", "seed", "after", "on", "class", "score", "mean", "std", "n", "undefined"]
    write_rows(folder / "classes.csv", columns, _class_lines(runs))


def write_json(runs: Sequence[Run], folder: Path) -> None:
    """Write ``report.json``: every run with its matrices, measures and class means, and the comparison per score."""
    content = {
        "format": FORMAT,
        "runs": [_run(run, label, runs) for run, label in zip(runs, labels(runs), strict=True)],
        "comparison": {s.name: [_row(row) for row in summary(runs, s)] for s in scores_of(runs)},
    }
    text = json.dumps(_finite(content), indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", "utf-8")


def write_rows(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; what is undefined is an empty field."""
    path.write_text(csv_text(columns, ([_field(value) for value in line] for line in lines)), "utf-8", newline="")


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value) if isfinite(value) else ""
    return "" if value is None else value


def _matrix_lines(runs: Sequence[Run], score: Score, columns: Sequence[str]) -> Iterable[Sequence[Any]]:
    for run, label in zip(runs, labels(runs), strict=True):
        if score.name in run.matrix:
            for step, values in zip(run.experiences, run.matrix[score.name], strict=True):
                found = dict(zip((e.name for e in run.experiences), map(float, values), strict=True))
                yield [label, run.seed, step.name, *(found.get(name) for name in columns)]


def _score_lines(runs: Sequence[Run]) -> Iterable[Sequence[Any]]:
    for score in scores_of(runs):
        for row in summary(runs, score):
            seeds = " ".join(str(run.seed) for run in row.runs)
            for measure, value in row.values.items():
                yield [row.label, seeds, score.name, measure, value, row.spreads[measure]]


def _class_lines(runs: Sequence[Run]) -> Iterable[Sequence[Any]]:
    for run, label in zip(runs, labels(runs), strict=True):
        names = [e.name for e in run.experiences]
        for score in run.scores:
            for m in class_means(run, score):
                yield [label, run.seed, names[m.after], names[m.on], m.label, m.score, m.mean, m.std, m.n, m.undefined]


def _run(run: Run, label: str, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "label": label,
        "folder": str(run.folder),
        **{key: getattr(run, key) for key in ("name", "mode", "seed", "status", "steps", "device", "parameters")},
        "versions": dict(run.versions),
        "experiences": [asdict(e) for e in run.experiences],
        "references": [str(reference.folder) for reference in references(run, runs)],
        "matrix": {name: R.tolist() for name, R in run.matrix.items()},
        "classes": [asdict(mean) for score in run.scores for mean in class_means(run, score)],
    }


def _row(row: Row) -> dict[str, Any]:
    seeds = [run.seed for run in row.runs]
    return {"label": row.label, "seeds": seeds, "values": row.values, "spreads": row.spreads}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value
