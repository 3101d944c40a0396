from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from lit_continual.methods.bases.fit.batch_rows import count_rows, take_rows

Pair = namedtuple("Pair", ["image", "label"])
IMAGE, LABEL = torch.arange(6.0).view(3, 2), torch.tensor([4, 5, 6])


@dataclass
class Sample:
    image: torch.Tensor
    patient: list[str]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (IMAGE, IMAGE[[2, 0]]),
        ((IMAGE, LABEL), (IMAGE[[2, 0]], LABEL[[2, 0]])),
        ([IMAGE, LABEL, IMAGE], [IMAGE[[2, 0]], LABEL[[2, 0]], IMAGE[[2, 0]]]),  # as many parts as samples
        (Pair(IMAGE, LABEL), Pair(IMAGE[[2, 0]], LABEL[[2, 0]])),
        (Sample(IMAGE, ["a", "b", "c"]), Sample(IMAGE[[2, 0]], ["c", "a"])),
        (
            {"x": IMAGE, "boxes": [LABEL[:1], LABEL[:2], LABEL[:0]]},
            {"x": IMAGE[[2, 0]], "boxes": [LABEL[:0], LABEL[:1]]},
        ),
        ({"x": IMAGE, "names": [("a",), (), ("b", "c")]}, {"x": IMAGE[[2, 0]], "names": [("b", "c"), ("a",)]}),
        ({"x": {"y": IMAGE}, "spacing": (1.0, 2.0)}, {"x": {"y": IMAGE[[2, 0]]}, "spacing": (1.0, 2.0)}),
        ({"x": IMAGE, "scale": torch.tensor(3.0)}, {"x": IMAGE[[2, 0]], "scale": torch.tensor(3.0)}),
        ({"x": IMAGE, "path": "abc"}, {"x": IMAGE[[2, 0]], "path": "abc"}),
    ],
)
def test_rows_of_whatever_a_batch_is(batch, expected):
    assert count_rows(batch) == 3
    taken = take_rows(batch, [2, 0])
    assert type(taken) is type(expected)
    assert str(taken) == str(expected)


def test_a_batch_without_tensors_has_no_rows():
    assert count_rows(["a", {"b": 3}]) == 0
