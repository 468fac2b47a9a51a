"""Parked data connections, how they are taken, and that a cancelled exchange leaves nothing open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from tests.transports.direct_pairs import (
    FIRST,
    HEADER,
    PATIENCE,
    TERMS,
    Middle,
    both_ends,
    is_closed,
    link_of,
    park,
    parked,
    reads,
    relay_admits,
    take,
)
from trunnel import capabilities
from trunnel.errors import LocalProtocolError, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports.direct import DirectLink, answer, offer, prove, read_preface, refuse, wait_taken
from trunnel.wire.direct import Answer, Refusal

TCP = trio.socket.IPPROTO_TCP


# --- parked -----------------------------------------------------------------------------------


async def _says_something(stream: trio.SocketStream) -> None:
    await stream.send_all(b"x")


async def _resets(stream: trio.SocketStream) -> None:
    link_of(stream).abort()
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "end",
    [_says_something, trio.SocketStream.send_eof, trio.SocketStream.aclose, _resets],
    ids=lambda end: end.__name__,
)
async def test_a_parked_connection_that_stirs_is_dead(end: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """A byte, an end, a reset: nobody may take it any more."""
    async with parked() as (agent, relay):
        assert relay.is_alive()
        await end(agent.stream)
        await trio.lowlevel.wait_readable(relay.stream.socket)
        assert not relay.is_alive()


async def test_a_link_that_was_aborted_is_dead_and_stays_so() -> None:
    async with parked() as (agent, relay):
        relay.abort()
        relay.abort()
        assert not relay.is_alive()
        with pytest.raises(trio.ClosedResourceError):
            await offer(relay, HEADER, FIRST)
        with pytest.raises(trio.BrokenResourceError):
            await wait_taken(agent)
        assert is_closed(agent.stream)


async def test_a_relay_that_lets_go_of_a_parked_connection_is_noticed() -> None:
    async with parked() as (agent, relay):
        await relay.stream.aclose()
        with pytest.raises(trio.BrokenResourceError, match="ended after 0"):
            await wait_taken(agent)
        assert is_closed(agent.stream)


@pytest.mark.skipif(not capabilities.HAS_USER_TIMEOUT, reason="needs TCP_USER_TIMEOUT")
@pytest.mark.skipif(not capabilities.HAS_KEEPALIVE_TIMES, reason="needs the times of keepalive")
async def test_the_kernel_looks_for_a_vanished_peer_only_while_parked() -> None:
    """The options of a parked connection are sharp, those of a taken one are every stream's."""

    def options(stream: trio.SocketStream) -> tuple[int, ...]:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        assert stream.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)
        return tuple(int(stream.getsockopt(TCP, getattr(trio.socket, name))) for name in names)

    async with parked() as (agent, relay):
        for link in (agent, relay):
            assert options(link.stream) == (*limits.PARKED_KEEPALIVE, limits.PARKED_USER_TIMEOUT_MS)
        await take(agent, relay)
        for link in (agent, relay):
            ours = (limits.KEEPALIVE_IDLE, limits.KEEPALIVE_INTERVAL, limits.KEEPALIVE_PROBES, 0)
            assert options(link.stream) == ours
            assert link.stream.getsockopt(TCP, trio.socket.TCP_NOTSENT_LOWAT) == limits.NOTSENT_LOWAT


@pytest.mark.parametrize("missing", ["HAS_USER_TIMEOUT", "HAS_KEEPALIVE_TIMES"])
async def test_a_system_without_these_options_does_without(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, missing, False)
    async with parked() as (agent, relay):
        assert await take(agent, relay) == (HEADER, Answer.ACCEPTED)


# --- taking, with a peer that breaks a rule ---------------------------------------------------


async def _offered() -> bytes:
    """Return what a relay sends when it takes a connection."""
    async with parked() as (agent, relay), trio.open_nursery() as nursery:

        async def ends() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await offer(relay, HEADER, b"")

        nursery.start_soon(ends)
        raw = await reads(agent.stream, 2 + len(HEADER) + 16)
        agent.abort()
    return raw


async def test_a_header_sealed_for_another_connection_is_refused() -> None:
    """Each connection has keys of its own, even in one session."""
    raw = await _offered()
    async with parked() as (agent, relay):
        await relay.stream.send_all(raw)
        with pytest.raises(RemoteProtocolError, match="sealed"):
            await wait_taken(agent)
        assert is_closed(agent.stream)


@pytest.mark.parametrize("length", [0, 16, limits.PROXY_HEADER_MAX + 17, 65535])
async def test_a_length_out_of_range_ends_the_connection_at_once(length: int) -> None:
    async with parked() as (agent, relay):
        await relay.stream.send_all(length.to_bytes(2))
        with pytest.raises(RemoteProtocolError):
            await wait_taken(agent)
        assert is_closed(agent.stream)


@pytest.mark.parametrize("at", [2, 60, -1])
async def test_a_header_that_was_touched_on_the_way_is_refused(at: int) -> None:
    async with both_ends() as (agent, left), both_ends() as (right, relay):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Middle().carry, left, right)
            nursery.start_soon(Middle().carry, right, left)
            agents, relays = await park(agent, relay)
            nursery.cancel_scope.cancel()
        sealed = relays.outgoing.seal(HEADER)
        raw = bytearray(len(sealed).to_bytes(2) + sealed)
        raw[at] ^= 1
        await left.send_all(raw)
        with pytest.raises(RemoteProtocolError):
            await wait_taken(agents)
        assert is_closed(agent)


@pytest.mark.parametrize("cut", [1, 2, 10, 100])
async def test_what_follows_a_header_in_pieces_stays_in_the_kernel(cut: int) -> None:
    """The visitor's bytes come together with the header's last piece."""
    async with parked() as (agent, relay), trio.open_nursery() as nursery:
        sealed = relay.outgoing.seal(HEADER)
        raw = len(sealed).to_bytes(2) + sealed

        async def send() -> None:
            await relay.stream.send_all(raw[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await relay.stream.send_all(raw[cut:] + FIRST)

        nursery.start_soon(send)
        assert await wait_taken(agent) == HEADER
        assert await reads(agent.stream, len(FIRST)) == FIRST


@pytest.mark.parametrize("cut", [0, 1, 16])
async def test_an_answer_that_is_cut_short_is_a_lost_connection(cut: int) -> None:
    async with parked() as (agent, relay):
        await agent.stream.send_all(agent.outgoing.seal(b"\0")[:cut])
        await agent.stream.send_eof()
        with pytest.raises(trio.BrokenResourceError, match=f"ended after {cut}"):
            await offer(relay, HEADER, FIRST)
        assert is_closed(relay.stream)


async def test_an_answer_of_somebody_else_is_a_lost_connection() -> None:
    async with parked() as (agent, relay):
        await agent.stream.send_all(bytes(17))
        with pytest.raises(trio.BrokenResourceError, match="sealed"):
            await offer(relay, HEADER, FIRST)
        assert is_closed(relay.stream)


async def test_a_link_seals_and_unseals_once() -> None:
    """A second record under the same nonce would give the key away."""
    async with parked() as (agent, relay):
        await take(agent, relay)
        for again in (
            offer(relay, HEADER, FIRST),
            answer(agent, 0),
        ):
            with pytest.raises(LocalProtocolError, match="one sealed record"):
                await again
        assert is_closed(agent.stream)
        assert is_closed(relay.stream)


# --- cancellation -----------------------------------------------------------------------------


@dataclass(eq=False)
class Steps(trio.abc.Instrument):
    """Cancels *scope* before the step number *at*, whichever task takes it."""

    at: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.at == 0:
            self.scope.cancel()
        self.at -= 1


Side = tuple[trio.SocketStream, Coroutine[object, object, object]]
"""A stream, and what its owner does with it."""


async def came_to_its_end(step: int, *sides: Side) -> bool:
    """Run both sides, cancelled at *step*: each ends well, or its socket is closed; False if there was such a step."""
    steps = Steps(step)
    finished: list[trio.SocketStream] = []

    async def run(side: Side) -> None:
        stream, exchange = side
        await exchange
        finished.append(stream)

    trio.lowlevel.add_instrument(steps)
    try:
        with steps.scope:
            async with trio.open_nursery() as nursery:
                for side in sides:
                    nursery.start_soon(run, side)
    finally:
        trio.lowlevel.remove_instrument(steps)
    for stream, _ in sides:
        assert stream in finished or is_closed(stream)
    return not steps.scope.cancel_called


async def test_a_cancelled_proof_leaves_no_socket_open() -> None:
    """At whichever step of either side."""
    step = 0
    is_whole = False
    while not is_whole:
        async with both_ends() as (near, far):
            is_whole = await came_to_its_end(
                step, (near, prove(near, TERMS, timeout=PATIENCE)), (far, relay_admits(far))
            )
        step += 1
    assert step > 1


async def test_a_cancelled_taking_leaves_no_socket_open() -> None:
    """Not a parked connection that waits, either: its task is all that knows of it."""

    async def accept(link: DirectLink) -> None:
        await wait_taken(link)
        await answer(link, Answer.ACCEPTED)

    step = 0
    is_whole = False
    while not is_whole:
        async with parked() as (agent, relay):
            is_whole = await came_to_its_end(
                step, (agent.stream, accept(agent)), (relay.stream, offer(relay, HEADER, FIRST))
            )
        step += 1
    assert step > 1


async def test_a_cancelled_preface_or_refusal_leaves_no_socket_open() -> None:
    async with both_ends() as (_near, far):
        with trio.CancelScope() as scope:
            scope.cancel()
            await read_preface(far)
        assert is_closed(far)
    async with both_ends() as (_near, far):
        with trio.CancelScope() as scope:
            scope.cancel()
            await refuse(far, Refusal.FULL)
        assert is_closed(far)
