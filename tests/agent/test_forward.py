"""One visitor at the agent: preface, TLS, origin, copy, closing record."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.stage import LOCAL, NAME, PREFACE, VISITOR, a_leaf, closed_port, echo, origin_of, stage, terminator
from tests.streams.bench import read_to_end
from trunnel.agent.origin import Origin
from trunnel.agent.visitor import VisitorInfo
from trunnel.errors import ConnectError, ErrorCode
from trunnel.names import Target
from trunnel.settings import limits
from trunnel.settings.agent import ProxyProtocolVersion
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.wire.proxyprotocol import ProxyParser, StreamKind, TlvType, visitor_preface

REQUEST = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"


# --- the preface ------------------------------------------------------------------------------


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
        (
            visitor_preface(
                visitor=VISITOR,
                local=LOCAL,
                authority=NAME,
                alpn=None,
                stream="s",
                endpoint=NAME,
                kind=StreamKind.CHALLENGE,
            ),
            ErrorCode.REFUSED_STREAM,
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


async def origin_that_must_not_be_called(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
    pytest.fail("the origin was reached")


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


# --- passing TLS through ----------------------------------------------------------------------


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


async def test_passed_through_an_origin_that_is_down_is_a_reset() -> None:
    """There is no one whose language we could speak."""
    async with stage(None) as play:
        stream = await play.open()
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.ORIGIN_UNREACHABLE
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


# --- TLS ends here ----------------------------------------------------------------------------


async def test_tls_ends_here_and_half_close_is_carried_both_ways() -> None:
    """NET-13: the visitor's close_notify is the origin's FIN, and back."""
    async with origin_of(echo) as origin, stage(origin, terminator=terminator()) as play:
        visitor = await play.open_tls(b"h2", b"http/1.1")
        assert visitor.alpn == b"http/1.1"
        assert visitor.peer_certificates == a_leaf().chain
        await visitor.send_all(b"x" * 100_000)
        await visitor.send_eof()
        assert await read_to_end(visitor) == (b"x" * 100_000, End.FIN)
        await visitor.aclose()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("fin", "fin")
    assert (record.bytes_in, record.bytes_out) == (100_000, 100_000)


async def test_a_failed_handshake_never_reaches_the_origin() -> None:
    """A visitor that offers only what is not selected gets the alert for it, and the stream ends."""
    async with stage(origin_that_must_not_be_called, terminator=terminator()) as play:
        with pytest.raises(ConnectError, match="application protocol"):
            await play.open_tls(b"smtp")
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("error", "cancelled")


async def test_no_tls_at_all_ends_the_stream() -> None:
    """Garbage instead of a ClientHello."""
    async with stage(origin_that_must_not_be_called, terminator=terminator()) as play:
        stream = await play.open(PREFACE + b"\x16\x03\x01\x00\x05garbage")
        answer, end = await read_to_end(stream)
        assert answer[:1] in {b"", b"\x15"}  # an alert at most
        assert end is End.FIN
        await stream.aclose()
        await play.closed()


async def test_a_visitor_cut_off_without_close_notify_resets_the_origin() -> None:
    """RFC 8446 §6.1: its request may be incomplete."""
    seen: list[tuple[bytes, End]] = []

    async def origin_side(stream: trio.SocketStream) -> None:
        seen.append(await read_to_end(stream))

    async with origin_of(origin_side) as origin, stage(origin, terminator=terminator()) as play:
        visitor = await play.open_tls()
        await visitor.send_all(REQUEST[:-4])
        await visitor.transport.send_eof()
        record = await play.closed()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert seen == [(REQUEST[:-4], End.RESET)]
    assert record.visitor_end == "reset"


async def test_a_visitor_that_just_closes_after_the_whole_answer_is_no_failure() -> None:
    """Many HTTP clients never send close_notify."""

    async def origin_side(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhello")

    async with origin_of(origin_side) as origin, stage(origin, terminator=terminator()) as play:
        visitor = await play.open_tls()
        await visitor.send_all(REQUEST)
        assert await read_to_end(visitor) == (b"HTTP/1.0 200 OK\r\n\r\nhello", End.FIN)
        await visitor.transport.send_eof()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("fin", "fin")


async def test_an_origin_that_resets_cuts_the_visitor_off_without_close_notify() -> None:
    """What the origin sent arrives; the end that it did not send does not."""

    async def origin_side(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhel")
        await trio.testing.wait_all_tasks_blocked(0.02)
        abort_stream(stream)

    async with origin_of(origin_side) as origin, stage(origin, terminator=terminator()) as play:
        visitor = await play.open_tls()
        await visitor.send_all(REQUEST)
        assert await read_to_end(visitor) == (b"HTTP/1.0 200 OK\r\n\r\nhel", End.RESET)
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("cancelled", "reset")


async def test_a_new_leaf_is_shown_from_the_next_visitor_on() -> None:
    """Streams that are open keep theirs."""
    ends = terminator()
    before = ends.leaf
    ends.replace_leaf(before)
    assert ends.leaf is before


# --- PROXY protocol to the origin -------------------------------------------------------------


@pytest.mark.parametrize("version", list(ProxyProtocolVersion))
@pytest.mark.parametrize("through", [True, False])
async def test_the_origin_gets_the_visitors_address_first(version: ProxyProtocolVersion, *, through: bool) -> None:
    """v1 has the addresses; v2 also the name, the stream's id, and the TLS that ended here."""
    heads: list[bytes] = []

    async def origin_side(stream: trio.SocketStream) -> None:
        heads.append((await read_to_end(stream))[0])
        await stream.aclose()

    ends = None if through else terminator()
    async with origin_of(origin_side) as origin, stage(origin, terminator=ends, proxy_protocol=version) as play:
        visitor = await play.open() if through else await play.open_tls(b"http/1.1")
        await visitor.send_all(b"payload")
        await visitor.send_eof()
        await read_to_end(visitor)
        await visitor.aclose()
        record = await play.closed()
    parser = ProxyParser(versions=(1,) if version is ProxyProtocolVersion.V1 else (2,))
    header = parser.feed_untrusted(heads[0])
    assert header is not None
    assert (header.source, header.destination, parser.leftover) == (VISITOR, LOCAL, b"payload")
    assert record.bytes_in == len(b"payload")
    if version is ProxyProtocolVersion.V2:
        assert (header.authority, header.unique_id) == (NAME.value, b"stream-1")
        assert header.alpn == (None if through else b"http/1.1")
        assert (header.ssl is None) is through
        if header.ssl is not None:
            assert (header.ssl.client, header.ssl.verified) == (1, False)
            assert header.ssl.fields[0].kind == TlvType.SSL_VERSION
            assert header.ssl.fields[0].value == b"TLSv1.3"


@pytest.mark.parametrize("version", list(ProxyProtocolVersion))
async def test_a_visitor_without_an_address_is_introduced_as_unknown(version: ProxyProtocolVersion) -> None:
    """A header comes all the same: the origin waits for one."""
    heads: list[bytes] = []

    async def origin_side(stream: trio.SocketStream) -> None:
        heads.append((await read_to_end(stream))[0])
        await stream.aclose()

    preface = visitor_preface(visitor=None, local=None, authority=NAME, alpn=None, stream="s", endpoint=NAME)
    async with origin_of(origin_side) as origin, stage(origin, proxy_protocol=version) as play:
        visitor = await play.open(preface)
        await visitor.send_eof()
        await read_to_end(visitor)
    header = ProxyParser().feed_untrusted(heads[0])
    assert header is not None
    assert header.source is None


# --- a handler in this program ----------------------------------------------------------------


async def test_a_handler_serves_visitors_without_a_socket() -> None:
    """It gets plaintext, the visitor's address, and the names."""
    known: list[VisitorInfo] = []

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        known.append(visitor)
        while chunk := await stream.receive_some():
            await stream.send_all(bytes(chunk).upper())

    async with stage(handler, terminator=terminator()) as play:
        visitor = await play.open_tls(b"http/1.1")
        await visitor.send_all(b"hello")
        await visitor.send_eof()
        assert await read_to_end(visitor) == (b"HELLO", End.FIN)
        record = await play.closed()
    assert known == [VisitorInfo(address=VISITOR, hostname=NAME, alpn=b"http/1.1", stream="stream-1")]
    assert (record.bytes_in, record.bytes_out, record.visitor_end, record.origin_end) == (5, 5, "fin", "fin")


async def test_a_handler_that_raises_ends_its_visitor_only(caplog: pytest.LogCaptureFixture) -> None:
    """Logged with its traceback; the next visitor is served."""

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        if await stream.receive_some() == b"fail":
            raise ZeroDivisionError("a bug of the handler")
        await stream.send_all(b"fine")

    async with stage(handler) as play:
        bad, good = await play.open(), await play.open()
        await bad.send_all(b"fail")
        assert await read_to_end(bad) == (b"", End.RESET)
        assert bad.reset_code is ErrorCode.INTERNAL_ERROR
        await good.send_all(b"work")
        assert await read_to_end(good) == (b"fine", End.FIN)
    (logged,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert logged.exc_info[0] is ZeroDivisionError


async def test_a_handler_may_meet_a_visitor_that_vanishes() -> None:
    """The broken stream leaves the handler quietly; the record tells who broke."""

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        await stream.receive_some()
        await stream.receive_some()

    async with stage(handler) as play:
        stream = await play.open(PREFACE + b"x")
        await trio.testing.wait_all_tasks_blocked()
        stream.reset(ErrorCode.PEER_ABORTED)
        record = await play.closed()
    assert (record.bytes_in, record.visitor_end, record.origin_end) == (1, "reset", "error")


# --- cancellation, live figures ---------------------------------------------------------------


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
    counters: dict[str, object] = {}
    async with origin_of(echo) as origin, stage(origin, counters=counters) as play:
        stream = await play.open()
        await stream.send_all(b"12345")
        assert await stream.receive_some() == b"12345"
        (counter,) = counters.values()
        assert (counter.left_bytes, counter.right_bytes) == (5, 5)  # type: ignore[attr-defined]
        await stream.send_eof()
        await read_to_end(stream)
        await play.closed()
        assert counters == {}


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
        assert (await read_to_end(await play.open()))[1] is End.RESET
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            stream = await play.open()
            await stream.send_all(b"back")
            assert await stream.receive_some() == b"back"
            nursery.cancel_scope.cancel()
