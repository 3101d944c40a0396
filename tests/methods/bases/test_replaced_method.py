import pytest

from lit_continual.methods.bases.fit.replaced_method import ReplacedMethod


class Owner:
    def name(self):
        return "own"


def test_gives_back_what_somebody_had_put_there():
    owner = Owner()
    owner.name = mine = lambda: "mine"
    replaced = ReplacedMethod(owner, "name", lambda own: f"not {own()}")
    assert owner.name() == "not mine"
    replaced.remove()
    assert owner.name is mine


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_are_taken_back_in_any_order(order):
    owner = Owner()
    replaced = [ReplacedMethod(owner, "name", lambda own: f"not {own()}") for _ in range(2)]
    assert owner.name() == "not not own"
    for k in order:
        replaced[k].remove()
    assert vars(owner) == {}


def test_does_nothing_more_where_somebody_has_wrapped_it_since():
    owner = Owner()
    replaced = ReplacedMethod(owner, "name", lambda own: f"not {own()}")
    inner = owner.name
    owner.name = lambda: f"{inner()}, wrapped"
    replaced.remove()
    assert owner.name() == "own, wrapped"
