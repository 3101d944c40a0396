"""One patient as a set of tasks: slices that the network does well on, and slices that it does not."""

import math
from collections.abc import Mapping

import torch

Slices = list[int]
Episode = list[tuple[Slices, Slices]]


def patient_tasks(
    dice: Mapping[int, float],
    threshold: float = 0.5,
    order: str = "active",
    tasks: int = 1,
    shots: int = 1,
    turn: int = 0,
    generator: torch.Generator | None = None,
) -> Episode:
    """Split the slices of one patient by Dice and draw tasks, pairs of disjoint lists ``D`` and ``D'`` of slices.

    A slice is good if its Dice is at least ``threshold``, else bad, and left out if its Dice is nan, as where neither
    the label nor the prediction has foreground. Each group is put in order and cut into pieces of ``2 * shots``; of
    a piece, the slices at even places are ``D`` and those at odd places ``D'``, so that the two are alike.

    Empty cases: a group without slices gives no task. A group of one slice cannot be halved and joins the other. The
    last piece may be short, and is dropped if it has one slice. Fewer than two slices with a Dice give no task.

    Args:
        dice: Current Dice by slice, in [0, 1] or nan.
        threshold: Least Dice of a good slice.
        order: ``"active"``, worst Dice first, ties by slice; or ``"passive"``, a random permutation.
        tasks: Number of tasks drawn from each group, if it has as many pieces.
        shots: Number of slices in ``D`` and in ``D'``.
        turn: How often this order has been drawn from already: the pieces are taken in turn, starting again at the
            first when all have been used.
        generator: Source of the permutations.

    Returns:
        The tasks, those of bad slices first.

    References:
        Han et al. Learning to Learn Unlearned Feature for Brain Tumor Segmentation. 2018, Algorithm 1, lines 4-8. The
        threshold and the empty cases are not in the paper.

    Example:
        >>> patient_tasks({0: 0.9, 1: 0.1, 2: 0.8, 3: 0.2, 4: float("nan")})
        [([1], [3]), ([2], [0])]
    """
    scored = {index: score for index, score in dice.items() if not math.isnan(score)}
    good = [index for index, score in scored.items() if score >= threshold]
    bad = [index for index, score in scored.items() if score < threshold]
    groups = [[*bad, *good]] if 1 in (len(good), len(bad)) else [bad, good]
    episode: Episode = []
    for group in groups:
        if order == "active":
            ordered = sorted(group, key=lambda index: (scored[index], index))
        else:
            ordered = [sorted(group)[place] for place in torch.randperm(len(group), generator=generator).tolist()]
        pieces = [ordered[start : start + 2 * shots] for start in range(0, len(ordered), 2 * shots)]
        pieces = [piece for piece in pieces if len(piece) > 1]
        for number in range(min(tasks, len(pieces))):
            piece = pieces[(turn * tasks + number) % len(pieces)]
            episode.append((piece[0::2], piece[1::2]))
    return episode
