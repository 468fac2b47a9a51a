"""The PROXY header to the origin, ahead of the visitor's bytes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.agent.stage import LOCAL, NAME, VISITOR, origin_of, stage, terminator
from tests.streams.bench import read_to_end
from trunnel.settings.agent import ProxyProtocolVersion
from trunnel.wire.proxyprotocol import ProxyParser, TlvType, visitor_preface


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
