"""What can be exposed, and what an origin is told: sockets by path, TLS origins, PROXY headers, ALPN, absence."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trustme

from tests.e2e.origins import bound_socket, greet, port_of, serve_stream, serve_web
from tests.e2e.programs import PATIENCE, Agent, Programs
from tests.e2e.visitors import LOOPBACK, curl, get, open_visit, read_to_end, tls_context
from trunnel.wire.proxyprotocol import ProxyHeader, ProxyParser

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes"


async def test_a_unix_socket_is_a_target(programs: Programs, nursery: trio.Nursery, tmp_path: Path) -> None:
    path = tmp_path / "web"
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    await serve_web(nursery, greet, sock)
    agent = await programs.expose(f"unix:{path}", await programs.serve())
    assert await curl(agent.site) == "GET / on 1\n"


async def test_an_origin_that_is_down_is_a_502_page_and_back_without_a_restart(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """The page names the cause; a visitor that does not speak HTTP sees a clean end instead."""
    sock = bound_socket()
    agent = await programs.expose(port_of(sock), await programs.serve())
    show_status = ("--write-out", "%{http_code}")
    page = await curl(agent.site, *show_status)
    assert page.endswith("502")
    assert "refused" in page
    assert (await agent.program.event("origin"))["state"] == "down"

    with trio.fail_after(PATIENCE):
        async with await open_visit(agent.site) as mute:
            await mute.send_all(b"\x00\x01 no HTTP\r\n\r\n")
            assert await read_to_end(mute) == b""

    await serve_web(nursery, greet, sock)
    assert await curl(agent.site, *show_status) == "GET / on 1\n200"
    assert (await agent.program.event("origin"))["state"] == "up"


async def test_tls_is_passed_through_to_an_origin_that_speaks_it(
    programs: Programs, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """The visitor meets the origin's own certificate; neither relay nor agent has its key."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    async def serve_tls(stream: trio.abc.HalfCloseableStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        await tls.receive_some()
        await tls.send_all(ANSWER)
        await tls.aclose()

    agent = await programs.expose(await serve_stream(nursery, serve_tls), await programs.serve(), "--tls-passthrough")
    assert agent.site.certificate == ""
    authority.issue_cert(agent.site.hostname, common_name="the origin").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert await curl(agent.site, "--cacert", tmp_path / "ca.pem") == "yes"


async def receive_header(stream: trio.abc.HalfCloseableStream, parser: ProxyParser) -> tuple[bytes, ProxyHeader]:
    """Read one PROXY header and not a byte more; returns it as bytes and parsed."""
    raw = b""
    header = None
    while header is None:
        chunk = await stream.receive_some(parser.needed)
        assert chunk, "the header was cut off"
        raw += bytes(chunk)
        header = parser.feed_untrusted(chunk)
    return raw, header


@pytest.mark.parametrize("version", [1, 2])
async def test_the_origin_gets_the_visitors_address_in_a_proxy_header(
    programs: Programs, nursery: trio.Nursery, version: int
) -> None:
    """Ahead of the visitor's own bytes; the address is the one that the visitor has at the relay."""
    headers: list[tuple[bytes, ProxyHeader]] = []
    requests: list[bytes] = []

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        headers.append(await receive_header(stream, ProxyParser(versions=(version,))))
        requests.append(bytes(await stream.receive_some()))
        await stream.send_all(ANSWER)

    relay = await programs.serve()
    agent = await programs.expose(await serve_stream(nursery, serve), relay, "--proxy-protocol", f"v{version}")
    async with await open_visit(agent.site, alpn=["http/1.1"]) as visit:
        ours = visit.transport_stream.socket.getsockname()[1]
        await visit.send_all(get(agent.site))
        assert await read_to_end(visit) == ANSWER

    [(raw, header)] = headers
    assert requests == [get(agent.site)]
    assert header.source is not None
    assert (header.source.host, header.source.port) == ("127.0.0.1", ours)
    if version == 1:
        assert re.fullmatch(rb"PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 %d %d\r\n" % (ours, relay.port), raw)
        return
    closed = await agent.program.event("stream_closed")
    assert header.authority == agent.site.hostname
    assert header.alpn == b"http/1.1"
    assert header.unique_id == closed["stream"].encode(), "what the events of both programs call the stream"
    await relay.program.event("stream_closed", stream=closed["stream"])


async def visit_with_alpn(agent: Agent, *offered: str) -> tuple[str | None, bytes]:
    """Send the client preface of HTTP/2; returns the protocol agreed on and what came back."""
    async with await open_visit(agent.site, alpn=offered) as visit:
        await visit.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        return visit.selected_alpn_protocol(), await read_to_end(visit)


async def test_http2_reaches_an_origin_that_takes_it_in_clear(programs: Programs, nursery: trio.Nursery) -> None:
    """`--alpn h2,http/1.1`: agreed on with the visitor, and passed on as it is."""

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"got " + bytes(await stream.receive_some()))

    agent = await programs.expose(await serve_stream(nursery, serve), await programs.serve(), "--alpn", "h2,http/1.1")
    with trio.fail_after(PATIENCE):
        assert await visit_with_alpn(agent, "h2", "http/1.1") == ("h2", b"got PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await visit_with_alpn(agent, "http/1.1"))[0] == "http/1.1"


async def test_a_visitor_that_offers_only_what_is_not_selected_is_told_so(programs: Programs) -> None:
    """By default only http/1.1 is: the handshake ends with no_application_protocol, the origin is not dialled."""
    with bound_socket() as held:
        agent = await programs.expose(port_of(held), await programs.serve())
        with pytest.raises(trio.BrokenResourceError) as caught:
            await open_visit(agent.site, context=tls_context(agent.site, alpn=["h2"]))
        assert "no application protocol" in str(caught.value.__cause__)
        assert not [record for record in agent.program.events if record["event"] == "origin"]


def client_hello(hostname: str) -> bytes:
    """Return the first flight of a TLS client that asks for *hostname*."""
    flight = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), flight, server_hostname=hostname)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return flight.read()


@pytest.mark.parametrize("first", ["visitor", "origin"])
async def test_one_direction_may_end_before_the_other(programs: Programs, nursery: trio.Nursery, first: str) -> None:
    """Half-close, both ways: who has said its last byte still receives (NET-13).

    TLS is passed through, so that the ends seen here are the ends of plain TCP.
    """
    tell_heard, heard = trio.open_memory_channel[bytes](1)

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        if first == "origin":
            await stream.send_all(ANSWER)
            await stream.send_eof()
        await tell_heard.send(await read_to_end(stream))
        if first == "visitor":
            await stream.send_all(ANSWER)

    agent = await programs.expose(await serve_stream(nursery, serve), await programs.serve(), "--tls-passthrough")
    hello = client_hello(agent.site.hostname)
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream(LOOPBACK, agent.site.port) as visit:
            await visit.send_all(hello)
            if first == "visitor":
                await visit.send_eof()
            assert await read_to_end(visit) == ANSWER
            if first == "origin":
                await visit.send_all(b"and more")
                await visit.send_eof()
        assert await heard.receive() == hello + (b"and more" if first == "origin" else b"")
        closed = await agent.program.event("stream_closed")
    assert closed["visitor_end"] == closed["origin_end"] == "fin"
