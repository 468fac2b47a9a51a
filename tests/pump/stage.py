"""What the tests of the pump share: a stream between two peers, moved by a worker or copied here.

Names: the *visitor* talks to the left side, the *origin* to the right one.  The
exam is the same both ways (`both_ways`): what a worker does is what
`streams.copy` does, over real sockets of the kernel.
"""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.streams.bench import read_exactly, read_to_end, socket_pair
from trunnel import capabilities
from trunnel.pump import PumpResult, Workers, open_workers, pump
from trunnel.pump.employed import Employed
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter

__all__ = ["read_exactly", "read_to_end", "socket_pair"]

LIMITS = CopyLimits(first_byte=30.0, idle=3600.0, half_closed=60.0, first_byte_from="right")
ROOMY = 64 * 1024
"""A socket buffer that fills soon, and is large enough for loopback's segments."""

needs_workers = pytest.mark.skipif(not capabilities.HAS_PUMP, reason="no splice on this system")
both_ways = pytest.mark.parametrize(
    "way", [pytest.param("worker", marks=[needs_workers, pytest.mark.may_skip("Linux only")]), "copy"]
)


@asynccontextmanager
async def hired(way: str = "worker") -> AsyncIterator[Workers | None]:
    """One worker, or None if *way* is "copy"."""
    if way == "copy":
        yield None
        return
    async with open_workers(1) as workers:
        yield workers


@dataclass
class Stage:
    """A stream and the two peers that talk through it."""

    visitor: trio.SocketStream
    left: trio.SocketStream
    right: trio.SocketStream
    origin: trio.SocketStream
    workers: Workers | None
    counter: Counter = field(default_factory=Counter)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    outcome: PumpResult | None = None

    async def run(self, deadlines: CopyLimits = LIMITS) -> None:
        """Pump; to be started in a nursery."""
        with self.scope:
            self.outcome = await pump(self.left, self.right, deadlines, counter=self.counter, workers=self.workers)
        self.done.set()

    async def result(self) -> PumpResult:
        """Wait for the result; it tells the way that was meant."""
        await self.done.wait()
        assert self.outcome is not None
        assert self.outcome.way == ("copy" if self.workers is None else "splice")
        return self.outcome

    async def cancel(self) -> None:
        """Cancel the pump and wait until it has returned."""
        self.scope.cancel()
        await self.done.wait()

    async def is_moving(self) -> None:
        """Wait until bytes go both ways: whoever moves them has taken the stream."""
        for near, far in ((self.visitor, self.origin), (self.origin, self.visitor)):
            await near.send_all(b"?")
            assert await far.receive_some(1) == b"?"

    def close(self) -> None:
        """Leave nothing open."""
        for stream in (self.visitor, self.left, self.right, self.origin):
            abort_stream(stream)


@asynccontextmanager
async def stage(
    workers: Workers | None, *, narrow: bool = False, deadlines: CopyLimits | None = LIMITS
) -> AsyncIterator[Stage]:
    """A stream of two TCP connections that is pumped (unless *deadlines* is None); *narrow* ones stall soon."""
    size = ROOMY if narrow else None
    visitor, left = await socket_pair(sending=size, receiving=size)
    origin, right = await socket_pair(sending=size, receiving=size)
    play = Stage(visitor, left, right, origin, workers)
    try:
        async with trio.open_nursery() as nursery:
            if deadlines is not None:
                nursery.start_soon(play.run, deadlines)
            yield play
            nursery.cancel_scope.cancel()
    finally:
        play.close()


@asynccontextmanager
async def unix_stage(workers: Workers | None, *, unix: str = "right") -> AsyncIterator[Stage]:
    """A stream one side of which, "left" or "right", or both, is a unix socket."""
    pairs: list[list[trio.SocketStream]] = []
    for name in ("left", "right"):
        if unix in (name, "both"):
            pairs.append([trio.SocketStream(sock) for sock in trio.socket.socketpair()])
        else:
            pairs.append(await socket_pair())
    (visitor, left), (origin, right) = pairs
    play = Stage(visitor, left, right, origin, workers)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play.run)
            yield play
            nursery.cancel_scope.cancel()
    finally:
        play.close()


# --- peers ------------------------------------------------------------------------------------


def pattern(tenant: int, size: int) -> bytes:
    """Return *size* bytes in which each eight tell whose they are and where they stand."""
    words = size // 8 + 1
    return struct.pack(f">{words}Q", *range(tenant << 40, (tenant << 40) + words))[:size]


async def send_and_end(stream: trio.SocketStream, payload: bytes) -> None:
    """Send *payload*, then FIN."""
    await stream.send_all(payload)
    await stream.send_eof()


async def send_until_stuck(stream: trio.SocketStream, payload: bytes, *, quiet: float = 0.1) -> int:
    """Send as much of *payload* as is taken before nothing moves for *quiet* seconds; return how much."""
    sent = 0
    while sent < len(payload):
        with trio.move_on_after(quiet) as scope:
            sent += await stream.socket.send(payload[sent:])
        if scope.cancelled_caught:
            break
    return sent


def reset_after(stream: trio.SocketStream, sent: int) -> int:
    """Abort *stream*, on which *sent* bytes were sent; return how many of them the other end had acknowledged."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, bytes(4)))
    abort_stream(stream)
    return max(0, sent - int(waiting))


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait until *condition* holds; for what another process does."""
    with trio.fail_after(seconds):
        while not condition():
            with trio.move_on_after(0.002):
                await trio.sleep_forever()


def block(seconds: float = 0.0) -> trio.CancelScope:
    """Return a scope that ends the wait inside it after *seconds*: for measuring, not for order."""
    return trio.move_on_after(seconds)


# --- workers, looked at from outside ------------------------------------------------------------


def worker_of(workers: Workers | None) -> Employed:
    """Return the only worker."""
    assert workers is not None
    (employed,) = workers.employed
    return employed


def cpu_ticks(pid: int) -> int:
    """Return the processor time that a process has used, in 1/100 s."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wakeups(pid: int) -> int:
    """Return how often a process has gone to sleep and run again."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def descriptors_of(pid: int) -> set[int]:
    """Return the numbers of the descriptors that a process has open."""
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def open_descriptors(pid: int | None = None) -> int:
    """Return how many descriptors a process, this one by default, has open; ours without what is garbage."""
    if pid is None:
        gc.collect()
    return len(descriptors_of(os.getpid() if pid is None else pid))


def pipes_of(pid: int) -> int:
    """Return how many ends of pipes a process has open, its standard streams not counted."""
    ends = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            ends += int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:")
        except FileNotFoundError:
            continue
    return ends


def plain_pair() -> tuple[socket.socket, socket.socket]:
    """Return a TCP connection of plain, non-blocking sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far
