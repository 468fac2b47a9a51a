"""Cancel, or break, the k-th operation of the transport, for every k of a whole conversation.

Whatever happens: only the documented errors come out, the transport ends
closed, and the peer takes the conversation for complete only if it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.streams.tls_pairs import Transport, link_client, link_server, memory_transports
from trunnel.errors import ConnectError
from trunnel.streams.tls import TlsRole, TlsStream

REQUEST = b"q" * 150_000
ANSWER = b"a" * 150_000


class TripWire(trio.abc.HalfCloseableStream):
    """Calls *trip* instead of operation number *at*; counts them all."""

    def __init__(self, inner: Transport, at: int, trip: Callable[[], None]) -> None:
        self._inner = inner
        self._at = at
        self._trip = trip
        self.operations = 0
        self.closed = False

    async def _step(self) -> None:
        self.operations += 1
        if self.operations == self._at:
            self._trip()
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._step()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._step()
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._step()
        await self._inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._step()
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


async def converse(transport: Transport, role: TlsRole) -> str:
    """Send one message, read the other to its end; returns how far it came."""
    mine, theirs = (REQUEST, ANSWER) if role is TlsRole.CLIENT else (ANSWER, REQUEST)
    context = link_client() if role is TlsRole.CLIENT else link_server()
    stream = await TlsStream.handshake(transport, context, role=role, timeout=5)
    async with stream:
        received = bytearray()
        if role is TlsRole.CLIENT:
            await stream.send_all(mine)
            await stream.send_eof()
        while chunk := await stream.receive_some():
            received += chunk
        assert received == theirs, "an end before the end"
        if role is TlsRole.SERVER:
            await stream.send_all(mine)
    return "complete"


async def run_with_peer(wire: TripWire, peer: Transport, role: TlsRole, scope: trio.CancelScope) -> list[str]:
    """Run *role* over *wire* in *scope*, its peer outside; returns how each ended, ours first."""
    ends = ["", ""]
    peer_role = TlsRole.SERVER if role is TlsRole.CLIENT else TlsRole.CLIENT

    async def ours() -> None:
        with scope:
            try:
                ends[0] = await converse(wire, role)
            except (ConnectError, trio.BrokenResourceError) as exc:
                ends[0] = type(exc).__name__
        if scope.cancelled_caught:
            ends[0] = "cancelled"

    async def other() -> None:
        try:
            ends[1] = await converse(peer, peer_role)
        except (ConnectError, trio.BrokenResourceError) as exc:
            ends[1] = type(exc).__name__

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours)
            nursery.start_soon(other)
    return ends


async def sweep(role: TlsRole, kind: str) -> set[tuple[str, str]]:
    outcomes: set[tuple[str, str]] = set()
    at = 0
    tripped = True
    while tripped:
        at += 1
        left, right = await memory_transports()
        scope = trio.CancelScope()

        def trip(scope: trio.CancelScope = scope) -> None:
            if kind == "cancel":
                scope.cancel()
            else:
                raise trio.BrokenResourceError("tripped")

        wire = TripWire(left, at, trip)
        ends = await run_with_peer(wire, right, role, scope)
        tripped = wire.operations >= at
        assert wire.closed
        assert ends[0]
        assert ends[1]
        outcomes.add((ends[0], ends[1]))
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await right.aclose()
    assert at > 6, "the conversation has several operations"
    return outcomes


@pytest.mark.parametrize("role", list(TlsRole))
async def test_cancellation_at_every_operation(role: TlsRole, autojump_clock: trio.testing.MockClock) -> None:
    outcomes = await sweep(role, "cancel")
    assert ("complete", "complete") in outcomes, "the last turn trips nothing"
    assert {ours for ours, _ in outcomes} == {"complete", "cancelled"}
    assert any(peer == "BrokenResourceError" for _, peer in outcomes)


@pytest.mark.parametrize("role", list(TlsRole))
async def test_a_broken_transport_at_every_operation(role: TlsRole, autojump_clock: trio.testing.MockClock) -> None:
    outcomes = await sweep(role, "fault")
    assert ("complete", "complete") in outcomes, "the last turn trips nothing"
    assert {ours for ours, _ in outcomes} == {"complete", "ConnectError", "BrokenResourceError"}
