"""What is learnt one after another, and from whom."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_continual.data.case_lists.cases import Case
from lit_continual.data.case_lists.splits import Split, check_leakage, split_cases
from lit_continual.tools.init.data_set_facts import DataSetFacts

By = Literal["datasets", "classes"]
SEEDS = 200  # that are tried
EACH = 2  # patients that train each class of one data set, at least


@dataclass(frozen=True)
class Planned:
    """An experience: its name, its data set, the classes that it reveals, and which part of the patients train it."""

    name: str
    data: DataSetFacts
    classes: dict[str, int | str]
    part: tuple[int, int] | None = None


def plan(data: Sequence[DataSetFacts], by: By | None) -> tuple[list[Planned], str]:
    """Choose the experiences, and say why.

    Raises:
        ValueError: If a data set reveals only some of the classes that another one reveals together.
    """
    alone = len(data) == 1 and not data[0].listed.regions
    if by == "classes" or (by is None and alone and len(data[0].classes) > 1):
        if any(one.listed.regions for one in data):
            raise ValueError(f"{data[0].listed.source} has regions, which are learnt together. Give --by datasets.")
        found = [
            Planned(name, one, {name: value}, (k, len(one.classes)) if len(one.classes) > 1 else None)
            for one in data
            for k, (name, value) in enumerate(one.classes.items())
        ]
        return _named(
            found
        ), "One experience a class; each is trained on patients of its own, and tested on all held out."
    found = [Planned(one.name, one, classes) for one, classes in zip(data, _new_classes(data), strict=True)]
    if len(found) > 1:
        return _named(found), "One experience a data set, in the order given."
    return found, "One experience. A second data set, or --by classes where there are several, makes a stream."


def _new_classes(data: Sequence[DataSetFacts]) -> Iterator[dict[str, int | str]]:
    """Yield what each data set reveals: nothing that an earlier one revealed together with what this one lacks."""
    heads: list[set[str]] = []
    for one in data:
        lacking = {name for head in heads if not head <= one.classes.keys() for name in head & one.classes.keys()}
        revealed = {name: value for name, value in one.classes.items() if name not in lacking}
        if not revealed:
            raise ValueError(
                f"{one.listed.source} reveals {', '.join(one.classes)}, a part of what an earlier data set reveals"
                " together. Give it first, or give --by classes."
            )
        heads.append(set(revealed) - {name for head in heads for name in head})
        heads = [head for head in heads if head]
        yield revealed


def _named(found: Sequence[Planned]) -> list[Planned]:
    """Give each experience a name of its own."""
    taken: dict[str, int] = {}
    named = []
    for one in found:
        count = taken[one.name] = taken.get(one.name, 0) + 1
        name = one.name if count == 1 else f"{one.name} {count}"
        named.append(Planned(name, one.data, one.classes, one.part))
        taken.setdefault(name, 1)
    return named


def choose_split(planned: Sequence[Planned]) -> tuple[dict[str, Any], list[Planned], str]:
    """Choose who trains, validates and tests, so that each class is trained, and tested where that can be.

    Returns:
        The arguments of ``split`` that all experiences share, the experiences, and why.

    Raises:
        ValueError: If no split has everybody on one side, and each class among those who train.
    """
    whole = [Planned(one.name, one.data, one.classes) for one in planned]
    for tried in (planned, whole):
        for options, why in _splits({one.data.given: one.data for one in planned}.values()):
            best = [
                _coverage(tried, {**options, "seed": seed}) for seed in (range(SEEDS) if "fold" not in options else [0])
            ]
            if top := max(best):
                seed = {"seed": best.index(top)} if best.index(top) else {}
                chance = (
                    f" With the seed {best.index(top)} each class is trained and tested, as far as can be."
                    if seed
                    else ""
                )
                return {**options, **seed}, list(tried), why + chance
    names = ", ".join(dict.fromkeys(one.data.given for one in whole))
    raise ValueError(
        f"No split of {names} has every class among the patients who train, and nobody on two sides: two people of one"
        " name count as one. Give more cases, or a CSV table with the key `patient`."
    )


def _splits(data: Any) -> Iterator[tuple[dict[str, Any], str]]:
    if all(one.folds for one in data):
        yield {"fold": 0, "fractions": [0.9, 0.1, 0.0]}, "The first fold of nnU-Net, whose `val` is tested on."
    if all(_has_key(one) for one in data):
        yield {"key": "split"}, "As the key `split` of the list says."
    least = min(len(one.patients) for one in data)
    test, val = max(0.2, 0.51 / least), max(0.1, 0.51 / least) if least > 4 else 0.0
    shares = [round(1 - round(test, 3) - round(val, 3), 3), round(val, 3), round(test, 3)]
    yield {"fractions": shares}, f"Patients are split, never images; the smallest data set has {least}."


def _has_key(one: DataSetFacts) -> bool:
    return {"train", "test"} <= {facts.case.keys.get("split") for facts in one.cases} <= {"train", "val", "test"}


def _coverage(planned: Sequence[Planned], options: Mapping[str, Any]) -> int:
    """How many classes are tested, and 1; 0 where one is not trained or somebody is on two sides."""
    count, sides = 1, dict[str, dict[str, list[Case]]]()
    for one in planned:
        cases = [facts.case for facts in one.data.cases]
        fractions = tuple(options.get("fractions", Split().fractions))
        split = Split(**{**options, "fractions": fractions, "part": one.part})
        try:
            sides[one.name] = split_cases(cases, split, one.data.listed.source)
            check_leakage(sides)
        except ValueError:
            return 0
        if not sides[one.name]["test"] or (one.part and len(sides[one.name]["train"]) < EACH):
            return 0
        voxels = {id(facts.case): facts.voxels for facts in one.data.cases}
        for name in one.classes:
            value = one.data.value(name)
            trained, tested = (any(value in voxels[id(c)] for c in sides[one.name][side]) for side in ("train", "test"))
            if not trained:
                return 0
            count += tested
    return count
