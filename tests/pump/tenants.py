"""Tenants of the model test: two peers that do as a script says, and what must hold for what they saw.

A peer that resets takes back what its kernel had not sent; what ours had
acknowledged by then has to arrive.  The kernel reports an RST once: where a
peer's own writer met it, the end of file that its reader sees means nothing.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import trio

from tests.pump.stage import Stage, block, pattern, reset_after, stage
from trunnel.pump import Workers
from trunnel.streams.copy import End

Action = Literal["send", "fin", "reset", "stall", "resume", "wait", "drain", "cancel"]
SIZES = (1, 100, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 300_000, 700_000)
PATIENCE = 15.0
"""Seconds for a whole script."""


class Step(NamedTuple):
    """One step of a script."""

    who: Literal[0, 1]
    """The visitor or the origin."""
    action: Action
    size: int = 0


@dataclass
class Peer:
    """One end of a stream: a writer, a reader that can be stalled, and what happened to them."""

    stream: trio.SocketStream
    payload: bytes
    wanted: int = 0
    sent: int = 0
    ends: bool = False
    ended: bool = False
    """Its kernel was told to send FIN."""
    accepted: int | None = None
    """Once it has reset: bytes that had been acknowledged by then."""
    was_whole: bool = False
    """When it reset, everything had been acknowledged, and its FIN."""
    received: bytearray = field(default_factory=bytearray)
    end: End | None = None
    writer_met_reset: bool = False
    may_read: trio.Event = field(default_factory=trio.Event)
    changed: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def live(self) -> None:
        """Write and read until both are over, or it resets."""
        self.may_read.set()
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                if self.end is End.RESET:
                    nursery.cancel_scope.cancel()
                self.tell()

    def tell(self) -> None:
        """Wake whoever waits for a change of this peer."""
        self.changed.set()
        self.changed = trio.Event()

    async def _write(self) -> None:
        try:
            while not self.ended:
                if self.sent < self.wanted:
                    self.sent += await self.stream.socket.send(self.payload[self.sent : self.wanted])
                elif self.ends:
                    self.stream.socket.shutdown(trio.socket.SHUT_WR)
                    self.ended = True
                else:
                    await self.changed.wait()
        except OSError as exc:
            self.writer_met_reset = exc.errno == errno.ECONNRESET

    async def _read(self) -> None:
        while True:
            await self.may_read.wait()
            try:
                chunk = await self.stream.socket.recv(65_536)
            except OSError:
                self.end = End.RESET
                return
            if not chunk:
                for _ in range(2):  # trio tells a writer of its error a step late
                    await trio.lowlevel.checkpoint()
                self.end = End.RESET if self.writer_met_reset else End.FIN
                return
            self.received += chunk
            self.tell()

    def reset(self) -> None:
        """Abort it."""
        self.scope.cancel()
        acknowledged = reset_after(self.stream, self.sent + self.ended)
        self.was_whole = self.ended and acknowledged == self.sent + 1
        self.accepted = min(acknowledged, self.sent)


async def play(script: list[Step], tenant: int, workers: Workers | None) -> None:
    """Do as *script* says, then end in order whatever has not ended, and check what everybody saw."""
    total = sum(step.size for step in script)
    async with stage(workers, narrow=True) as theatre, trio.open_nursery() as nursery:
        peers = [
            Peer(stream, pattern(2 * tenant + index, total))
            for index, stream in enumerate((theatre.visitor, theatre.origin))
        ]
        with trio.fail_after(PATIENCE):
            for peer in peers:
                nursery.start_soon(peer.live)
            for step in script:
                await _take_step(step, peers, theatre)
            for peer in peers:
                peer.may_read.set()
                peer.ends = True
                peer.tell()
            await theatre.done.wait()
            for peer in peers:
                while peer.accepted is None and peer.end is None:
                    await peer.changed.wait()
        _check(peers, theatre)


async def _take_step(step: Step, peers: list[Peer], theatre: Stage) -> None:
    near, far = peers[step.who], peers[1 - step.who]
    if step.action == "wait":  # so that the worker gets further, now and then
        with block(0.002):
            await trio.sleep_forever()
    elif step.action == "cancel":
        theatre.scope.cancel()
    elif step.action == "drain":
        while far.may_read.is_set() and far.end is None and far.accepted is None and len(far.received) < near.wanted:
            if near.accepted is not None:
                break
            await far.changed.wait()
    elif near.accepted is None:
        _move(near, step)
        near.tell()
    await trio.lowlevel.checkpoint()


def _move(near: Peer, step: Step) -> None:
    match step.action:
        case "send" if not near.ends:
            near.wanted += step.size
        case "fin":
            near.ends = True
        case "reset":
            near.reset()
        case "stall" if near.may_read.is_set():
            near.may_read = trio.Event()
        case "resume":
            near.may_read.set()
        case _:
            return


# --- what must hold ---------------------------------------------------------------------------


def _check(peers: list[Peer], theatre: Stage) -> None:
    cancelled = theatre.outcome is None
    assert theatre.scope.cancel_called or not cancelled
    for near, far in (peers, peers[::-1]):
        if far.accepted is None:
            _check_bytes(near, far, cancelled=cancelled)
    figures = theatre.counter.figures()
    for peer, counted, other in zip(peers, figures, peers[::-1], strict=True):
        assert len(other.received) <= counted <= peer.sent
    if theatre.outcome is not None:
        assert (theatre.outcome.left_bytes, theatre.outcome.right_bytes) == figures
        _check_ends(peers, (theatre.outcome.left_end, theatre.outcome.right_end))


def _check_bytes(near: Peer, far: Peer, *, cancelled: bool) -> None:
    """What *near* sent and *far*, who has not reset, received."""
    assert far.received == near.payload[: len(far.received)], "a foreign byte, or one lost"
    assert len(far.received) <= near.sent
    if far.end is End.FIN:
        assert near.ended, "truncation must not look like an end"
        assert len(far.received) == near.wanted == near.sent
    elif not cancelled:
        assert near.accepted is not None, "a reset that nobody asked for"
        assert not near.was_whole
    if not cancelled:
        assert len(far.received) >= (near.wanted if near.accepted is None else near.accepted)


def _check_ends(peers: list[Peer], ends: tuple[End, End]) -> None:
    resets = [peer.accepted is not None for peer in peers]
    for peer, end, reset, other_reset in zip(peers, ends, resets, resets[::-1], strict=True):
        if not reset:
            assert end is End.FIN or (other_reset and end is End.CANCELLED)
        elif not other_reset:
            assert end in ((End.FIN,) if peer.was_whole else (End.RESET, End.FIN) if peer.ended else (End.RESET,))
        else:
            assert end in (End.FIN, End.RESET, End.CANCELLED)
