"""Pings, silence and pressure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from tests.transports.conformance import open_pair
from tests.transports.quic_pairs import quic_pair
from trunnel.errors import ErrorCode, StreamReset
from trunnel.settings import limits
from trunnel.transports.quic_keeper import Keeper


class Session:
    """A session as far as the keeper is concerned."""

    def __init__(self) -> None:
        self.unread = 0
        self.received = 0
        self.streams: dict[int, object] = {}
        self.pressed = trio.Event()
        self.aborted: list[tuple[float, ErrorCode]] = []

    def abort(self, reason: str, *, code: ErrorCode) -> None:
        assert "nothing heard" in reason
        self.aborted.append((trio.current_time(), code))


class Link:
    """A link that notes pings."""

    def __init__(self, *, is_client: bool) -> None:
        self.heard = trio.current_time()
        self.pings: list[float] = []
        self.connection = SimpleNamespace(
            configuration=SimpleNamespace(is_client=is_client),
            send_ping=lambda _uid: self.pings.append(trio.current_time()),
        )

    def touch(self) -> None:
        """Nothing to settle."""


def keeper(session: Session, link: Link) -> Keeper:
    return Keeper(link, session)  # type: ignore[arg-type]


async def test_an_agent_pings_all_the_time_and_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    session, link = Session(), Link(is_client=True)
    await keeper(session, link).run(session.abort)
    assert [at - start for at in link.pings] == [2.5 * n for n in range(8)]
    assert session.aborted == [(start + limits.DEAD_AFTER, ErrorCode.DEADLINE)]


async def test_an_agent_with_visitors_pings_soon_after_the_relay_fell_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A NAT that moved our binding learns it from us only."""
    start = trio.current_time()
    session, link = Session(), Link(is_client=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper(session, link).run, session.abort)
        await trio.sleep(1)
        session.received += 2_000  # a visitor's hello
        await trio.sleep(1.6)
        assert link.pings[-1] - start == 2.5
        link.heard = trio.current_time()
        quiet = len(link.pings)
        await trio.sleep(2 * limits.QUIC_BUSY_SILENCE)
        assert len(link.pings) > quiet
        assert link.pings[quiet] - link.heard == pytest.approx(limits.QUIC_BUSY_SILENCE), "no later"
        link.heard = trio.current_time() + limits.QUIC_BUSY + 1  # it answers all the time
        await trio.sleep(limits.QUIC_BUSY + 1)
        calm = len(link.pings)
        await trio.sleep(2 * limits.QUIC_HEARTBEAT)
        assert len(link.pings) == calm + 2, "no more often once the visitors are gone"
        nursery.cancel_scope.cancel()


async def test_an_agent_pings_as_seldom_as_it_is_asked_to(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    session, link = Session(), Link(is_client=True)
    asked = keeper(session, link)
    asked.heartbeat = 5.0
    await asked.run(session.abort)
    assert [at - start for at in link.pings] == [5.0 * n for n in range(4)]


async def test_a_relay_asks_only_who_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    session, link = Session(), Link(is_client=False)
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper(session, link).run, session.abort)
            while True:
                await trio.sleep(limits.QUIC_HEARTBEAT)
                link.heard = trio.current_time()
    assert link.pings == []
    start = link.heard = trio.current_time()
    await keeper(session, link).run(session.abort)
    assert [at - start for at in link.pings] == [10, 15]
    assert session.aborted == [(start + limits.DEAD_AFTER, ErrorCode.DEADLINE)]


async def test_streams_that_stall_a_session_are_reset() -> None:
    """When unread bytes take up the session's credit, stalled streams go, and others move on."""
    async with quic_pair() as (relay, agent):
        pairs = [await open_pair(relay, agent) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for _, far in pairs:
                far._inbox.put(bytes(3 << 20))  # type: ignore[attr-defined]
                agent._in.unread += 3 << 20
            agent._in.pressed.set()
            with trio.fail_after(3 * limits.PRESSURE_LOOK):
                while not any(near.reset_code for near, _ in pairs):
                    await trio.testing.wait_all_tasks_blocked(0.05)
            assert sorted(str(near.reset_code) for near, _ in pairs).count(str(ErrorCode.SLOW_CONSUMER)) == 1
            nursery.cancel_scope.cancel()
        victim = next(far for near, far in pairs if near.reset_code)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await victim.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
