"""Names of the agents' own: which may be asked for, and what follows from each answer of DNS."""

from __future__ import annotations

import math
import random

import pytest

from trunnel.names import Hostname, KeyId
from trunnel.relay.dnsproof import Denied, Proven
from trunnel.relay.hostnames import NameRules, Standing, standings
from trunnel.settings import limits

A = KeyId.of_spki(b"a")
NAME = Hostname("www.shop.example")
RULES = NameRules(suffixes=[Hostname("t.example"), Hostname("u.example")], reserved={Hostname("relay.example")})
UNCLEAR = Denied("no answer", transient=True)
DENIED = Denied("it has no CNAME record")


class Even:
    """No chance at all."""

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


def standing() -> Standing:
    return Standing(NAME, due=0.0)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("t.example", "given by its operator"),
        ("app.t.example", "given by its operator"),
        (f"{A}.u.example", "given by its operator"),
        ("relay.example", "the relay's own"),
        (f"{A}.shop.example", "looks like an agent's id"),
        (f"www.{A}.example", "looks like an agent's id"),
    ],
)
def test_some_names_are_refused_whatever_dns_says(name: str, why: str) -> None:
    assert why in str(RULES.refusal(Hostname(name)))


@pytest.mark.parametrize("name", ["www.shop.example", "at.example", "example", "x.relay.example"])
def test_dns_decides_about_all_others(name: str) -> None:
    assert RULES.refusal(Hostname(name)) is None


def test_a_relay_may_refuse_them_all() -> None:
    rules = NameRules(suffixes=RULES.suffixes, allowed=False)
    assert "takes no names" in str(rules.refusal(NAME))


def test_each_name_stands_once_and_what_the_key_has_stands_at_once() -> None:
    asked = [NAME.value, "app.t.example", NAME.value, "b.example"]
    found = standings(asked, RULES, inherited={NAME, Hostname("app.t.example")}, now=5.0)
    assert [(name.value, each.held, each.due) for name, each in found.items()] == [
        (NAME.value, True, 5.0),
        ("app.t.example", False, math.inf),
        ("b.example", False, 5.0),
    ]


def test_a_proof_lasts_a_day() -> None:
    each = standing()
    each.take(Proven("cname"), now=100.0, rng=Even())
    assert (each.held, each.reason, each.due) == (True, "", 100.0 + 86_400)


def test_a_denial_takes_the_name_at_once() -> None:
    each = standing()
    each.take(Proven("txt"), now=0.0, rng=Even())
    each.take(DENIED, now=86_400.0, rng=Even())
    assert (each.held, each.reason) == (False, DENIED.reason)


def test_a_refused_name_is_looked_up_ever_more_seldom() -> None:
    """15 s at first: somebody is setting the record just now.  A proof begins anew."""
    each, now, pauses = standing(), 0.0, []
    for _ in range(40):
        each.take(DENIED, now=now, rng=Even())
        pauses.append(each.due - now)
        now = each.due
    assert pauses[:3] == [15, 30, 60]
    assert pauses[-1] == max(pauses) == limits.CLAIM_RETRY_CAP
    each.take(Proven("cname"), now=now, rng=Even())
    each.take(DENIED, now=now, rng=Even())
    assert each.due == now + 15


def test_a_name_survives_72_hours_without_an_answer_and_no_more() -> None:
    each = standing()
    each.take(Proven("cname"), now=0.0, rng=Even())
    now = began = each.due
    looks = 0
    while each.held:
        now = each.due
        each.take(UNCLEAR, now=now, rng=Even())
        looks += 1
    assert (looks, now - began) == (73, limits.CLAIM_DOUBT_MAX)
    assert each.reason == UNCLEAR.reason


def test_one_answer_ends_the_doubt() -> None:
    each = standing()
    each.take(Proven("cname"), now=0.0, rng=Even())
    each.take(UNCLEAR, now=0.0, rng=Even())
    each.take(Proven("cname"), now=limits.CLAIM_DOUBT_MAX - 1, rng=Even())
    each.take(UNCLEAR, now=limits.CLAIM_DOUBT_MAX + 1, rng=Even())
    assert each.held


def test_a_name_that_is_not_held_gains_nothing_by_silence() -> None:
    """It is asked for soon: DNS may be starting, as the relay is."""
    each, pauses = standing(), []
    for _ in range(3):
        each.take(UNCLEAR, now=100.0, rng=Even())
        pauses.append(each.due - 100)
    assert not each.held
    assert pauses == [2, 4, 8]


def test_a_name_that_was_refused_for_good_says_so() -> None:
    each = standing()
    assert not each.settled
    each.refuse("it is the relay's own name")
    assert each.settled


def test_looks_are_spread() -> None:
    """Agents that came together do not come together again."""
    rng = random.Random(7)
    dues = set()
    for _ in range(50):
        each = standing()
        each.take(Proven("cname"), now=0.0, rng=rng)
        dues.add(each.due)
    assert len(dues) == 50
    assert min(dues) < 0.95 * limits.CLAIM_RECHECK
    assert 1.05 * limits.CLAIM_RECHECK < max(dues) <= 1.1 * limits.CLAIM_RECHECK
