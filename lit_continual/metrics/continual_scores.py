"""What a result matrix says about learning and forgetting."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor


def continual_scores(
    matrix: Any, baseline: Any = None, reference: Any = None, higher_is_better: bool = True
) -> dict[str, float]:
    r"""Sum up a result matrix R in five numbers.

    ``R[i, j]`` is the score on experience j after training on experience i. With T experiences counted from 1, b the
    ``baseline``, r the ``reference`` and s = +1, or -1 where lower is better:

    - ``acc`` :math:`= \frac{1}{T} \sum_j R_{T,j}`, in the score's own unit whichever way is better
    - ``bwt`` :math:`= \frac{s}{T-1} \sum_{j<T} (R_{T,j} - R_{j,j})`; negative is forgetting
    - ``fwt`` :math:`= \frac{s}{T-1} \sum_{j>1} (R_{j-1,j} - b_j)`; positive: something is known before it is learnt
    - ``forgetting`` :math:`= \frac{1}{T-1} \sum_{j<T} (\max_{l<T} s R_{l,j} - s R_{T,j})`; positive is forgetting
    - ``intransigence`` :math:`= \frac{s}{T} \sum_j (r_j - R_{j,j})`; positive is what was not learned

    A score is nan where T = 1 leaves its sum empty, where its ``baseline`` or ``reference`` is not given, and where any
    value that it needs is nan. Only the maximum in ``forgetting`` passes over earlier rows that were not evaluated.

    Args:
        matrix: R, shape ``(T, T)``; tensor, array or nested list; nan = not evaluated.
        baseline: Score of an untrained or chance model on each experience, shape ``(T,)``; the first is not used.
        reference: Score of the joint model, or of one that learnt it alone, on each experience, shape ``(T,)``.
        higher_is_better: False for distances and errors.

    Returns:
        ``acc``, ``bwt``, ``fwt``, ``forgetting``, ``intransigence`` as Python floats, computed in float64.

    Raises:
        ValueError: If ``matrix`` is not square or is empty, or a vector has not one value an experience.

    Source:
        Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, 2017, eqs. 2-4 (acc, bwt, fwt).
        Chaudhry et al., Riemannian Walk for Incremental Learning, 2018, "forgetting measure" and "intransigence
        measure", the latter averaged over experiences here.

    Example:
        >>> scores = continual_scores([[0.9, 0.2], [0.4, 0.8]], baseline=[0.0, 0.1], reference=[0.9, 0.9])
        >>> {name: round(score, 3) for name, score in scores.items()}
        {'acc': 0.6, 'bwt': -0.5, 'fwt': 0.1, 'forgetting': 0.5, 'intransigence': 0.05}
    """
    scores = torch.as_tensor(matrix, dtype=torch.float64, device="cpu")
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.numel() == 0:
        raise ValueError(f"`matrix` must have shape (T, T) with T >= 1, and has {tuple(scores.shape)}.")
    sign = 1.0 if higher_is_better else -1.0
    gain = sign * scores
    chance, bound = (
        sign * _one_per_experience(name, values, len(scores))
        for name, values in (("baseline", baseline), ("reference", reference))
    )
    learned, last = gain.diagonal(), gain[-1]
    best = reduce(torch.fmax, gain[:-1], torch.full_like(last, torch.nan))  # fmax prefers numbers to nan
    return {
        "acc": scores[-1].mean().item(),
        "bwt": (last - learned)[:-1].mean().item(),
        "fwt": (gain.diagonal(1) - chance[1:]).mean().item(),
        "forgetting": (best - last)[:-1].mean().item(),
        "intransigence": (bound - learned).mean().item(),
    }


def _one_per_experience(name: str, values: Any, experiences: int) -> Tensor:
    """Return ``values`` as a float64 vector, all nan for None."""
    if values is None:
        return torch.full((experiences,), torch.nan, dtype=torch.float64)
    vector = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    if vector.shape != (experiences,):
        raise ValueError(
            f"`{name}` must have one value for each of the {experiences} experiences of `matrix`, and has shape "
            f"{tuple(vector.shape)}."
        )
    return vector
