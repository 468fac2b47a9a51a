"""What TLS adds to a pumped stream: exact bytes, its own ends, control messages, full buffers."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import struct
import termios

import pytest
import trio
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
    until,
)
from tests.pump.tls_stage import (
    TlsStage,
    both_versions,
    exchange,
    hired_tls,
    nothing_lost,
    on_linux,
    tls_stage,
)
from tests.streams.tls_forge import ALERT
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsStream

pytestmark = on_linux

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)
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


async def test_an_end_that_comes_together_with_the_last_bytes_is_an_end() -> None:
    """Record and close_notify in one segment: the socket has nothing more to tell, and the origin gets FIN."""
    async with hired_tls() as workers:
        for version, size in itertools.product(VERSIONS, (0, 1, 16 * 1024, 60_000, 64 * 1024)):
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


async def test_records_of_any_length_arrive_exact() -> None:
    """What OpenSSL has decrypted and not handed over is invisible to epoll."""
    async with hired_tls() as workers:
        for length in (1, 10_000, 16_384):
            payload = pattern(1, 300 if length == 1 else 40 * length)
            async with tls_stage(workers, narrow=length > 1) as play, trio.open_nursery() as nursery:
                forge = play.forge()
                records = [forge.record(payload[at : at + length]) for at in range(0, len(payload), length)]
                nursery.start_soon(play.wire.send_all, b"".join(records))
                with trio.fail_after(5):
                    assert await read_exactly(play.origin, len(payload)) == payload


# --- ends ---------------------------------------------------------------------------------------


async def test_nothing_is_lost_when_the_origin_ends_while_the_visitor_still_sends() -> None:
    upload = pattern(1, 2_000_000)
    async with hired_tls() as workers:
        for version in VERSIONS:
            async with tls_stage(workers, version=version) as play, trio.open_nursery() as nursery:
                await play.is_moving()
                nursery.start_soon(say_and_end, play.visitor, upload)
                await play.origin.send_all(b"early answer")
                await play.origin.send_eof()
                assert await read_to_end(play.visitor) == (b"early answer", End.FIN)
                assert await read_to_end(play.origin) == (upload, End.FIN)
                outcome = await play.result()
            assert outcome.left_end is outcome.right_end is End.FIN


async def test_a_visitor_cut_off_without_close_notify_is_truncated() -> None:
    """The origin gets what came, then RST."""
    async with hired_tls() as workers:
        for version in VERSIONS:
            async with tls_stage(workers, version=version) as play:
                await play.visitor.send_all(pattern(1, 50_000))
                await play.wire.send_eof()
                assert await read_to_end(play.origin) == (pattern(1, 50_000), End.RESET)
                outcome = await play.result()
            assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)


async def test_a_visitor_that_just_closes_once_it_has_its_answer_has_ended() -> None:
    async with hired_tls() as workers:
        for version in VERSIONS:
            async with tls_stage(workers, version=version) as play:
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
    async with (
        hired_tls() as workers,
        nothing_lost(workers),
        tls_stage(workers) as play,
        trio.open_nursery() as nursery,
    ):
        forge = play.forge()
        pid = workers.employed[0].process.pid
        flood = b"".join(forge.key_update(request=True) for _ in range(10_000))
        ticks = cpu_ticks(pid)
        nursery.start_soon(send_in_vain, play.wire, flood)
        outcome = await play.result()
        assert cpu_ticks(pid) - ticks <= 20
        assert outcome.left_end is End.RESET
        assert await read_to_end(play.origin) == (b"", End.RESET)


async def send_in_vain(stream: trio.SocketStream, payload: bytes) -> None:
    """Send what may be refused."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(payload)
