"""Claims to names of the agents' own: routed once proven, looked at again, contested, and proven at each challenge."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.court import RELAY, court
from trunnel.names import Hostname, KeyId
from trunnel.relay.claims import refused_names
from trunnel.relay.sessions import AgentSession
from trunnel.settings import limits

A, B = KeyId.of_spki(b"a"), KeyId.of_spki(b"b")
NAME, OTHER = Hostname("www.shop.example"), Hostname("api.shop.example")
SUFFIX = Hostname("t.example")
DAY = 86_400.0


def reasons(session: AgentSession) -> list[str]:
    return [refused.reason for refused in refused_names(session, SUFFIX)]


async def sleep_past(seconds: float) -> None:
    """Sleep a tenth longer than *seconds*, and a bit: pauses differ by so much."""
    await trio.sleep(seconds * (1 + limits.CLAIM_JITTER) + 1)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_name_is_routed_once_it_is_proven_and_the_agent_is_told() -> None:
    async with court() as place:
        place.dns.held_back = True
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        assert place.owners(NAME) == ()
        assert place.told == []
        await place.dns.answer()
        assert place.owners(NAME) == (session,)
        assert place.told == [session]
        assert reasons(session) == []


async def test_a_name_that_dns_gives_to_nobody_is_refused_with_the_record_to_set() -> None:
    async with court() as place:
        session = await place.attach(A, NAME)
        assert place.owners(NAME) == ()
        assert place.told == [session]
        assert reasons(session) == [
            f'it has no CNAME record; set {NAME} CNAME {A}.{SUFFIX} or _trunnel.{NAME} TXT "{A}"'
        ]


async def test_a_record_that_is_set_later_is_found(autojump_clock: MockClock) -> None:
    async with court() as place:
        session = await place.attach(A, NAME)
        place.dns.lead(NAME, A)
        await sleep_past(limits.CLAIM_RETRY_BASE)
        assert place.owners(NAME) == (session,)
        assert place.told == [session, session]


async def test_the_same_refusal_is_told_once(autojump_clock: MockClock) -> None:
    async with court() as place:
        session = await place.attach(A, NAME)
        await trio.sleep(DAY)
        assert len(place.dns.asked) > 10
        assert place.told == [session]


@pytest.mark.parametrize("name", [RELAY, SUFFIX, Hostname("app.t.example"), Hostname(f"{B}.t.example")])
async def test_names_that_are_not_to_be_had_are_refused_without_a_look(
    name: Hostname, autojump_clock: MockClock
) -> None:
    """And without a record to set: none would help."""
    async with court() as place:
        place.dns.lead(name, A)
        session = await place.attach(A, name)
        await trio.sleep(2 * DAY)
        assert place.owners(name) == ()
        assert place.dns.asked == []
        assert place.told == [session]
        assert "TXT" not in reasons(session)[0]


async def test_names_are_looked_up_one_at_a_time_for_an_agent_and_so_many_in_all() -> None:
    async with court() as place:
        place.dns.held_back = True
        names = [Hostname(f"n{number}.example") for number in range(4)]
        await place.attach(A, *names)
        assert len(place.dns.waiting) == 1
        for number in range(2 * limits.CLAIM_LOOKUPS):
            await place.attach(KeyId.of_spki(b"%d" % number), *names)
        while place.dns.waiting:
            await place.dns.answer()
        assert place.dns.most_at_once == limits.CLAIM_LOOKUPS
        assert len(place.dns.asked) == 4 * (2 * limits.CLAIM_LOOKUPS + 1)


# --- looking again -----------------------------------------------------------------------------------


async def test_each_day_dns_is_asked_again_and_a_denial_takes_the_name(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        await sleep_past(DAY)
        assert place.owners(NAME) == (session,)
        assert len(place.dns.asked) == 2
        place.dns.lead(NAME)
        await sleep_past(DAY)
        assert place.owners(NAME) == ()
        assert place.told == [session, session]
        assert "no CNAME" in reasons(session)[0]


async def test_a_weekend_without_dns_costs_no_name_and_four_days_do(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.unclear = True
        await trio.sleep(limits.CLAIM_DOUBT_MAX)
        assert place.owners(NAME) == (session,)
        assert place.told == [session]
        await trio.sleep(1.2 * DAY)
        assert place.owners(NAME) == ()
        place.dns.unclear = False
        await sleep_past(limits.CLAIM_RETRY_CAP)
        assert place.owners(NAME) == (session,)


async def test_a_session_that_has_left_is_not_asked_about(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        place.leave(await place.attach(A, NAME))
        asked = len(place.dns.asked)
        await trio.sleep(3 * DAY)
        assert len(place.dns.asked) <= asked + 1
        assert place.owners(NAME) == ()


async def test_a_proof_that_comes_when_the_session_is_gone_gives_it_nothing() -> None:
    async with court() as place:
        place.dns.held_back = True
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.leave(session)
        await place.dns.answer()
        assert place.owners(NAME) == ()


# --- several sessions of one key ---------------------------------------------------------------------


async def test_a_new_session_of_the_key_has_the_name_in_the_same_step() -> None:
    """No visitor meets a moment without an owner; DNS is asked for it besides."""
    async with court() as place:
        place.dns.lead(NAME, A)
        await place.attach(A, NAME)
        place.dns.held_back = True
        newer = await place.attach(A, NAME)
        assert place.owners(NAME) == (newer,)
        place.dns.lead(NAME)
        await place.dns.answer()
        assert place.owners(NAME) == ()


async def test_a_session_inherits_only_what_it_asks_for_and_what_dns_gave() -> None:
    """`app` was the operator's to give; it is not to be kept by asking for it as an own name."""
    async with court() as place:
        place.sessions.reauthorize(authorized := place.sessions.authorized)
        place.dns.lead(NAME, A)
        await place.attach(A, NAME, Hostname(f"{A}.t.example"))
        newer = await place.attach(A, OTHER, Hostname(f"{A}.t.example"))
        assert place.owners(NAME) == ()
        assert place.sessions.routes.names(newer) == (Hostname(f"{A}.t.example"),)
        assert place.sessions.authorized is authorized


async def test_agents_that_share_a_key_hold_the_name_together() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        first = await place.attach(A, NAME, share=True)
        second = await place.attach(A, NAME, share=True)
        assert place.owners(NAME) == (first, second)
        place.leave(first)
        assert place.owners(NAME) == (second,)


async def test_agents_with_different_keys_never_share_a_name() -> None:
    async with court() as place:
        place.dns.lead(NAME, A, B)
        first = await place.attach(A, NAME, share=True)
        second = await place.attach(B, NAME, share=True)
        assert place.owners(NAME) == (first,)
        assert "DNS names that one, too" in reasons(second)[0]


async def test_a_revoked_key_has_nothing_though_dns_still_names_it() -> None:
    """A dangling record: nobody else has the name either."""
    async with court() as place:
        place.dns.lead(NAME, A)
        await place.attach(A, NAME)
        place.list_agents(str(B))
        await place.attach(B, NAME)
        assert place.owners(NAME) == ()


async def test_a_new_list_does_not_touch_names_that_dns_gave() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.list_agents(str(A))
        assert place.owners(NAME) == (session,)
        assert place.sessions.routes.names(session)[0] == Hostname(f"{A}.t.example")


# --- contested ---------------------------------------------------------------------------------------


async def test_a_holder_that_dns_no_longer_names_loses_the_name_to_who_is_named() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        first = await place.attach(A, NAME)
        place.dns.lead(NAME, B)
        second = await place.attach(B, NAME)
        assert place.owners(NAME) == (second,)
        assert place.told == [first, first, second]
        assert f"CNAME {A}." in reasons(first)[0]


async def test_a_holder_of_which_dns_says_nothing_keeps_the_name() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        first = await place.attach(A, NAME)
        place.dns.lead(NAME, B)
        place.dns.held_back = True
        second = await place.attach(B, NAME)
        await place.dns.answer()
        place.dns.unclear = True
        await place.dns.answer()
        assert place.owners(NAME) == (first,)
        assert "could not be asked" in reasons(second)[0]


async def test_who_is_not_named_makes_nobody_look_at_the_holder() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        await place.attach(A, NAME)
        place.dns.asked.clear()
        await place.attach(B, NAME)
        assert place.dns.asked == [(NAME, B)]


async def test_of_two_who_are_proven_at_once_one_has_the_name() -> None:
    async with court() as place:
        place.dns.held_back = True
        place.dns.lead(NAME, A, B)
        await place.attach(A, NAME)
        await place.attach(B, NAME)
        while place.dns.waiting:
            await place.dns.answer()
        assert len(place.owners(NAME)) == 1


async def test_a_holder_that_lost_the_name_is_looked_up_again_soon(autojump_clock: MockClock) -> None:
    """Not after the day that it had: DNS may lead back to it."""
    async with court() as place:
        place.dns.lead(NAME, A)
        first = await place.attach(A, NAME)
        place.dns.lead(NAME, B)
        second = await place.attach(B, NAME)
        assert place.owners(NAME) == (second,)
        place.leave(second)
        place.dns.lead(NAME, A)
        await sleep_past(limits.CLAIM_RETRY_BASE)
        assert place.owners(NAME) == (first,)


# --- bounds ------------------------------------------------------------------------------------------


async def test_who_comes_again_and_again_has_so_many_looks_and_no_more(autojump_clock: MockClock) -> None:
    """A DNS server, ours or anybody's, is not to be flooded through the relay; another agent's claim is not held up."""
    names = [Hostname(f"n{number}.example") for number in range(limits.CONTROL_HOSTNAMES_MAX)]
    async with court() as place:
        for _ in range(100):
            place.leave(await place.attach(A, *names))
            await trio.sleep(0.1)
        assert limits.CLAIM_BURST <= len(place.dns.asked) <= limits.CLAIM_BURST + 10 / limits.CLAIM_PERIOD
        place.dns.lead(NAME, B)
        session = await place.attach(B, NAME)
        assert place.owners(NAME) == (session,)


async def test_a_key_with_many_agents_and_a_slow_zone_holds_nobody_up() -> None:
    async with court() as place:
        place.dns.held_back = True
        for _ in range(limits.SHARES_PER_KEY):
            await place.attach(A, NAME, OTHER, share=True)
        assert [question.key_id for question in place.dns.waiting] == [A] * limits.CLAIM_LOOKUPS_PER_KEY
        await place.attach(B, NAME)
        assert place.dns.waiting[-1].key_id == B


# --- names of others ---------------------------------------------------------------------------------


async def test_what_the_operator_takes_away_is_not_kept_by_asking_for_it_as_ones_own() -> None:
    """`--hostname shop.t.example` of an agent that had been given `shop`."""
    shop = Hostname("shop.t.example")
    async with court() as place:
        place.list_agents(f"{A} shop", str(B))
        first = await place.attach(A, shop)
        second = await place.attach(B, shop)
        assert place.owners(shop) == (first,)
        place.list_agents(str(A), f"{B} shop")
        assert place.owners(shop) == (second,)
        place.list_agents(str(A), str(B))
        assert place.owners(shop) == ()


async def test_a_name_that_becomes_the_relays_own_is_taken_away(autojump_clock: MockClock) -> None:
    """With another certificate of the operator's, for example; what DNS says then is no matter."""
    async with court() as place:
        place.dns.lead(NAME, A)
        place.dns.lead(OTHER, A)
        session = await place.attach(A, NAME, OTHER)
        place.dns.held_back = True
        newer = await place.attach(A, NAME, OTHER)  # its look ends after the change
        place.reserved.add(NAME)
        place.claims.review()
        assert place.owners(NAME) == ()
        await place.dns.answer()
        place.dns.held_back = False
        await trio.sleep(2 * DAY)
        assert (place.owners(NAME), place.owners(OTHER)) == ((), (newer,))
        assert reasons(newer) == ["it is the relay's own name"]
        assert not session.serves
