from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lit_continual.data import Case, Split, check_leakage, split_cases

SIDES = ("train", "val", "test")


def make(patients, images_each=1, **keys):
    """Cases of ``patients``, each with as many images as ``images_each`` says; ``keys`` map a patient to a value."""
    return [
        Case((Path(f"{p}_{k}.nii"),), None, str(p), {name: value(p) for name, value in keys.items()})
        for p in patients
        for k in range(images_each if isinstance(images_each, int) else images_each(p))
    ]


def people(cases):
    return {case.patient for case in cases}


@pytest.mark.parametrize("seed", range(20))
def test_every_case_is_in_one_split_and_every_patient_too(seed):
    cases = make(range(5 + seed * 3), images_each=lambda p: 1 + p % 3)
    splits = split_cases(cases, Split(seed=seed), "list")
    assert Counter(c.images for name in SIDES for c in splits[name]) == Counter(c.images for c in cases)
    assert sum(len(people(splits[name])) for name in SIDES) == len(people(cases))


def test_shares_are_of_patients_and_not_of_images():
    cases = make(range(100), images_each=lambda p: 30 if p < 5 else 1)
    splits = split_cases(cases, Split((0.6, 0.15, 0.25)), "list")
    assert [len(people(splits[name])) for name in SIDES] == [60, 15, 25]


def test_the_order_of_the_list_does_not_matter_and_the_seed_does():
    cases = make(range(30))
    splits, turned = (split_cases(x, Split(seed=3), "list") for x in (cases, cases[::-1]))
    assert all(people(splits[name]) == people(turned[name]) for name in SIDES)
    assert people(split_cases(cases, Split(seed=4), "list")["test"]) != people(splits["test"])


@pytest.mark.parametrize("key", [None, "split"])
@pytest.mark.parametrize("n", [2, 3])
def test_parts_share_nobody_in_training_and_everybody_in_test(key, n):
    cases = make(range(40), lambda p: 1 + p % 4, split=lambda p: "test" if p % 5 == 0 else "val" if p == 7 else "train")
    whole = split_cases(cases, Split(key=key), "list")
    parts = [split_cases(cases, Split(key=key, part=(i, n)), "list") for i in range(n)]
    trained = [people(part["train"]) for part in parts]
    assert sum(map(len, trained)) == len(set().union(*trained)) == len(people(whole["train"]))
    assert max(map(len, trained)) - min(map(len, trained)) <= 1
    for part in parts:
        assert people(part["test"]) == people(whole["test"])
        assert len(part["train"]) == sum(c.patient in people(part["train"]) for c in cases)  # all images of a patient
    check_leakage({f"part {i}": part for i, part in enumerate(parts)})


def test_given_splits():
    words = {0: "training", 1: "train", 2: "validation", 3: "val", 4: "testing", 5: "test"}
    splits = split_cases(make(range(6), 2, fold=words.get), Split(key="fold"), "list")
    assert [people(splits[name]) for name in SIDES] == [{"0", "1"}, {"2", "3"}, {"4", "5"}]


@pytest.mark.parametrize("key", [None, "split"])
def test_limit_counts_patients_and_leaves_the_rest_alone(key):
    cases = make(range(20), 3, split=lambda p: "train" if p < 14 else "test")
    whole, few = (split_cases(cases, Split(key=key, limit=limit), "list") for limit in (None, 4))
    assert len(people(few["train"])) == 4
    assert len(few["train"]) == 12
    assert people(few["train"]) < people(whole["train"])
    assert few["test"] == whole["test"]
    assert split_cases(cases, Split(key=key, limit=999), "list") == whole


def test_limit_is_of_the_part():
    cases = make(range(20))
    part = split_cases(cases, Split(part=(1, 2)), "list")["train"]
    few = split_cases(cases, Split(part=(1, 2), limit=3), "list")["train"]
    assert len(few) == 3
    assert people(few) < people(part)


def test_where_comes_first():
    cases = make(range(40), site=lambda p: "DU" if p % 2 else "HT", split=lambda p: "train" if p < 30 else "test")
    splits = split_cases(cases, Split((0.5, 0, 0.5), where={"site": "DU"}), "list")
    assert len(splits["train"]) == len(splits["test"]) == 10
    assert all(c.keys["site"] == "DU" for name in SIDES for c in splits[name])
    one = split_cases(cases, Split((1.0, 0.0, 0.0), where={"patient": "7"}), "list")
    assert people(one["train"]) == {"7"}
    given = split_cases(cases, Split(key="split", where={"site": "HT"}), "list")
    assert people(given["train"]) == {str(p) for p in range(0, 30, 2)}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(where={"site": "XX"}), r"No case of list has .*XX.*it has .*DU.*Correct `split.where`"),
        (Split(where={"vendor": "GE"}), "it has {'vendor': .'nothing'.}"),
        (Split((0, 0.5, 0.5)), "The training split of list is empty: 4 patients"),
        (Split(part=(5, 6)), "The training split of list is empty"),
        (Split(key="nope"), "0_0.nii has no `nope` in list. Use train, val or test"),
        (Split(key="site"), "'DU' as `site`"),
    ],
)
def test_refused_splits(split, message):
    with pytest.raises(ValueError, match=message):
        split_cases(make(range(4), site=lambda p: "DU"), split, "list")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": (0.5, 0.5, 0.5)}, "three shares that sum to one"),
        ({"fractions": (1.2, -0.1, -0.1)}, "three shares that sum to one"),
        ({"part": (2, 2)}, r"`part` must be \[i, n\]"),
        ({"limit": 0}, "`limit` must be at least one patient"),
    ],
)
def test_refused_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Split(), **change)


def test_one_patient_on_two_given_sides():
    first, second = make([1], 2)
    cases = [replace(first, keys={"split": "train"}), replace(second, keys={"split": "test"})]
    with pytest.raises(ValueError, match=r"Patient 1 of list is in two splits, train and test. Keep all images"):
        split_cases(cases, Split(key="split"), "list")


@pytest.mark.parametrize("sides", [("train", "val"), ("train", "test"), ("val", "test")])
@pytest.mark.parametrize("turned", [False, True])
def test_one_patient_on_two_sides_of_a_stream(sides, turned):
    empty = {key: [] for key in SIDES}
    stream = {"a": {**empty, sides[turned]: make([1])}, "b": {**empty, sides[not turned]: make([1])}}
    with pytest.raises(ValueError, match=r"Patient 1 is in the \w+ split of \w and the \w+ split of \w. Use one"):
        check_leakage(stream)


def test_one_patient_may_be_trained_on_and_tested_twice():
    splits = {"train": make([1, 2]), "val": make([3]), "test": make([4])}
    check_leakage({"fat": splits, "water": splits})


@pytest.mark.parametrize("seed", range(10))
def test_streams_by_one_seed_do_not_leak_and_by_two_do(seed):
    cases = make(range(30), 2)
    same = {i: split_cases(cases, Split(seed=seed, part=(i, 3)), "list") for i in range(3)}
    check_leakage(same)
    with pytest.raises(ValueError, match=r"Use one `split.seed`"):
        check_leakage({**same, "other": split_cases(cases, Split(seed=seed + 100), "list")})
