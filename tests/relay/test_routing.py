"""Routing: exact names, one owner or owners who all share, decided without waiting."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunnel.names import Hostname
from trunnel.relay.routing import Claimed, Conflict, RouteTable

A, B, C = (Hostname(f"{label}.example") for label in "abc")


def table(load: dict[str, int] | None = None) -> RouteTable[str]:
    return RouteTable((load or {}).__getitem__ if load else lambda _: 0)


def test_a_name_is_routed_exactly() -> None:
    """No suffix, no prefix, no default."""
    routes = table()
    routes.claim([A], "one")
    assert routes.lookup(A) == "one"
    assert [routes.lookup(Hostname(name)) for name in ("x.a.example", "example", "aa.example")] == [None] * 3


def test_a_claim_is_all_or_nothing() -> None:
    """CONS-01: the loser gets none of the names, and is told which one it was and whose."""
    routes = table()
    routes.claim([B], "one")
    assert routes.claim([A, B, C], "two") == Conflict(B, ("one",))
    assert (routes.lookup(A), routes.names("two")) == (None, ())


def test_claiming_again_is_fine() -> None:
    routes = table()
    assert routes.claim([A, A], "one") == Claimed((A,))
    assert routes.claim([A, B], "one") == Claimed((A, B))
    assert routes.names("one") == (A, B)


def test_sharing_needs_everybody() -> None:
    routes = table()
    routes.claim([A], "one", share=True)
    assert isinstance(routes.claim([A], "two", share=False), Conflict)
    assert isinstance(routes.claim([A], "two", share=True), Claimed)
    assert isinstance(routes.claim([A], "three", share=False), Conflict)
    assert routes.owners(A) == ("one", "two")


def test_one_who_stops_sharing_keeps_newcomers_out() -> None:
    routes = table()
    routes.claim([A], "one")
    assert routes.claim([A], "two", share=True) == Conflict(A, ("one",))


def test_the_least_loaded_owner_is_chosen() -> None:
    load = {"one": 3, "two": 1, "three": 2}
    routes = table(load)
    for owner in load:
        routes.claim([A], owner, share=True)
    assert routes.lookup(A) == "two"
    load["two"] = 9
    assert routes.lookup(A) == "three"


def test_equals_take_turns() -> None:
    routes = table()
    for owner in ("one", "two", "three"):
        routes.claim([A], owner, share=True)
    assert sorted(str(routes.lookup(A)) for _ in range(6)) == ["one"] * 2 + ["three"] * 2 + ["two"] * 2


def test_release_takes_everything_and_nothing_of_others() -> None:
    routes = table()
    routes.claim([A, B], "one", share=True)
    routes.claim([B, C], "two", share=True)
    routes.release("one")
    routes.release("one")
    assert (routes.lookup(A), routes.lookup(B), routes.lookup(C)) == (None, "two", "two")
    assert len(routes) == 2


def test_one_name_can_be_released() -> None:
    routes = table()
    routes.claim([A, B], "one")
    routes.release_name(A, "one")
    routes.release_name(A, "stranger")
    assert (routes.lookup(A), routes.lookup(B), routes.names("one")) == (None, "one", (B,))
    routes.release_name(B, "one")
    assert (len(routes), routes.names("one")) == (0, ())


class Claims(RuleBasedStateMachine):
    """Owners claim and release at random; the model is a set of (name, owner, share)."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = table()
        self.model: dict[tuple[Hostname, str], bool] = {}

    @rule(names=st.lists(st.sampled_from([A, B, C]), max_size=3), owner=st.sampled_from("xyz"), share=st.booleans())
    def claim(self, names: list[Hostname], owner: str, share: bool) -> None:
        others = [shares for (name, other), shares in self.model.items() if name in names and other != owner]
        free = all(share and shares for shares in others)
        assert isinstance(self.routes.claim(names, owner, share=share), Claimed) == free
        if free:
            self.model |= {(name, owner): share for name in names}

    @rule(owner=st.sampled_from("xyz"))
    def release(self, owner: str) -> None:
        self.routes.release(owner)
        self.model = {key: share for key, share in self.model.items() if key[1] != owner}

    @rule(name=st.sampled_from([A, B, C]), owner=st.sampled_from("xyz"))
    def release_name(self, name: Hostname, owner: str) -> None:
        self.routes.release_name(name, owner)
        self.model.pop((name, owner), None)

    @invariant()
    def owners_agree(self) -> None:
        for name in (A, B, C):
            owners = {owner for known, owner in self.model if known == name}
            assert set(self.routes.owners(name)) == owners
            assert (self.routes.lookup(name) in owners) if owners else (self.routes.lookup(name) is None)
        for owner in "xyz":
            assert set(self.routes.names(owner)) == {name for name, other in self.model if other == owner}


TestClaims = Claims.TestCase
