"""One visitor at the agent: preface, TLS, origin, copy, closing record."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.stage import (
    LOCAL,
    NAME,
    PREFACE,
    VISITOR,
    closed_port,
    echo,
    origin_of,
    origin_that_must_not_be_called,
    stage,
    terminator,
)
from tests.streams.bench import read_to_end
from trunnel.agent.forward import Visits
from trunnel.agent.origin import Origin
from trunnel.errors import ConnectError, ErrorCode
from trunnel.names import Target
from trunnel.settings import limits
from trunnel.streams.copy import End
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

# --- the preface -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preface", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.BAD_PREFACE),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ErrorCode.BAD_PREFACE),
        (PREFACE.replace(b"app.localhost", b"bad.localhost"), ErrorCode.UNKNOWN_ENDPOINT),
        (
            visitor_preface(visitor=VISITOR, local=LOCAL, authority=NAME, alpn=None, stream="s"),
            ErrorCode.UNKNOWN_ENDPOINT,
        ),
    ],
)
async def test_a_stream_that_is_not_for_us_is_reset_with_its_reason(preface: bytes, code: ErrorCode) -> None:
    """And the origin is not dialled for it."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(preface)
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is code
        assert play.events == []


async def test_a_challenge_is_refused_by_who_ends_tls_here() -> None:
    """It is for the origin's certificate, and there is none."""
    challenge = visitor_preface(
        visitor=VISITOR, local=LOCAL, authority=NAME, alpn=None, stream="s", endpoint=NAME, kind=StreamKind.CHALLENGE
    )
    async with stage(origin_that_must_not_be_called, terminator=terminator()) as play:
        stream = await play.open(challenge)
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.REFUSED_STREAM
        assert play.events == []


async def test_a_preface_that_does_not_come_is_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A relay that opens a stream and says nothing holds nothing for long."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(PREFACE[:-1])
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.DEADLINE
        assert trio.current_time() == pytest.approx(limits.PREFACE_TIMEOUT)


async def test_a_preface_that_is_cut_off_is_malformed() -> None:
    """An end within it is not an end."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(PREFACE[:-1])
        await stream.send_eof()
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.BAD_PREFACE


@pytest.mark.parametrize("cut", [1, 15, 16, 17, len(PREFACE) - 1])
async def test_a_preface_may_come_in_pieces_and_no_byte_of_the_visitor_is_lost(cut: int) -> None:
    """The bytes behind it belong to the visitor, wherever the pieces are cut."""
    async with origin_of(echo) as origin, stage(origin) as play:
        stream = await play.open(PREFACE[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(PREFACE[cut:] + b"first bytes")
        await stream.send_eof()
        assert await read_to_end(stream) == (b"first bytes", End.FIN)


@given(preface=st.binary(max_size=200) | st.builds(bytes.__add__, st.just(PREFACE[:40]), st.binary(max_size=200)))
def test_no_preface_makes_the_agent_fail_or_dial(preface: bytes) -> None:
    """SEC-10: arbitrary heads end in a reset; the handler is never called, nothing is raised."""

    async def play_once() -> None:
        async with stage(origin_that_must_not_be_called) as play:
            stream = await play.open(preface)
            await stream.send_eof()
            assert await read_to_end(stream) == (b"", End.RESET)
            assert stream.reset_code in {ErrorCode.BAD_PREFACE, ErrorCode.UNKNOWN_ENDPOINT, ErrorCode.REFUSED_STREAM}

    trio.run(play_once)


# --- canaries ----------------------------------------------------------------------------------------

CANARY = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream="c", kind=StreamKind.CANARY)


@pytest.mark.parametrize("said", [b"", b"token", b"x" * limits.CANARY_BYTES_MAX])
async def test_a_canary_gets_back_what_it_says(said: bytes) -> None:
    """No origin, no TLS, no event, no visitor: only the way to here is examined."""
    visits = Visits()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), visits=visits) as play:
        stream = await play.open(CANARY + said)
        await stream.send_eof()
        assert await read_to_end(stream) == (said, End.FIN)
        assert play.events == []
        assert visits.peak == 0


async def test_a_canary_may_come_in_single_bytes() -> None:
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(b"")
        for octet in CANARY + b"token":
            await stream.send_all(bytes([octet]))
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()
        assert await read_to_end(stream) == (b"token", End.FIN)


async def test_nothing_comes_back_before_a_canary_has_ended() -> None:
    """A token that crossed half of the way proves nothing of the end."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"token")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.unread == 0  # type: ignore[attr-defined]


async def test_a_canary_that_says_too_much_is_reset() -> None:
    """Whether or not it has ended."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"x" * (limits.CANARY_BYTES_MAX + 1))
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.ENHANCE_YOUR_CALM


async def test_a_canary_that_does_not_end_is_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"token")
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.DEADLINE
        assert trio.current_time() == pytest.approx(limits.CANARY_TIMEOUT)


async def test_a_canary_that_is_taken_back_harms_nobody() -> None:
    async with origin_of(echo) as origin, stage(origin) as play:
        canary = await play.open(CANARY + b"tok")
        await trio.testing.wait_all_tasks_blocked()
        canary.reset(ErrorCode.CANCEL)
        stream = await play.open()
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await read_to_end(stream) == (b"hello", End.FIN)


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
