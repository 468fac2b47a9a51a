"""Lots: what is parked, what is taken next, what is let go; on real connections."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.house import until
from tests.relay.yard import Yard, has_ended, yard
from trunnel.settings import limits
from trunnel.transports.direct import DirectLink


def port_of(link: DirectLink) -> object:
    """Return the name of a connection, as the agent's end has it."""
    return link.stream.socket.getsockname()


def take(built: Yard) -> object:
    """Take the next connection; returns its name, or None."""
    link = built.lot.take()
    if link is None:
        return None
    name = link.stream.socket.getpeername()
    link.abort()
    return name


async def test_the_newest_is_taken_first() -> None:
    async with yard() as built:
        links = await built.park(3)
        assert [take(built) for _ in range(4)] == [*map(port_of, reversed(links)), None]


@pytest.mark.parametrize("how", ["ended", "reset", "spoke"])
async def test_a_dead_connection_is_not_taken(how: str) -> None:
    """Bytes of a parked connection would land in a visitor's TLS: it is as good as dead."""
    async with yard() as built:
        links = await built.park(3)
        for link in links[1:]:
            if how == "ended":
                await link.stream.send_eof()
            elif how == "reset":
                link.abort()
            else:
                await link.stream.send_all(b"!")
        assert take(built) == port_of(links[0])
        assert (take(built), built.lots.parked) == (None, 0)


async def test_a_full_lot_lets_its_dead_and_then_its_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of network the old ones are dead, and only the kernel will find out."""
    monkeypatch.setattr(limits, "PARKED_MAX", 3)
    async with yard() as built:
        links = await built.park(3)
        links[1].abort()
        links += await built.park()
        assert built.lots.parked == 3
        assert links[0].is_alive()
        links += await built.park()
        assert await has_ended(links[0].stream)
        assert built.lots.parked == 3
        assert [take(built) for _ in range(3)] == [port_of(links[at]) for at in (4, 3, 2)]


async def test_a_lot_that_closes_ends_what_is_parked_and_wakes_who_waits() -> None:
    async with yard() as built, trio.open_nursery() as nursery:
        links = await built.park(2)
        other = built.open("session-two")
        nursery.start_soon(other.wait_parked)
        await trio.testing.wait_all_tasks_blocked()
        for lot in built.lots:
            lot.close()
        for link in links:
            assert await has_ended(link.stream)
        assert built.lots.find(built.lot.terms.session_tag) is None


async def test_each_connection_is_for_one_who_waits_in_order_of_coming() -> None:
    """Waking all of them for one connection would cost a burst of visitors its square."""
    served: list[int] = []
    async with yard() as built, trio.open_nursery() as nursery:

        async def wait(number: int) -> None:
            await built.lot.wait_parked()
            served.append(number)

        for number in range(3):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        for count in (1, 2):
            await built.park()
            await until(partial(lambda wanted: len(served) == wanted, count))
        built.lot.close()
    assert served == [0, 1, 2]


async def test_a_lot_rests_for_a_while(autojump_clock: MockClock) -> None:
    async with yard() as built:
        found = [built.lot.resting]
        built.lot.rest()
        for seconds in (limits.DIRECT_REST - 0.1, 0.2):
            await trio.sleep(seconds)
            found.append(built.lot.resting)
        assert found == [False, True, False]


async def test_two_sessions_never_share_a_secret_or_a_tag() -> None:
    async with yard() as built:
        lots = [built.lot, *(built.open(f"session-{number}") for number in range(20))]
        assert len({lot.terms.secret for lot in lots}) == len({lot.terms.session_tag for lot in lots}) == len(lots)
        assert all(built.lots.find(lot.terms.session_tag) is lot for lot in lots)
