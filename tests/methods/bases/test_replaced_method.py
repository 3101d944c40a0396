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


def test_does_nothing_more_where_somebody_has_wrapped_it_since():
    owner = Owner()
    replaced = ReplacedMethod(owner, "name", lambda own: f"not {own()}")
    inner = owner.name
    owner.name = lambda: f"{inner()}, wrapped"
    replaced.remove()
    assert owner.name() == "own, wrapped"
