"""The numbers of a report as LaTeX tables for ``booktabs``."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lit_continual.files.printing import printable
from lit_continual.reports.summary import MEASURES, Row, experiences_of, labels, scores_of, summary
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
}


def escape(text: str) -> str:
    r"""Text in which LaTeX sees no command.

    Example:
        >>> print(escape("50% of head_neck ± 1"))
        50\% of head\_neck $\pm$ 1
    """
    return "".join(_SPECIAL.get(character, character) for character in printable(text))


def write_latex(runs: Sequence[Run], folder: Path) -> None:
    """Write ``tables.tex``: per score the comparison of the runs and each result matrix."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for score in scores_of(runs):
        parts.append(_comparison(summary(runs, score), score, experiences_of(runs)))
        parts += [_matrix(run, label, score) for run, label in zip(runs, labels(runs), strict=True)]
    (folder / "tables.tex").write_text("\n\n".join(parts) + "\n", "utf-8")


def _comparison(rows: Sequence[Row], score: Score, experiences: Sequence[str]) -> str:
    columns = {m: title for m, title in MEASURES.items() if any(np.isfinite(row.values[m]) for row in rows)}
    for name in experiences:
        columns |= {f"first {name}": f"{name}, learnt", f"last {name}": f"{name}, last"}
    body = [[row.label, *(row.text(key, score) for key in columns)] for row in rows]
    caption = f"{score.title}. Several seeds: mean ± standard deviation (n - 1)."
    return tabular(caption, ["", *columns.values()], body)


def _matrix(run: Run, label: str, score: Score) -> str:
    R = run.values(score)
    names = [e.name for e in run.experiences]
    body = [[f"after {name}", *map(score.text, values)] for name, values in zip(names, R, strict=True)]
    return tabular(f"{score.title} of {label}: after each experience (rows) on each (columns).", ["", *names], body)


def tabular(caption: str, header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """One table of ``booktabs``; escapes everything."""
    first, *others = (" & ".join(map(escape, entries)) + r" \\" for entries in (header, *body))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            first,
            r"\midrule",
            *others,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
