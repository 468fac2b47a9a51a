"""A visitor offered to parked connections: who answers, who does not, and how long that takes; in virtual time."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.yard import Yard, has_ended, yard
from trunnel.relay.lots import Lot
from trunnel.relay.taking import Taken, take, wait_taken
from trunnel.settings import limits
from trunnel.transports import direct
from trunnel.transports.direct import DirectLink
from trunnel.wire.direct import ANSWER_SIZE, Answer

HEADER, FIRST = b"a header", b"a hello"


async def serve(link: DirectLink, said: Answer = Answer.ACCEPTED) -> None:
    """Take one visitor, as an agent does; then say `hi`."""
    assert await direct.wait_taken(link) == HEADER
    await direct.answer(link, said)
    with suppress(trio.BrokenResourceError):  # the visitor may be gone by now
        await link.stream.send_all(b"hi")


async def offer(lot: Lot, *, patience: float = 100) -> tuple[Taken | None, float]:
    """Offer a visitor; returns what came of it and the seconds that it took."""
    begun = trio.current_time()
    return await take(lot, HEADER, FIRST, patience=patience), trio.current_time() - begun


async def lost(lot: Lot, *, patience: float = 100) -> float:
    """Offer a visitor to a lot that does not serve it; returns the seconds that it took to know."""
    taken, seconds = await offer(lot, patience=patience)
    assert taken is None
    return seconds


async def only(built: Yard) -> tuple[Lot, DirectLink]:
    """Return the lot of an agent that has data connections only, and one that is on its way there."""
    lot = built.open("session-two", only=True)
    return lot, await built.prove(lot.terms)


async def test_the_connection_that_answers_is_at_the_visitors_bytes(autojump_clock: MockClock) -> None:
    async with yard() as built, trio.open_nursery() as nursery:
        (link,) = await built.park()
        nursery.start_soon(serve, link)
        taken, seconds = await offer(built.lot)
        assert taken is not None
        assert (taken.answer, seconds) == (Answer.ACCEPTED, 0)
        assert await taken.link.stream.receive_some() == b"hi"
        assert await link.stream.receive_some() == FIRST
        taken.link.abort()


@pytest.mark.parametrize("said", [answer for answer in Answer if answer is not Answer.ACCEPTED])
async def test_a_refusal_is_final(said: Answer, autojump_clock: MockClock) -> None:
    """The next connection leads to the same agent."""
    async with yard() as built, trio.open_nursery() as nursery:
        kept, link = await built.park(2)
        nursery.start_soon(serve, link, said)
        taken, _ = await offer(built.lot)
        assert taken is not None
        assert taken.answer is said
        taken.link.abort()
        assert (len(built.lot), kept.is_alive(), built.lot.resting) == (1, True, False)


async def test_twenty_that_never_answer_cost_a_visitor_two_tries(autojump_clock: MockClock) -> None:
    """Then it goes another way, and nobody else waits while the lot rests; what was tried is reset."""
    async with yard() as built:
        links = await built.park(20)
        assert await lost(built.lot) == pytest.approx(2 * limits.DIRECT_ANSWER_MIN)
        assert len(built.lot) == 18
        assert await lost(built.lot) == 0
        assert len(built.lot) == 18
        for link in links[18:]:
            with pytest.raises(trio.BrokenResourceError):
                while await link.stream.receive_some():
                    pass
        await trio.sleep(limits.DIRECT_REST)
        assert await lost(built.lot) == pytest.approx(2 * limits.DIRECT_ANSWER_MIN)


async def test_visitors_that_come_together_wait_together(autojump_clock: MockClock) -> None:
    async with yard() as built:
        await built.park(20)
        took: list[float] = []

        async def visit() -> None:
            took.append(await lost(built.lot))

        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(visit)
        assert len(took) == 15
        assert max(took) == pytest.approx(2 * limits.DIRECT_ANSWER_MIN)


async def test_the_next_connection_gets_a_visitor_whose_first_did_not_answer(autojump_clock: MockClock) -> None:
    """With the same header and the same first bytes; the path is not given up for it."""
    async with yard() as built, trio.open_nursery() as nursery:
        good, _ = await built.park(2)
        nursery.start_soon(serve, good)
        taken, seconds = await offer(built.lot)
        assert taken is not None
        assert seconds == pytest.approx(limits.DIRECT_ANSWER_MIN)
        assert await good.stream.receive_some() == FIRST
        assert not built.lot.resting
        taken.link.abort()


async def test_a_far_agent_has_three_round_trips(autojump_clock: MockClock) -> None:
    async with yard() as built:
        await built.park(1)
        parked = built.lot.take()
        assert parked is not None
        parked.rtt = 0.4
        built.lot.park(parked)
        assert await lost(built.lot) == pytest.approx(limits.DIRECT_ANSWER_RTTS * 0.4)


@pytest.mark.parametrize("how", ["ends", "resets", "lies"])
async def test_a_connection_that_breaks_costs_no_time(how: str, autojump_clock: MockClock) -> None:
    """So the lot need not rest."""
    async with yard() as built, trio.open_nursery() as nursery:
        good, bad = await built.park(2)

        async def fail() -> None:
            await direct.wait_taken(bad)
            if how == "ends":
                await bad.stream.aclose()
            elif how == "resets":
                bad.abort()
            else:
                await bad.stream.send_all(bytes(ANSWER_SIZE))

        nursery.start_soon(fail)
        nursery.start_soon(serve, good)
        taken, seconds = await offer(built.lot)
        assert taken is not None
        assert (seconds, built.lot.resting) == (0, False)
        taken.link.abort()


async def test_an_empty_lot_costs_nothing(autojump_clock: MockClock) -> None:
    async with yard() as built:
        assert await lost(built.lot) == 0
        assert not built.lot.resting


async def test_a_cancelled_offer_resets_the_connection(autojump_clock: MockClock) -> None:
    async with yard() as built:
        (link,) = await built.park()
        with trio.move_on_after(limits.DIRECT_ANSWER_MIN / 2):
            await offer(built.lot)
        with pytest.raises(trio.BrokenResourceError):
            while await link.stream.receive_some():
                pass


# --- an agent that wants nothing else ---------------------------------------------------------


async def test_where_there_is_no_other_way_a_visitor_waits_for_a_connection(autojump_clock: MockClock) -> None:
    async with yard() as built, trio.open_nursery() as nursery:
        lot = built.open("session-two", only=True)

        async def park_later() -> None:
            await trio.sleep(limits.DIRECT_WAIT - 1)
            await serve(await built.prove(lot.terms))

        nursery.start_soon(park_later)
        taken, seconds = await offer(lot)
        assert taken is not None
        assert seconds == pytest.approx(limits.DIRECT_WAIT - 1)
        taken.link.abort()


@pytest.mark.parametrize(("patience", "bound"), [(100, limits.DIRECT_WAIT), (1, 1)])
async def test_and_gives_up_in_the_end(patience: float, bound: float, autojump_clock: MockClock) -> None:
    """However many connections do not answer meanwhile."""
    async with yard() as built:
        lot = built.open("session-two", only=True)
        for _ in range(40):
            await built.prove(lot.terms)
        await trio.testing.wait_all_tasks_blocked()
        assert await lost(lot, patience=patience) == pytest.approx(bound)


async def test_a_lot_that_rests_is_asked_where_there_is_no_other_way(autojump_clock: MockClock) -> None:
    async with yard() as built, trio.open_nursery() as nursery:
        lot, link = await only(built)
        await lot.wait_parked()
        lot.rest()
        nursery.start_soon(serve, link)
        taken, seconds = await offer(lot)
        assert taken is not None
        assert seconds == 0
        taken.link.abort()


async def test_a_lot_that_closes_ends_the_waiting(autojump_clock: MockClock) -> None:
    async with yard() as built, trio.open_nursery() as nursery:
        nursery.start_soon(partial(wait_taken, built.lot, HEADER, FIRST, patience=100))
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        built.lot.close()
        while nursery.child_tasks:
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == begun
        assert await has_ended(await built.dial(b"\xf7"))
