"""Cancel each operation of a stream and a session at its k-th step; break the carrier at its k-th operation.

Whatever happens: nothing hangs, no task is left, a stream ends complete or
broken, and the session of everybody else goes on unless its carrier is lost.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from tests.streams.test_udp import break_socket
from tests.transports.conformance import AGENT, RELAY, open_pair
from tests.transports.h2_pairs import h2_pair
from tests.transports.mux_pairs import OPENERS, Opener, yamux_pair
from tests.transports.quic_pairs import quic_agent, quic_pair, quic_relay
from tests.transports.udp_network import udp_network
from trunnel.errors import SessionClosed
from trunnel.transports.base import Session, Stream
from trunnel.wire.muxevents import Role

MESSAGE = bytes(range(256)) * 4_096
STEPS_MAX = 40

Operation = Callable[[Session, Session, Stream, Stream], Awaitable[object]]


async def send_all(_relay: Session, _agent: Session, near: Stream, _far: Stream) -> None:
    """A send that needs several windows."""
    await near.send_all(MESSAGE)


async def receive_some(_relay: Session, _agent: Session, near: Stream, far: Stream) -> None:
    """A receive that waits."""
    await near.receive_some()


async def send_eof(_relay: Session, _agent: Session, near: Stream, _far: Stream) -> None:
    """A FIN."""
    await near.send_eof()


async def aclose(_relay: Session, _agent: Session, near: Stream, _far: Stream) -> None:
    """A close."""
    await near.aclose()


async def open_stream(relay: Session, _agent: Session, _near: Stream, _far: Stream) -> None:
    """Open one more."""
    await relay.open_stream()


async def accept_stream(_relay: Session, agent: Session, _near: Stream, _far: Stream) -> None:
    """Wait for one more."""
    await agent.accept_stream()


async def wait_might_not_block(_relay: Session, _agent: Session, near: Stream, _far: Stream) -> None:
    """Wait for credit."""
    await near.wait_send_all_might_not_block()


OPERATIONS: list[Operation] = [
    send_all,
    receive_some,
    send_eof,
    aclose,
    open_stream,
    accept_stream,
    wait_might_not_block,
]


class Steps(trio.abc.Instrument):
    """Cancels *scope* when the task called *name* is about to take its step number *at*."""

    def __init__(self, name: str, at: int, scope: trio.CancelScope) -> None:
        self._name = name
        self.left = at  # not negative at the end: there were fewer steps
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name == self._name:
            if self.left == 0:
                self._scope.cancel()
            self.left -= 1


async def consume(far: Stream, into: bytearray) -> str:
    """Read to the end; returns how it came."""
    try:
        while chunk := await far.receive_some(10_000):
            into += chunk
    except trio.BrokenResourceError:
        return "broken"
    return "fin"


SessionPair = Callable[[], AbstractAsyncContextManager[tuple[Session, Session]]]
"""Opens a relay's and an agent's session."""


@pytest.mark.parametrize("pair", [h2_pair, yamux_pair, quic_pair], ids=["h2", "yamux", "quic"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_cancelling_an_operation_costs_at_most_its_own_stream(operation: Operation, pair: SessionPair) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    cancelled = 0
    steps = Steps("", 0, trio.CancelScope())
    for at in range(STEPS_MAX):
        scope = trio.CancelScope()
        steps = Steps("operated", at, scope)

        async def run(ends: tuple[Session, Session, Stream, Stream], scope: trio.CancelScope = scope) -> None:
            with scope:
                await operation(*ends)

        received = bytearray()
        ends: list[str] = []

        async def drain(far: Stream, received: bytearray = received, ends: list[str] = ends) -> None:
            ends.append(await consume(far, received))

        async with pair() as (relay, agent):
            near, far = await open_pair(relay, agent)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(drain, far)
                    trio.lowlevel.add_instrument(steps)
                    try:
                        async with trio.open_nursery() as inner:
                            inner.start_soon(run, (relay, agent, near, far), name="operated")
                            await trio.testing.wait_all_tasks_blocked()
                            scope.cancel()  # one that waits for the far end would wait for ever
                    finally:
                        trio.lowlevel.remove_instrument(steps)
                    await near.aclose()
            cancelled += scope.cancelled_caught
            assert MESSAGE.startswith(received)
            whole = operation is not send_all or received == MESSAGE
            assert ends == ["fin"] if whole else ends == ["broken"], "a part of a message looked like an end"
            await far.aclose()
            other_near, other_far = await open_after(relay, agent)
            await other_near.send_all(b"goes on")
            assert await other_far.receive_some() == b"goes on"
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        if steps.left >= 0:
            break
    assert steps.left >= 0, "every step was tried"
    assert cancelled


async def open_after(relay: Session, agent: Session) -> tuple[Stream, Stream]:
    """Open a stream and return both ends, past any that the cancelled operation has opened."""
    near = await relay.open_stream()
    far = await agent.accept_stream()
    while far.stream_id != near.stream_id:
        far = await agent.accept_stream()
    return near, far


class Tripping(trio.abc.HalfCloseableStream):
    """A carrier whose operation number *at* breaks, and all later ones."""

    def __init__(self, inner: trio.abc.HalfCloseableStream, at: int) -> None:
        self._inner = inner
        self._left = at
        self.closed = False

    @property
    def tripped(self) -> bool:
        """Whether the fault has happened."""
        return self._left < 0

    async def _step(self) -> None:
        await trio.lowlevel.checkpoint()
        self._left -= 1
        if self._left < 0:
            raise trio.BrokenResourceError("tripped")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._step()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._step()
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


async def converse(relay: Session, agent: Session) -> str:
    """One request and its answer over one stream; returns how it ended."""

    async def serve() -> None:
        try:
            far = await agent.accept_stream()
            got = bytearray()
            if await consume(far, got) == "fin":
                assert got == MESSAGE, "an end before the end"
                await far.send_all(MESSAGE)
                await far.send_eof()
        except (SessionClosed, trio.BrokenResourceError):
            pass

    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            near = await relay.open_stream()
            await near.send_all(MESSAGE)
            await near.send_eof()
        except (SessionClosed, trio.BrokenResourceError):
            return "broken"
        end = await consume(near, got)
    assert end == "broken" or got == MESSAGE, "an end before the end"
    return end


@OPENERS
@pytest.mark.parametrize("role", list(Role))
async def test_a_carrier_that_breaks_at_any_operation_breaks_its_streams(
    role: Role, opener: Opener, autojump_clock: trio.testing.MockClock
) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    outcomes: set[str] = set()
    for at in range(500):
        left, right = trio.testing.memory_stream_pair()
        wire = Tripping(left if role is Role.CLIENT else right, at)
        ends = (wire, right) if role is Role.CLIENT else (left, wire)
        with trio.fail_after(120):
            async with (
                opener(ends[0], Role.CLIENT, AGENT) as relay,
                opener(ends[1], Role.SERVER, RELAY) as agent,
            ):
                outcomes.add(await converse(relay, agent))
                if wire.tripped:
                    session = relay if role is Role.CLIENT else agent
                    assert "lost" in (await session.wait_closed()).reason
        assert wire.closed
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        if not wire.tripped:
            break
    assert outcomes == {"broken", "fin"}, "the last turn trips nothing"


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EPERM, errno.EMSGSIZE, errno.ENOBUFS])
async def test_a_datagram_that_the_kernel_refuses_costs_nothing(code: int) -> None:
    """Whichever operation of the relay's socket fails, first or later, all bytes arrive."""
    async with quic_pair() as (relay, agent):
        broken = break_socket(relay._link.socket)
        for _ in range(2):
            broken.errors.append(code)
            assert await converse(relay, agent) == "fin"
        assert broken.errors == []


@pytest.mark.parametrize("after", [0, 1, 5, 40, 200])
async def test_a_network_that_goes_silent_breaks_streams_and_the_session(
    after: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Whenever no datagram arrives any more, both ends find out, and no part looks like an end."""
    autojump_clock.autojump_threshold = 0.02
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with quic_relay() as relay, udp_network(relay.address) as network, quic_agent(network.front.address) as agent:
        session = await relay.session()
        network.left = after
        with trio.fail_after(60):
            assert await converse(session, agent) == "broken"
            for end in (session, agent):
                assert "nothing heard" in (await end.wait_closed()).reason
    assert trio.lowlevel.current_statistics().tasks_living == tasks
