"""One connection on its socket, and the pump: timers, batches, full sockets, and words of the peer."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from aioquic.quic import events

from tests.streams.test_udp import break_socket
from tests.transports.conformance import open_pair
from tests.transports.quic_pairs import quic_agent, quic_pair, quic_relay
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_link import LinkPump, close_reason


class Paper:
    """A link as far as the pump is concerned."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.scheduled: list[tuple[float, int]] = []
        self.over = False
        self.settled: list[float] = []
        self.pump: LinkPump

    def settle(self, now: float) -> None:
        """Note when."""
        self.settled.append(now)
        if self.deadline <= now:
            self.deadline = math.inf
        self.pump.schedule(self)  # type: ignore[arg-type]


def papers(*deadlines: float) -> tuple[LinkPump, list[Paper]]:
    """Return a pump and links with these deadlines."""
    pump = LinkPump()
    links = [Paper(deadline) for deadline in deadlines]
    for link in links:
        link.pump = pump
        pump.schedule(link)  # type: ignore[arg-type]
    return pump, links


async def test_links_are_settled_when_their_time_comes(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    pump, links = papers(start + 3, start + 1, start + 2, math.inf)
    with trio.move_on_after(10):
        await pump.run()
    assert [link.settled for link in links] == [[start + 3], [start + 1], [start + 2], []]


async def test_deadlines_may_move_while_the_pump_sleeps(autojump_clock: trio.testing.MockClock) -> None:
    """An earlier one is kept to the instant, a later one is not anticipated."""
    start = trio.current_time()
    pump, (earlier, later) = papers(start + 5, start + 1)
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await trio.sleep(0.5)
            for link, deadline in ((earlier, start + 2), (later, start + 7)):
                link.deadline = deadline
                pump.schedule(link)  # type: ignore[arg-type]
    assert earlier.settled == [start + 2]
    assert later.settled == [start + 7]


async def test_a_deadline_that_moves_often_costs_few_entries() -> None:
    start = trio.current_time()
    pump, (link,) = papers(start + 20)
    for number in range(1_000):
        link.deadline = start + 20 + number
        pump.schedule(link)  # type: ignore[arg-type]
        link.deadline = start + 10
        pump.schedule(link)  # type: ignore[arg-type]
    assert len(pump._timers) == len(link.scheduled) == 2


async def test_touched_links_are_settled_once_a_turn(autojump_clock: trio.testing.MockClock) -> None:
    pump, (one, other) = papers(math.inf, math.inf)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(5):
                pump.touch(one)  # type: ignore[arg-type]
    assert len(one.settled) == 1
    assert other.settled == []


async def test_a_turn_has_an_end() -> None:
    """However many links are due, others get their turn after `LINKS_PER_TURN`."""
    now = trio.current_time()
    pump, links = papers(*[now] * 100, *[math.inf] * 100)
    for link in links[100:]:
        pump.touch(link)  # type: ignore[arg-type]
    settled: list[object] = []
    while turn := list(pump._due(now)):
        assert len(turn) <= limits.LINKS_PER_TURN
        settled += turn
    assert len(settled) == len(set(settled)) == len(links)


async def test_what_is_over_is_not_settled_again(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    pump, (link,) = papers(start + 1)
    link.deadline, link.over = start + 5, True
    with trio.move_on_after(10):
        await pump.run()
    assert link.settled == []


async def test_a_dropped_link_leaves_nothing_in_the_pump_that_holds_it() -> None:
    """Whatever its deadline was; one that is touched later gets its turn."""
    start = trio.current_time()
    pump, (gone, other) = papers(start + 1, start + 1)
    gone.deadline = start
    pump.schedule(gone)  # type: ignore[arg-type]
    pump.touch(gone)  # type: ignore[arg-type]
    pump.hold(gone)  # type: ignore[arg-type]
    pump.drop(gone)  # type: ignore[arg-type]
    pump.drop(gone)  # type: ignore[arg-type]
    assert gone.scheduled == []
    held: list[object] = [*pump._touched, *pump._held, *pump._links.values()]
    assert held == [other]
    due: list[object] = [*pump._due(start + 2)]
    assert due == [other]
    pump.touch(gone)  # type: ignore[arg-type]
    due = [*pump._due(start + 2)]
    assert due == [gone]


async def test_a_session_that_comes_too_late_hears_that_the_connection_has_ended() -> None:
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        link = agent._link
        agent._link.connection.close(0x102, None, "over")
        link.settle(trio.current_time())
        link.dispose()

        class Owner:
            def __init__(self) -> None:
                self.heard: list[events.QuicEvent] = []

            def take_event(self, event: events.QuicEvent, now: float) -> None:
                self.heard.append(event)

            def look(self, now: float) -> None:
                pass

        for owner in (Owner(), Owner()):
            link._told = False
            link.own(owner)
            link.settle(trio.current_time())
            assert [type(event) for event in owner.heard] == [events.ConnectionTerminated]
        await session.wait_closed()
        agent.abort("the test is over")


async def test_an_idle_connection_costs_nothing_between_heartbeats(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        await trio.sleep(30)
        settled = 0

        class Count(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                nonlocal settled
                settled += "LinkPump.run" in task.name or "_read" in task.name

        count = Count()
        trio.lowlevel.add_instrument(count)
        await trio.sleep(10 * limits.QUIC_HEARTBEAT)
        trio.lowlevel.remove_instrument(count)
        # For each ping at most: the agent's pump wakes and sends, the relay reads, its pump answers, the agent reads.
        assert settled <= 10 * 8
        assert agent.closed is session.closed is None


async def test_a_socket_that_is_full_holds_its_connections_back() -> None:
    """While the kernel takes no datagram none is built; what was asked meanwhile comes later."""
    async with quic_pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        broken = break_socket(relay._link.socket, *[11] * 3)  # EAGAIN
        await near.send_all(b"x" * 50_000)
        received = 0
        while received < 50_000:
            received += len(await far.receive_some())
        assert broken.errors == []


class Broken:
    """An owner with a bug."""

    def take_event(self, event: events.QuicEvent, now: float) -> None:
        raise ZeroDivisionError

    def look(self, now: float) -> None:
        raise ZeroDivisionError


async def test_a_bug_in_one_session_ends_that_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """All of a socket's connections share one task."""
    async with quic_relay() as relay, quic_agent(relay.address) as agent, quic_agent(relay.address) as other:
        first, second = await relay.session(), await relay.session()
        first._link._owner = Broken()
        first._link.touch()
        closed = await agent.wait_closed()
        assert "INTERNAL_ERROR" in closed.reason
        assert "connection failed" in caplog.text
        near, far = await open_pair(second, other)
        await near.send_all(b"goes on")
        assert await far.receive_some() == b"goes on"
        first.abort("the test is over")


async def test_events_before_the_session_are_bounded() -> None:
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        link = agent._link
        link._owner = None
        for _ in range(limits.QUIC_PENDING_EVENTS + 1):
            link.connection._events.append(events.StopSendingReceived(error_code=0, stream_id=1))
        link.settle(trio.current_time())
        assert link.connection.ending is not None
        assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("ended", "words", "code"),
    [
        ((0x102, None, "slow"), "the peer said goodbye: DEADLINE 'slow'", ErrorCode.DEADLINE),
        ((0x4242, None, ""), "the peer said goodbye: INTERNAL_ERROR ''", ErrorCode.INTERNAL_ERROR),
        ((0x1, 0, "Idle timeout"), "nothing heard for 20 s", ErrorCode.DEADLINE),
        ((0x3, 8, "a\nb"), r"QUIC ended the connection: FLOW_CONTROL_ERROR 'a\nb'", ErrorCode.PROTOCOL_ERROR),
        ((0x174, 6, ""), "QUIC ended the connection: TLS alert 116 ''", ErrorCode.PROTOCOL_ERROR),
        ((0x7777, 6, "\u202e"), r"QUIC ended the connection: code 0x7777 '\u202e'", ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_ends_have_a_sentence(ended: tuple[int, int | None, str], words: str, code: ErrorCode) -> None:
    assert close_reason(events.ConnectionTerminated(*ended)) == (words, code)
