"""Paired test between two runs on the same patients."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


class PairedTest(NamedTuple):
    """Outcome of :func:`paired_test`: mean of second minus first, two-sided p-value, cases used and left out."""

    difference: float
    p_value: float
    cases: int
    left_out: int


def paired_test(
    first: Mapping[str, float], second: Mapping[str, float], test: Literal["wilcoxon", "t"] = "wilcoxon"
) -> PairedTest:
    """Test whether two runs score differently on the same patients, two-sided.

    Patients are matched by name; those with an undefined score (nan) in either run are left out and counted.

    Args:
        first: Patient -> score of the run compared against, such as plain fine-tuning.
        second: Patient -> score of the other run, for the same patients.
        test: ``wilcoxon``, the signed-rank test, exact for up to 50 patients without ties; or ``t``, Student's paired
            test, which takes the differences for normal. A p-value below 0.05 needs at least 6 patients under
            ``wilcoxon``.

    Returns:
        The p-value is 1 where all differences are 0, and nan where fewer than two pairs are left.

    Raises:
        ValueError: If the runs have other patients, or ``test`` is unknown.

    Example:
        >>> plain = {"a": 0.70, "b": 0.72, "c": 0.65, "d": 0.80, "e": 0.60, "f": 0.71}
        >>> anchored = {name: score + 0.01 * k for k, (name, score) in enumerate(plain.items(), start=1)}
        >>> result = paired_test(plain, anchored)
        >>> round(result.difference, 3), result.p_value, result.cases
        (0.035, 0.03125, 6)
    """
    if test not in ("wilcoxon", "t"):
        raise ValueError(f"`test` must be 'wilcoxon' or 't', got '{test}'.")
    if unpaired := sorted(first.keys() ^ second.keys()):
        raise ValueError(
            f"The two runs were scored on different patients: {', '.join(unpaired[:5])} is in one of them only."
            " Compare runs on one test split."
        )
    differences = np.array([second[name] - first[name] for name in first], dtype=float)
    defined = np.isfinite(differences)
    kept = differences[defined]
    left_out = len(differences) - len(kept)
    if len(kept) < 2:
        return PairedTest(float(kept.mean()) if len(kept) else float("nan"), float("nan"), len(kept), left_out)
    from scipy import stats  # half a second, which the report of a single run does not need

    scores = np.array([[first[name], second[name]] for name in first], dtype=float)[defined]
    exact = _without_noise(kept, float(np.abs(scores).max()))
    if not exact.any():
        p_value = 1.0
    elif test == "wilcoxon":
        p_value = float(stats.wilcoxon(exact).pvalue)
    else:
        p_value = float(stats.ttest_1samp(kept, 0.0).pvalue)
    return PairedTest(float(kept.mean()), p_value, len(kept), left_out)


def _without_noise(differences: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Round away what subtraction leaves: 0.8 - 0.7 and 0.7 - 0.6 are a tie, and neither counts as the larger one."""
    step = 2.0 ** (np.frexp(largest)[1] - 40)
    found: NDArray[np.float64] = np.round(differences / step) * step
    return found
