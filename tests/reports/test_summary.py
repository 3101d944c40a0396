from math import isnan

import pytest

from lit_continual.reports.summary import class_means, labels, measures, references, summary
from lit_continual.runs.run import Run
from lit_continual.runs.score import Score

THREE = (("a", ("a",)), ("b", ("b",)), ("c", ("c",)))
DICE, HD95 = Score("dice"), Score("hd95", False, "mm")


def both(dice, hd95=None):
    hd95 = hd95 or [[None] * len(dice)] * len(dice)
    return {"dice": dice, "hd95": hd95}


@pytest.fixture
def load(make_run):
    return lambda *args, **kwargs: Run.load(make_run(*args, overlays=False, patients=0, **kwargs))


def test_measures_by_hand(load):
    dice = [[0.8, None, None], [0.9, 0.7, None], [0.6, 0.5, 0.95]]
    hd95 = [[2.0, None, None], [1.0, 3.0, None], [5.0, 4.0, 1.5]]
    run = load(experiences=THREE, matrix=both(dice, hd95))
    joint = load("joint", "joint", "joint", experiences=THREE, matrix=both([[None] * 3] * 2 + [[0.9, 0.8, 1.0]]))
    found = measures(run, DICE, [run, joint])
    assert found["acc"] == pytest.approx((0.6 + 0.5 + 0.95) / 3)
    assert found["bwt"] == pytest.approx(((0.6 - 0.8) + (0.5 - 0.7)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.7 - 0.5)) / 2)
    assert found["intransigence"] == pytest.approx(((0.9 - 0.8) + (0.8 - 0.7) + (1.0 - 0.95)) / 3)
    assert measures(joint, DICE)["acc"] == pytest.approx(0.9)
    assert isnan(measures(joint, DICE)["bwt"])
    distance = measures(run, HD95)
    assert distance["bwt"] == pytest.approx(-((5 - 2) + (4 - 3)) / 2)  # farther is worse
    assert distance["forgetting"] == pytest.approx(((5 - 1) + (4 - 3)) / 2)
    assert distance["acc"] == pytest.approx((5 + 4 + 1.5) / 3)


def test_an_unfinished_run_is_a_stream_of_what_it_has_learnt(load):
    dice = [[0.8, None, None], [0.6, 0.7, None], [None] * 3]
    found = measures(load(experiences=THREE, steps=2, matrix=both(dice)), DICE)
    assert found["acc"] == pytest.approx(0.65)
    assert found["forgetting"] == pytest.approx(0.2)


def test_reference_is_the_joint_run_of_the_same_seed_before_all_joint_runs_before_a_single_run(load):
    run = load("run", seed=1)
    single, joint = load("single", "single", "single"), load("joint0", "joint", "joint", seed=0)
    same, third = load("joint1", "joint", "joint", seed=1), load("joint2", "joint", "joint", seed=2)
    other = load("other", "joint", "joint", seed=1, experiences=THREE)
    unfinished = load("unfinished", "joint", "joint", seed=1, steps=1)
    assert references(run, [run, single, other, unfinished]) == [single]
    assert references(run, [run, single, joint, third]) == [joint, third]
    assert references(run, [run, single, joint, same, third]) == [same]
    assert references(joint, [run, single]) == []


def test_several_seeds_are_averaged_with_n_minus_one(load):
    lasts = (0.5, 0.6, 0.9)
    runs = [load(f"run{seed}", seed=seed, matrix=both([[0.9, None], [x, 0.8]])) for seed, x in enumerate(lasts)]
    unfinished = load("run3", seed=3, steps=1)
    rows = summary([*runs, unfinished], DICE)
    assert [row.label for row in rows] == ["lwfseg, mean of 3 seeds", *(f"lwfseg, seed {seed}" for seed in range(4))]
    mean = sum(lasts) / 3
    assert rows[0].values["last humerus"] == pytest.approx(mean)
    assert rows[0].spreads["last humerus"] == pytest.approx((sum((x - mean) ** 2 for x in lasts) / 2) ** 0.5)
    assert rows[0].values["first humerus"] == pytest.approx(0.9)
    assert isnan(rows[1].spreads["last humerus"])


def test_one_seed_twice_is_not_a_spread_over_seeds(load):
    runs = [load("x", seed=0), load("y", seed=0)]
    rows = summary(runs, DICE)
    assert len(rows) == 2
    assert len({row.label for row in rows}) == 2
    assert [label.endswith(f"{run.folder})") for label, run in zip(labels(runs), runs, strict=True)] == [True, True]


def test_class_means_leave_out_and_count_what_is_undefined(make_run):
    matrix = {score: [[1.0, None], [1.0, 1.0]] for score in ("dice", "assd", "hd95")}
    folder = make_run(overlays=False, matrix=matrix)
    rows = ["0,0,p1,a,0.5,1.0,", "0,0,p2,a,0.7,3.0,nan", "0,0,p3,a,0.9,,inf"]
    (folder / "cases.csv").write_text("after,on,patient,class,dice,assd,hd95\n" + "\n".join(rows))
    run = Run.load(folder)
    dice, assd, hd95 = (class_means(run, score)[0] for score in run.scores)
    assert (dice.mean, dice.std, dice.n, dice.undefined) == (pytest.approx(0.7), pytest.approx(0.2), 3, 0)
    assert (assd.mean, assd.std, assd.n, assd.undefined) == (2.0, pytest.approx(2**0.5), 2, 1)
    assert (hd95.n, hd95.undefined) == (0, 3)
    assert isnan(hd95.mean)
    assert isnan(hd95.std)


@pytest.mark.parametrize(("value", "text"), [(-0.0001, "0.000"), (0.05, "+0.050"), (-0.05, "\N{MINUS SIGN}0.050")])
def test_a_zero_has_no_sign(value, text):
    assert DICE.text(value, signed=True) == text
