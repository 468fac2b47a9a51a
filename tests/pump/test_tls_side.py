"""What TLS adds to a pumped stream: exact bytes, its own ends, control messages, full buffers."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL

from tests.pump.stage import (
    block,
    cpu_ticks,
    pattern,
    pipes_of,
    read_exactly,
    read_to_end,
    reset_after,
    send_and_end,
    send_until_stuck,
    until,
)
from tests.pump.tls_stage import (
    PROTOCOLS,
    TlsStage,
    both_versions,
    exchange,
    hired_tls,
    identity,
    leaf_order,
    nothing_lost,
    on_linux,
    tls_stage,
)
from tests.streams.tls_forge import ALERT, Forge, KeyLog
from tests.streams.tls_pairs import make_leaf, unix_transports, visitor_client
from trunnel.identity.contexts import visitor_context
from trunnel.pump.tls_side import TlsSide
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsRole, TlsStream

pytestmark = on_linux

SIZES = [0, 1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 3_000_000]
CLOSE_NOTIFY = b"\x01\x00"


async def say_and_end(visitor: TlsStream, payload: bytes) -> None:
    """Send *payload*, then close_notify."""
    await visitor.send_all(payload)
    await visitor.send_eof()


# --- bytes --------------------------------------------------------------------------------------


@both_versions
async def test_half_close_is_carried_and_bytes_are_exact(version: int) -> None:
    """The visitor ends first (close_notify is FIN to the origin), the origin answers afterwards."""
    async with hired_tls() as workers:
        for size in SIZES:
            upload, answer = pattern(1, size), pattern(2, size)
            async with tls_stage(workers, version=version) as play, trio.open_nursery() as nursery:
                nursery.start_soon(say_and_end, play.visitor, upload)
                assert await read_to_end(play.origin) == (upload, End.FIN)
                nursery.start_soon(send_and_end, play.origin, answer)
                assert await read_to_end(play.visitor) == (answer, End.FIN)
                outcome = await play.result()
            assert outcome.left_end is outcome.right_end is End.FIN
            assert (outcome.left_bytes, outcome.right_bytes) == (size, size) == play.counter.figures()


@both_versions
async def test_an_end_that_comes_together_with_the_last_bytes_is_an_end(version: int) -> None:
    """Record and close_notify in one segment: the socket has nothing more to tell, and the origin gets FIN."""
    async with hired_tls() as workers:
        for size in (0, 1, 16 * 1024, 60_000, 64 * 1024):
            async with tls_stage(workers, version=version) as play:
                raw = play.visitor._connection
                wire = play.wire.socket
                wire.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_CORK, 1)
                if size:
                    assert raw.send(pattern(1, size)) == size
                raw.shutdown()
                wire.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_CORK, 0)
                with trio.fail_after(2):
                    assert await read_to_end(play.origin) == (pattern(1, size), End.FIN)
                    await send_and_end(play.origin, b"answer")
                    assert await read_to_end(play.visitor) == (b"answer", End.FIN)


async def test_both_directions_at_once_through_narrow_sockets() -> None:
    upload, answer = pattern(1, 2_000_000), pattern(2, 2_000_001)
    async with hired_tls() as workers, tls_stage(workers, narrow=True) as play, trio.open_nursery() as nursery:
        nursery.start_soon(say_and_end, play.visitor, upload)
        nursery.start_soon(send_and_end, play.origin, answer)

        async def take_answer() -> None:
            assert await read_to_end(play.visitor) == (answer, End.FIN)

        nursery.start_soon(take_answer)
        assert await read_to_end(play.origin) == (upload, End.FIN)
        outcome = await play.result()
        assert (outcome.left_bytes, outcome.right_bytes) == (len(upload), len(answer))


@pytest.mark.parametrize("length", [1, 10_000, 16_384])
async def test_records_of_any_length_arrive_exact(length: int) -> None:
    """What OpenSSL has decrypted and not handed over is invisible to epoll."""
    payload = pattern(1, 300 * length if length == 1 else 40 * length)
    async with hired_tls() as workers, tls_stage(workers, narrow=length > 1) as play, trio.open_nursery() as nursery:
        forge = play.forge()
        records = [forge.record(payload[at : at + length]) for at in range(0, len(payload), length)]
        nursery.start_soon(play.wire.send_all, b"".join(records))
        with trio.fail_after(5):
            assert await read_exactly(play.origin, len(payload)) == payload


# --- ends ---------------------------------------------------------------------------------------


@both_versions
async def test_nothing_is_lost_when_the_origin_ends_while_the_visitor_still_sends(version: int) -> None:
    upload = pattern(1, 2_000_000)
    async with hired_tls() as workers, tls_stage(workers, version=version) as play, trio.open_nursery() as nursery:
        await play.is_moving()
        nursery.start_soon(say_and_end, play.visitor, upload)
        await play.origin.send_all(b"early answer")
        await play.origin.send_eof()
        assert await read_to_end(play.visitor) == (b"early answer", End.FIN)
        assert await read_to_end(play.origin) == (upload, End.FIN)
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN


@both_versions
async def test_a_visitor_cut_off_without_close_notify_is_truncated(version: int) -> None:
    """The origin gets what came, then RST."""
    async with hired_tls() as workers, tls_stage(workers, version=version) as play:
        await play.visitor.send_all(pattern(1, 50_000))
        await play.wire.send_eof()
        assert await read_to_end(play.origin) == (pattern(1, 50_000), End.RESET)
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)


@both_versions
async def test_a_visitor_that_just_closes_once_it_has_its_answer_has_ended(version: int) -> None:
    async with hired_tls() as workers, tls_stage(workers, version=version) as play:
        await play.visitor.send_all(b"request")
        assert await read_exactly(play.origin, 7) == b"request"
        await play.origin.send_all(b"answer")
        await play.origin.send_eof()
        assert await read_to_end(play.visitor) == (b"answer", End.FIN)
        await play.wire.send_eof()
        assert await read_to_end(play.origin) == (b"", End.FIN)
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN


async def test_what_a_visitor_sent_before_its_reset_is_delivered_before_the_reset() -> None:
    async with hired_tls() as workers:
        for size in (0, 1, 50_000, 1_000_000):
            async with tls_stage(workers) as play, trio.open_nursery() as nursery:
                await play.is_moving()

                async def send_and_reset(play: TlsStage = play, size: int = size) -> None:
                    await play.visitor.send_all(pattern(1, size))
                    await until(lambda: reset_would_lose(play) == 0)
                    abort_stream(play.wire)

                nursery.start_soon(send_and_reset)
                assert await read_to_end(play.origin) == (pattern(1, size), End.RESET)
                outcome = await play.result()
            assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)
            assert outcome.left_bytes == size


def reset_would_lose(play: TlsStage) -> int:
    """Return how many bytes of the visitor's have not been acknowledged."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(play.wire.socket.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(waiting)


async def test_an_origin_that_breaks_off_truncates_the_visitor() -> None:
    """What it said is delivered, then RST: no close_notify, and no FIN either."""
    async with hired_tls() as workers:
        for size in (0, 1, 500_000):
            async with tls_stage(workers) as play, trio.open_nursery() as nursery:
                await play.is_moving()

                async def send_and_reset(play: TlsStage = play, size: int = size) -> None:
                    await play.origin.send_all(pattern(2, size))
                    await until(lambda: play.counter.figures()[1] == size + 1)
                    reset_after(play.origin, size)

                nursery.start_soon(send_and_reset)
                assert await read_to_end(play.visitor) == (pattern(2, size), End.RESET)
                assert not play.visitor.truncated
                outcome = await play.result()
            assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


async def test_a_forged_record_truncates() -> None:
    """The visitor is told by an alert where it still reads; the origin gets what was genuine, then RST."""
    async with hired_tls() as workers, tls_stage(workers) as play:
        forge = play.forge()
        await play.wire.send_all(forge.record(b"genuine") + b"\x17\x03\x03\x00\x20" + bytes(32))
        with trio.fail_after(2):
            assert await read_to_end(play.origin) == (b"genuine", End.RESET)
            with pytest.raises(trio.BrokenResourceError, match="alert bad record mac"):
                await play.visitor.receive_some()
        outcome = await play.result()
    assert outcome.left_end is End.RESET


# --- stalls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["visitor", "origin"])
async def test_a_stalled_reader_costs_little_and_nobody_else(who: str) -> None:
    """Bounded memory, no pipe, no processor time; nothing is lost when it reads again."""
    payload = pattern(1, 8_000_000)
    async with hired_tls() as workers, tls_stage(workers, narrow=True) as play, trio.open_nursery() as nursery:
        pid = workers.employed[0].process.pid
        if who == "visitor":
            nursery.start_soon(send_and_end, play.origin, payload)
        else:
            nursery.start_soon(say_and_end, play.visitor, payload)
        await until_still(play)
        ticks = cpu_ticks(pid)
        with block(0.3):
            await trio.sleep_forever()
        assert cpu_ticks(pid) - ticks <= 1
        moved = sum(play.counter.figures())
        assert 0 < moved < 2_000_000
        assert pipes_of(pid) == 0
        await exchange(workers)
        reader = play.visitor if who == "visitor" else play.origin
        assert await read_to_end(reader) == (payload, End.FIN)


async def until_still(play: TlsStage) -> None:
    """Wait until nothing has moved for a while."""
    while True:
        before = play.counter.figures()
        with block(0.1):
            await trio.sleep_forever()
        if play.counter.figures() == before != (0, 0):
            return


# --- control messages -----------------------------------------------------------------------------


async def test_key_updates_are_followed_also_in_a_half_closed_stream() -> None:
    """RFC 8446 §4.6.3: no byte is lost; after our close_notify, too."""
    async with hired_tls() as workers, tls_stage(workers) as play:
        forge = play.forge()
        for turn in range(40):
            await play.wire.send_all(forge.key_update(request=bool(turn % 2)) + forge.record(b"%02d" % turn))
            assert await read_exactly(play.origin, 2) == b"%02d" % turn
            await play.origin.send_all(b"echo")
            assert await read_exactly(play.visitor, 4) == b"echo"
        await play.origin.send_eof()
        assert await play.visitor.receive_some() == b""
        await play.wire.send_all(forge.key_update(request=True) + forge.record(b"and on"))
        assert await read_exactly(play.origin, 6) == b"and on"
        await play.wire.send_all(forge.record(CLOSE_NOTIFY, ALERT))
        assert await read_to_end(play.origin) == (b"", End.FIN)
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN


async def test_key_updates_without_end_are_cut_short() -> None:
    """LOAD-17: ten thousand of them cost next to nothing, and the visitor its connection."""
    async with hired_tls() as workers, nothing_lost(workers):
        async with tls_stage(workers) as play, trio.open_nursery() as nursery:
            forge = play.forge()
            pid = workers.employed[0].process.pid
            ticks = cpu_ticks(pid)
            flood = b"".join(forge.key_update(request=True) for _ in range(10_000))
            nursery.start_soon(send_in_vain, play.wire, flood)
            outcome = await play.result()
            assert cpu_ticks(pid) - ticks <= 20
            assert outcome.left_end is End.RESET
            assert await read_to_end(play.origin) == (b"", End.RESET)


async def send_in_vain(stream: trio.SocketStream, payload: bytes) -> None:
    """Send what may be refused."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(payload)


# --- full buffers -----------------------------------------------------------------------------------

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


async def test_a_worker_waits_for_room_for_close_notify_without_work() -> None:
    async with full_side() as full:
        most = full.sent
    async with hired_tls() as workers, tls_stage(workers, visitors=unix_transports(buffer=SMALL_BUFFER)) as play:
        for sent in range(1, most + 1):
            await play.origin.send_all(b"x")
            await until(lambda sent=sent: play.counter.figures()[1] == sent)
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


# --- what a worker is told ----------------------------------------------------------------------------


def test_an_order_holds_the_protocols_the_key_of_the_leaf_and_its_chain() -> None:
    first, _, pem = leaf_order("a.example", (b"h2", b"\x00,\n")).partition(b"\n")
    assert [bytes.fromhex(each.decode()) for each in first.split(b",")] == [b"h2", b"\x00,\n"]
    assert load_pem_x509_certificates(pem) == [identity("a.example").certificate]
    assert pem.count(b"PRIVATE KEY") == 2
