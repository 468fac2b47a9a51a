"""One visitor at the agent: TLS, origin, bytes, closing record, live figures."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.agent.stage import (
    NAME,
    VISITOR,
    closed_port,
    echo,
    origin_of,
    stage,
    terminator,
)
from tests.streams.bench import read_to_end
from trunnel.agent.origin import Origin
from trunnel.agent.visit import Visits
from trunnel.errors import ConnectError, ErrorCode
from trunnel.names import Target
from trunnel.streams.copy import Counter, End

# --- passing TLS through ---------------------------------------------------------------------------


async def test_passed_through_bytes_are_exact_and_the_record_says_so() -> None:
    """Half-close both ways; one closing record with the relay's stream id."""
    async with origin_of(echo) as origin, stage(origin) as play:
        stream = await play.open()
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await read_to_end(stream) == (b"hello", End.FIN)
        record = await play.closed()
    assert (record.stream, record.visitor, record.hostname) == ("stream-1", str(VISITOR), NAME.value)
    assert (record.bytes_in, record.bytes_out) == (5, 5)
    assert (record.visitor_end, record.origin_end, record.data_path) == ("fin", "fin", "session")


async def test_passed_through_an_origin_that_is_down_is_an_end_without_a_byte() -> None:
    """There is no one whose language we could speak."""
    async with stage(None) as play:
        stream = await play.open()
        assert await read_to_end(stream) == (b"", End.FIN)
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("cancelled", "error")


async def test_a_visitor_that_vanishes_resets_the_origin() -> None:
    """Never FIN: truncation must not look like an end."""
    seen: list[tuple[bytes, End]] = []

    async def origin_side(stream: trio.SocketStream) -> None:
        seen.append(await read_to_end(stream))

    async with origin_of(origin_side) as origin, stage(origin) as play:
        stream = await play.open()
        await stream.send_all(b"half a requ")
        await trio.testing.wait_all_tasks_blocked(0.01)
        stream.reset(ErrorCode.PEER_ABORTED)
        record = await play.closed()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert seen == [(b"half a requ", End.RESET)]
    assert (record.visitor_end, record.origin_end) == ("reset", "cancelled")


# --- cancellation, live figures --------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(0, 60, 3))
async def test_cancelled_at_any_moment_nothing_is_left_open(ticks: int) -> None:
    """The session ends: stream reset, origin aborted, one record at most, no live figures."""
    async with origin_of(echo) as origin, stage(origin, terminator=terminator()) as play:
        async with trio.open_nursery() as visitors:

            async def visit() -> None:
                try:
                    visitor = await play.open_tls()
                    await visitor.send_all(b"hello")
                    await read_to_end(visitor)
                except (ConnectError, trio.BrokenResourceError):
                    return

            visitors.start_soon(visit)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            play.nursery.cancel_scope.cancel()
            play.relay.abort("the test ends")
        assert len(play.events) <= 1


async def test_live_figures_are_there_while_a_stream_is_open() -> None:
    """By stream id, gone with the stream."""
    visits = Visits()
    async with origin_of(echo) as origin, stage(origin, visits=visits) as play:
        stream = await play.open()
        await stream.send_all(b"12345")
        assert await stream.receive_some() == b"12345"
        assert list(visits.open) == ["stream-1"]
        counter = visits.open["stream-1"]
        assert (counter.left_bytes, counter.right_bytes) == (5, 5)
        await stream.send_eof()
        await read_to_end(stream)
        await play.closed()
        assert (visits.open, visits.peak) == ({}, 1)


async def test_an_origin_that_says_nothing_is_cut_by_the_settings_deadline() -> None:
    """LOAD-03: the agent's own setting rules."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with origin_of(silent) as origin, stage(origin, first_byte_timeout=0.05) as play:
        stream = await play.open()
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.DEADLINE
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("deadline", "deadline")


async def test_an_origin_that_comes_back_serves_without_a_restart() -> None:
    """Each visitor dials anew."""
    port = await closed_port()
    async with stage(Origin(Target(host="127.0.0.1", port=port))) as play:
        assert (await read_to_end(await play.open()))[1] is End.FIN
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            stream = await play.open()
            await stream.send_all(b"back")
            assert await stream.receive_some() == b"back"
            nursery.cancel_scope.cancel()


async def test_whoever_waits_for_the_last_visitor_hears_of_it(autojump_clock: trio.testing.MockClock) -> None:
    """Also of one who came meanwhile."""
    visits = Visits()
    await visits.wait_idle()
    visits.enter("a", Counter())

    async def come_and_go() -> None:
        for name in ("b", "c"):
            await trio.sleep(1)
            visits.enter(name, Counter())
        for name in ("a", "c", "b", "b"):
            await trio.sleep(1)
            visits.leave(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        started = trio.current_time()
        await visits.wait_idle()
        assert trio.current_time() - started == pytest.approx(5)
        assert visits.peak == 3
