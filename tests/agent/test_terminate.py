"""TLS ends at the agent: half-close, truncation, refusals, and the leaf that is shown."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.agent.stage import PREFACE, a_leaf, echo, origin_of, origin_that_must_not_be_called, stage, terminator
from tests.streams.bench import read_to_end
from trunnel.errors import ConnectError
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End

REQUEST = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"


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
    """Renewal without a restart; streams that are open go on."""
    ends = terminator()
    async with origin_of(echo) as origin, stage(origin, terminator=ends) as play:
        before = await play.open_tls()
        ends.replace([a_leaf(1)])
        after = await play.open_tls()
        assert before.peer_certificates == a_leaf().chain
        assert after.peer_certificates == a_leaf(1).chain == ends.leaf.chain
        for visitor in (before, after):
            await visitor.send_all(b"still here")
            assert await visitor.receive_some() == b"still here"
