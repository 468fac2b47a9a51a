"""TLS beside sockets that are full: close_notify waits for room, KeyUpdates too, and nobody works meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import trio

from tests.pump.stage import block, cpu_ticks, pattern, read_exactly, read_to_end, send_until_stuck, until
from tests.pump.tls_stage import PROTOCOLS, TlsStage, hired_tls, identity, on_linux, tls_stage
from tests.streams.tls_forge import ALERT, Forge, KeyLog
from tests.streams.tls_pairs import make_leaf, unix_transports, visitor_client
from trunnel.identity.contexts import visitor_context
from trunnel.pump.tls_side import TlsSide
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsRole, TlsStream

pytestmark = on_linux

CLOSE_NOTIFY = b"\x01\x00"
SMALL_BUFFER = 4608
"""Bytes that a socket is to hold: it takes each record as a whole, or not at all, if it is a unix socket."""


class FullSide(NamedTuple):
    """A side, its visitor, a forge of the visitor's records, and how many records of one byte were sent to it."""

    side: TlsSide
    visitor: TlsStream
    forge: Forge
    sent: int


class Steps:
    """Both flows of a side whose steps the test takes."""

    hungry = True
    stuck = False

    def pull(self) -> bool:
        raise NotImplementedError

    def push(self) -> bool:
        raise NotImplementedError


async def fill(play: TlsStage) -> bytes:
    """Have the origin send until the way to the visitor is full; return what was sent."""
    payload = pattern(2, 4_000_000)
    sent = await send_until_stuck(play.origin, payload)
    return payload[:sent]


@asynccontextmanager
async def full_side(records: int | None = None) -> AsyncIterator[FullSide]:
    """A side whose unix socket took so many one-byte records (None: the most that it takes), and its visitor."""
    near, left = unix_transports(buffer=SMALL_BUFFER)
    context = visitor_client()
    keylog = KeyLog(context)
    with select.epoll() as epoll:
        sock = socket.socket(fileno=left.socket.dup().detach())
        side = TlsSide(sock, epoll, visitor_context(make_leaf(identity()), alpn=PROTOCOLS))
        side.inward = side.outward = Steps()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, side)
            visitor = await TlsStream.handshake(near, context, role=TlsRole.CLIENT, timeout=5)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent != records:
                sent += side.send(b"x")
        try:
            yield FullSide(side, visitor, Forge(keylog), sent)
        finally:
            side.abort()
            visitor.abort()
            left.socket.close()


async def shake(side: TlsSide) -> None:
    """Be the server of a handshake."""
    while True:
        try:
            return side.do_handshake()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(side.sock)


async def test_close_notify_waits_for_room() -> None:
    """And for nothing else: `sealing` until there is some."""
    async with full_side() as full:
        most = full.sent
    async with full_side(most) as full:
        full.side.seal()
        assert (full.side.sealing, full.side.sealed) == (True, False)
        assert full.side.interest() & select.EPOLLOUT
        assert await read_exactly(full.visitor, most) == b"x" * most
        full.side.seal()
        assert (full.side.sealing, full.side.sealed) == (False, True)
        assert not full.side.interest() & select.EPOLLOUT
        assert await full.visitor.receive_some() == b""


async def test_a_key_update_at_a_full_socket_disturbs_neither_reading_nor_the_end() -> None:
    async with full_side() as full:
        most = full.sent
    async with full_side(most) as full:
        side, forge = full.side, full.forge
        assert isinstance(full.visitor.transport, trio.SocketStream)
        await full.visitor.transport.send_all(forge.key_update(request=True) + forge.record(b"one"))
        assert side.receive(3) == b"one"
        side.seal()
        assert side.sealing
        assert await read_exactly(full.visitor, most) == b"x" * most
        side.seal()
        assert side.sealed
        assert await full.visitor.receive_some() == b""
        await full.visitor.transport.send_all(forge.record(b"two"))
        assert side.receive(3) == b"two"


def has_moved(play: TlsStage, size: int) -> bool:
    """Return whether *size* bytes of the origin's have been moved."""
    return play.counter.figures()[1] == size


async def test_a_worker_waits_for_room_for_close_notify_without_work() -> None:
    async with full_side() as full:
        most = full.sent
    async with hired_tls() as workers, tls_stage(workers, visitors=unix_transports(buffer=SMALL_BUFFER)) as play:
        for sent in range(1, most + 1):
            await play.origin.send_all(b"x")
            await until(partial(has_moved, play, sent))
        await play.origin.send_eof()
        ticks = cpu_ticks(workers.employed[0].process.pid)
        with block(0.2):
            await trio.sleep_forever()
        assert cpu_ticks(workers.employed[0].process.pid) - ticks <= 1
        assert await read_to_end(play.visitor) == (b"x" * most, End.FIN)
        await play.visitor.send_eof()
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN


async def test_a_key_update_that_meets_a_full_socket_is_answered_when_there_is_room() -> None:
    """The reader has to write first; what the visitor sent with it and after it is not lost, nor is the answer."""
    async with hired_tls() as workers, tls_stage(workers, narrow=True) as play:
        forge = play.forge()
        said = await fill(play)
        await play.wire.send_all(forge.record(b"one") + forge.key_update(request=True) + forge.record(b"two"))
        pid = workers.employed[0].process.pid
        ticks = cpu_ticks(pid)
        with block(0.2):
            await trio.sleep_forever()
        assert cpu_ticks(pid) - ticks <= 1
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(play.origin.send_eof)
                assert await read_to_end(play.visitor) == (said, End.FIN)
            assert await read_exactly(play.origin, 6) == b"onetwo"
            await play.wire.send_all(forge.record(b"three") + forge.record(CLOSE_NOTIFY, ALERT))
            assert await read_to_end(play.origin) == (b"three", End.FIN)
            outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN
