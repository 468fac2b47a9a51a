"""Visitors on data connections whose TLS a worker ends: served as they are where it ends here."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from tests.agent.offloading import (
    ALPN,
    Offloading,
    agents_end,
    both_ways,
    crew,
    offloading,
    with_workers,
)
from tests.agent.stage import NAME, VISITOR, a_leaf, echo, origin_of
from tests.streams.bench import read_to_end
from tests.tunnels import greet, house, until
from trunnel.agent.exposure import Exposure
from trunnel.agent.origin import Origin
from trunnel.agent.visit import Visits
from trunnel.agent.visitor import VisitorInfo
from trunnel.errors import ConnectError
from trunnel.names import Target
from trunnel.pump import Workers, open_workers
from trunnel.settings.agent import DataChoice, ProxyProtocolVersion
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsStream
from trunnel.wire.proxyprotocol import ProxyHeader, ProxyParser, TlvType

REQUEST = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"
BODY = b"x" * 300_000


# --- served ---------------------------------------------------------------------------------------


@both_ways
async def test_a_visitor_is_served_and_half_close_is_carried_both_ways(way: str) -> None:
    """NET-13: the visitor's close_notify is the origin's FIN, and back; the record says how the visitor came."""
    async with origin_of(echo) as origin, offloading(origin, way) as play:
        visitor = await play.visit(b"h2", *ALPN)
        assert visitor.alpn == ALPN[0]
        assert visitor.peer_certificates == a_leaf().chain
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await visitor.send_all(BODY)
                await visitor.send_eof()

            nursery.start_soon(send)
            assert await read_to_end(visitor) == (BODY, End.FIN)
        await visitor.aclose()
        record = await play.closed()
    assert (record.visitor, record.hostname, record.data_path) == (str(VISITOR), NAME.value, "direct")
    assert (record.visitor_end, record.origin_end) == ("fin", "fin")
    assert (record.bytes_in, record.bytes_out) == (len(BODY), len(BODY))


@with_workers
async def test_a_worker_has_the_stream_and_live_figures_go_on() -> None:
    visits = Visits()
    async with origin_of(echo) as origin, offloading(origin, visits=visits) as play:
        visitor = await play.visit()
        assert play.load == 1
        await visitor.send_all(b"12345")
        assert await visitor.receive_some() == b"12345"
        (counter,) = visits.open.values()
        await until(lambda: counter.figures() == (5, 5))
        await leaves(visitor)
        await play.closed()
        assert (visits.open, play.load) == ({}, 0)


@both_ways
@pytest.mark.parametrize("offered", [(), ALPN], ids=["no ALPN", "ALPN"])
async def test_the_origin_is_told_protocol_and_version_of_the_visitors_tls(
    way: str, offered: tuple[bytes, ...]
) -> None:
    told: list[ProxyHeader] = []

    async def read_header(stream: trio.SocketStream) -> None:
        parser, header = ProxyParser(versions=(2,)), None
        while header is None:
            header = parser.feed_untrusted(await stream.receive_some(parser.needed))
        told.append(header)
        await stream.aclose()

    async with (
        origin_of(read_header) as origin,
        offloading(origin, way, proxy_protocol=ProxyProtocolVersion.V2) as play,
    ):
        visitor = await play.visit(*offered)
        assert await read_to_end(visitor) == (b"", End.FIN)
        visitor.abort()
    (header,) = told
    assert header.source == VISITOR
    assert header.alpn == (offered[0] if offered else None)
    assert header.ssl is not None
    (version,) = header.ssl.fields
    assert (version.kind, version.value) == (TlvType.SSL_VERSION, b"TLSv1.3")


# --- not served -------------------------------------------------------------------------------------


@both_ways
async def test_a_failed_handshake_never_reaches_the_origin(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A visitor that offers only what is not selected reads why; so do the log and the record."""
    caplog.set_level(logging.INFO)
    async with offloading(Origin(Target(port=1)), way) as play:
        with pytest.raises(ConnectError, match="no application protocol"):
            await play.visit(b"smtp")
        record = await play.closed()
    assert (record.visitor_end, record.origin_end, record.data_path) == ("error", "cancelled", "direct")
    (told,) = [entry for entry in caplog.records if entry.message == "visitor_handshake_failed"]
    assert vars(told)["stream"] == record.stream
    assert vars(told)["reason"].startswith("the TLS handshake failed: ")
    assert "origin" not in {event.kind for event in play.events}


@both_ways
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_origin_that_is_down_is_a_page(way: str, method: bytes) -> None:
    async with offloading(None, way) as play:
        visitor = await play.visit(*ALPN)
        await visitor.send_all(REQUEST.replace(b"GET", method))
        answer, end = await read_to_end(visitor)
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert (b"refused" in answer) == (method == b"GET")
        assert end is End.FIN
        await visitor.aclose()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("fin", "error")
    assert (record.bytes_in, record.bytes_out) == (len(REQUEST) + len(method) - 3, len(answer))


@both_ways
async def test_an_origin_that_is_down_is_a_clean_end_for_what_is_not_http(way: str) -> None:
    async with offloading(None, way) as play:
        visitor = await play.visit()
        await visitor.send_all(b"\x00\x01 no HTTP")
        assert await read_to_end(visitor) == (b"", End.FIN)
        await visitor.aclose()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end, record.bytes_out) == ("cancelled", "error", 0)


@both_ways
async def test_a_visitor_that_vanishes_resets_the_origin(way: str) -> None:
    """RFC 8446 §6.1: without close_notify its request may be incomplete."""
    seen: list[tuple[bytes, End]] = []

    async def origin_side(stream: trio.SocketStream) -> None:
        seen.append(await read_to_end(stream))

    async with origin_of(origin_side) as origin, offloading(origin, way) as play:
        visitor = await play.visit()
        await visitor.send_all(REQUEST[:-4])
        await visitor.transport.send_eof()
        record = await play.closed()
        await until(lambda: seen)
    assert seen == [(REQUEST[:-4], End.RESET)]
    assert record.visitor_end == "reset"


@with_workers
async def test_a_handler_is_served_here_and_sees_who_was_cut_off() -> None:
    """Between processes there are only socket pairs, and those know no abort."""
    seen: list[tuple[bytes, End]] = []

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        assert visitor.alpn == ALPN[0]
        assert play.load == 0
        seen.append(await read_to_end(stream))

    async with offloading(handler) as play:
        well = await play.visit(*ALPN)
        await well.send_all(b"half")
        await well.send_eof()
        assert await read_to_end(well) == (b"", End.FIN)
        cut = await play.visit(*ALPN)
        await cut.send_all(b"half")
        await cut.transport.send_eof()
        await until(lambda: len(seen) == 2)
    assert seen == [(b"half", End.FIN), (b"half", End.RESET)]


# --- no worker ----------------------------------------------------------------------------------------


async def leaves(visitor: TlsStream) -> None:
    """End in order."""
    await visitor.send_eof()
    assert await read_to_end(visitor) == (b"", End.FIN)
    await visitor.aclose()


async def is_served_here(play: Offloading) -> None:
    """A visitor comes, and no worker has anything to do with it."""
    visitor = await play.visit(*ALPN)
    assert visitor.peer_certificates == a_leaf().chain
    assert play.load == 0
    await visitor.send_all(b"hello")
    assert await visitor.receive_some() == b"hello"
    await leaves(visitor)


async def test_without_a_worker_tls_is_ended_here() -> None:
    async with origin_of(echo) as origin, open_workers(0, ends_tls=True) as none, agents_end(origin, none) as play:
        await is_served_here(play)


@with_workers
async def test_before_the_first_worker_is_hired_tls_is_ended_here() -> None:
    async with (
        origin_of(echo) as origin,
        open_workers(1, ends_tls=True, wait=False) as workers,
        agents_end(origin, workers) as play,
    ):
        assert workers.employed == ()
        await is_served_here(play)


@with_workers
async def test_a_worker_that_has_no_leaf_yet_is_not_asked() -> None:
    async with (
        origin_of(echo) as origin,
        open_workers(1, ends_tls=True) as workers,
        agents_end(origin, workers) as play,
    ):
        await is_served_here(play)


@with_workers
async def test_while_a_dead_worker_is_replaced_tls_is_ended_here() -> None:
    async with origin_of(echo) as origin, crew() as workers:
        assert workers is not None
        async with agents_end(origin, workers) as play:
            (worker,) = workers.employed
            worker.process.kill()
            await until(lambda: worker.dead)
            await is_served_here(play)
            await until(lambda: workers.employed)
            visitor = await play.visit()
            assert play.load == 1
            await leaves(visitor)


@with_workers
@pytest.mark.parametrize("why", ["in the session only", "a handler"])
async def test_who_has_no_use_for_workers_starts_none(why: str, tmp_path: Path) -> None:
    async with origin_of(echo) as origin, house(tmp_path) as home:
        if why == "a handler":
            agent, _ = await home.expose(greet)
        else:
            agent, _ = await home.expose(origin.target, data=DataChoice.SESSION)
        other, _ = await home.expose(origin.target, "another")
        await until(lambda: workers_of(other).employed)
        assert workers_of(agent).employed == ()


def workers_of(agent: Exposure) -> Workers:
    """Return the workers of the first endpoint."""
    assert agent.first._served.workers is not None
    return agent.first._served.workers
