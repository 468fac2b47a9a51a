"""Claims and challenges: one for a name of an agent's own is passed on after a fresh proof, and at no other time."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.court import Court, court
from trunnel.names import Hostname, KeyId
from trunnel.relay.sessions import AgentSession
from trunnel.settings import limits

A, B = KeyId.of_spki(b"a"), KeyId.of_spki(b"b")
NAME, OTHER = Hostname("www.shop.example"), Hostname("api.shop.example")


async def confirmed(place: Court, session: AgentSession, name: Hostname = NAME) -> bool:
    with trio.fail_after(10):
        return await place.claims.confirm(name, session)


async def test_a_challenge_is_passed_on_after_a_fresh_proof(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.asked.clear()
        assert await confirmed(place, session)
        assert place.dns.asked == [(NAME, A)]


async def test_a_proof_serves_the_challenges_of_five_seconds(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.asked.clear()
        assert await confirmed(place, session)
        place.dns.lead(NAME)
        await trio.sleep(limits.CHALLENGE_PROOF_REUSED - 0.1)
        assert await confirmed(place, session)
        assert len(place.dns.asked) == 1
        await trio.sleep(0.2)
        assert not await confirmed(place, session)
        assert len(place.dns.asked) == 2
        assert place.owners(NAME) == (), "a denial takes the name at once"


async def test_the_proof_of_a_claim_serves_no_challenge() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.lead(NAME)
        assert not await confirmed(place, session)


async def test_no_answer_refuses_the_challenge_and_leaves_the_name(autojump_clock: MockClock) -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.unclear = True
        assert not await confirmed(place, session)
        assert place.owners(NAME) == (session,)
        place.dns.unclear = False
        await trio.sleep(limits.CHALLENGE_DOUBT_REUSED)
        assert await confirmed(place, session), "that there was no answer is remembered for a second"


async def test_challenges_that_come_together_look_once() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.asked.clear()
        place.dns.held_back = True
        verdicts: list[bool] = []

        async def challenge() -> None:
            verdicts.append(await confirmed(place, session))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(challenge)
            await trio.testing.wait_all_tasks_blocked()
            assert len(place.dns.waiting) == 1
            await place.dns.answer()
        assert verdicts == [True] * 8


async def test_if_the_one_who_looks_is_cancelled_the_others_are_refused() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.held_back = True
        verdicts: list[bool] = []

        async def challenge() -> None:
            verdicts.append(await confirmed(place, session))

        async with trio.open_nursery() as nursery, trio.open_nursery() as first:
            first.start_soon(challenge)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(challenge)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        assert verdicts == [False]


async def test_a_name_that_went_to_another_during_the_look_is_not_confirmed() -> None:
    async with court() as place:
        place.dns.lead(NAME, A, B)
        session = await place.attach(A, NAME)
        place.dns.held_back = True
        verdicts: list[bool] = []

        async def challenge() -> None:
            verdicts.append(await confirmed(place, session))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(challenge)
            await trio.testing.wait_all_tasks_blocked()
            place.leave(session)
            await place.dns.answer()
        assert verdicts == [False]


async def test_a_name_under_the_suffix_needs_no_dns() -> None:
    async with court() as place:
        session = await place.attach(A)
        stranger = await place.attach(B)
        name = Hostname(f"{A}.t.example")
        assert await confirmed(place, session, name)
        assert not await confirmed(place, stranger, name)
        assert place.dns.asked == []


async def test_claims_do_not_hold_challenges_up() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.held_back = True
        for number in range(2 * limits.CLAIM_LOOKUPS):
            await place.attach(KeyId.of_spki(b"%d" % number), OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(confirmed, place, session)
            await trio.testing.wait_all_tasks_blocked()
            assert place.dns.waiting[-1].key_id == A
            await place.dns.answer()


async def test_a_dns_in_trouble_is_not_asked_for_each_challenge(autojump_clock: MockClock) -> None:
    """Strangers can knock as often as they like."""
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.asked.clear()
        place.dns.unclear = True
        for _ in range(100):
            assert not await confirmed(place, session)
            await trio.sleep(0.1)
        assert len(place.dns.asked) <= 10 / limits.CHALLENGE_DOUBT_REUSED


async def test_a_denial_takes_the_name_from_all_who_share_the_key() -> None:
    async with court() as place:
        place.dns.lead(NAME, A)
        first = await place.attach(A, NAME, share=True)
        await place.attach(A, NAME, share=True)
        place.dns.lead(NAME)
        assert not await confirmed(place, first)
        assert place.owners(NAME) == ()


async def test_a_name_that_a_challenge_took_is_looked_up_again_soon(autojump_clock: MockClock) -> None:
    """Not after the day that it had."""
    async with court() as place:
        place.dns.lead(NAME, A)
        session = await place.attach(A, NAME)
        place.dns.lead(NAME)
        assert not await confirmed(place, session)
        place.dns.lead(NAME, A)
        await trio.sleep(limits.CLAIM_RETRY_BASE * (1 + limits.CLAIM_JITTER) + 1)
        assert place.owners(NAME) == (session,)


async def test_looks_for_challenges_are_not_kept(autojump_clock: MockClock) -> None:
    names = [Hostname(f"n{number}.example") for number in range(limits.CONTROL_HOSTNAMES_MAX)]
    async with court() as place:
        for name in names:
            place.dns.lead(name, A)
        session = await place.attach(A, *names)
        for name in names:
            assert await confirmed(place, session, name)
            await trio.sleep(1)
        assert len(place.claims._looks) <= limits.CHALLENGE_PROOF_REUSED + 1
