"""What the tests of copying share: a copy between two pairs of streams, and peers that talk through it.

Names: the *visitor* talks to the left side of the copy, the *origin* to the right one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, CopyResult, Counter, End, copy_streams
from trunnel.streams.sockets import tune_socket
from trunnel.transports.base import Peer
from trunnel.transports.memory import memory_session_pair

LIMITS = CopyLimits(first_byte=30.0, idle=3600.0, half_closed=60.0, first_byte_from="right")
LATE = 1 + limits.DEADLINE_SLACK
"""By how much an idle deadline may come late."""
REQUEST = b"request " * 500
ANSWER = b"answer " * 700
PEER = Peer(key_id=KeyId.of_spki(b"a key"), address="test")


@dataclass
class Bench:
    """A copy and the two peers that talk through it."""

    visitor: trio.abc.HalfCloseableStream
    left: trio.abc.HalfCloseableStream
    right: trio.abc.HalfCloseableStream
    origin: trio.abc.HalfCloseableStream
    counter: Counter = field(default_factory=Counter)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    outcome: CopyResult | None = None

    async def run(self, deadlines: CopyLimits = LIMITS) -> None:
        """Copy; to be started in a nursery."""
        with self.scope:
            self.outcome = await copy_streams(self.left, self.right, deadlines, counter=self.counter)
        self.done.set()

    async def result(self) -> CopyResult:
        """Wait for the copy's result."""
        await self.done.wait()
        assert self.outcome is not None
        return self.outcome

    def abort_all(self) -> None:
        """Leave nothing open."""
        for stream in (self.visitor, self.left, self.right, self.origin):
            abort_stream(stream)


async def socket_pair(*, sending: int | None = None, receiving: int | None = None) -> list[trio.SocketStream]:
    """Return two ends of a TCP connection; *sending* bounds the second's buffer, *receiving* the first's."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = trio.socket.socket()
    if receiving is not None:
        near.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receiving)
    async with listener:
        await near.connect(listener.socket.getsockname())
        far = await listener.accept()
    if sending is not None:
        far.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, sending)
    tune_socket(far.socket)
    return [trio.SocketStream(near), far]


@asynccontextmanager
async def over_sockets() -> AsyncIterator[Bench]:
    """A bench of two TCP connections."""
    (visitor, left), (origin, right) = await socket_pair(), await socket_pair()
    bench = Bench(visitor, left, right, origin)
    try:
        yield bench
    finally:
        bench.abort_all()


@asynccontextmanager
async def over_memory() -> AsyncIterator[Bench]:
    """A bench of two streams of the memory transport."""
    async with memory_session_pair(PEER, PEER) as (near, far):
        visitor, origin = await near.open_stream(), await near.open_stream()
        left, right = await far.accept_stream(), await far.accept_stream()
        yield Bench(visitor, left, right, origin)


Maker = Callable[[], AbstractAsyncContextManager[Bench]]
both_kinds = pytest.mark.parametrize("maker", [over_sockets, over_memory])


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Return the next *size* bytes."""
    received = bytearray()
    while len(received) < size:
        chunk = await stream.receive_some(size - len(received))
        assert chunk, "ended early"
        received += chunk
    return bytes(received)


async def read_to_end(stream: trio.abc.ReceiveStream) -> tuple[bytes, End]:
    """Return all bytes and whether FIN or an abort came after them."""
    received = bytearray()
    while True:
        try:
            chunk = await stream.receive_some()
        except trio.BrokenResourceError:
            return bytes(received), End.RESET
        if not chunk:
            return bytes(received), End.FIN
        received += chunk


async def send_for_ever(stream: trio.abc.SendStream, payload: bytes, pause: float = 0.0) -> None:
    """Send *payload* again and again."""
    while True:
        await stream.send_all(payload)
        await trio.sleep(pause)


async def send_until_broken(stream: trio.abc.SendStream, payload: bytes, pause: float = 0.0) -> None:
    """Send *payload* again and again; the stream must break some day."""
    with pytest.raises(trio.BrokenResourceError):
        await send_for_ever(stream, payload, pause)


async def act(bench: Bench, peer: trio.abc.HalfCloseableStream, end: End) -> None:
    """Let *peer* end its bytes so; DEADLINE is doing nothing, CANCELLED is the cancellation of the copy."""
    if end is End.FIN:
        await peer.send_eof()
    elif end is End.RESET:
        abort_stream(peer)
    elif end is End.CANCELLED:
        bench.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
