"""A running relay, with a hand on what is its own: its certificate, its names, its challenges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from OpenSSL import SSL, crypto

from tests.tunnels import PATIENCE, House, house
from trunnel.clock import utc_now
from trunnel.identity.contexts import link_client_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.names import Hostname
from trunnel.relay import server
from trunnel.relay.own import Own, load_own
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2
from trunnel.transports.quic_configuration import QuicCredentials
from trunnel.transports.quic_handshake import dial_quic

QUICK_POLL = 0.02
"""Seconds between looks at files, in real time."""


@asynccontextmanager
async def own_house(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> AsyncIterator[tuple[House, Own]]:
    """Run a relay; files are looked at often."""
    made: list[Own] = []

    def noting(settings: RelaySettings) -> Own:
        made.append(load_own(settings))
        return made[0]

    monkeypatch.setattr(server, "load_own", noting)
    monkeypatch.setattr(limits, "CERTIFICATE_POLL", QUICK_POLL)
    async with house(folder, **options) as home:
        yield home, made[0]


async def shown_on_tcp(port: int) -> x509.Certificate:
    """Return what an agent on TCP is shown now."""
    carrier = await dial_tcp(port)
    with trio.fail_after(PATIENCE):
        shown = carrier.peer_certificates[0]
        await carrier.aclose()
    return shown


async def dial_tcp(port: int) -> TlsStream:
    """Dial as an agent, and shake hands."""
    key = IdentityKey.generate()
    context = link_client_context(key, link_certificate(key, now=utc_now()), alpn=[LINK_ALPN_H2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    return await TlsStream.handshake(stream, context, role=TlsRole.CLIENT, timeout=PATIENCE)


async def shown_on_quic(port: int) -> x509.Certificate:
    """Return what an agent on QUIC is shown now."""
    key = IdentityKey.generate()
    credentials = QuicCredentials(private_key=key.private_key, chain=(link_certificate(key, now=utc_now()),))
    carrier = await dial_quic(("127.0.0.1", port), credentials, server_name=None, timeout=PATIENCE)
    shown = carrier.peer_certificates[0]
    async with carrier.driven():
        carrier.abort("seen")
    return shown


async def visit_own(port: int, name: str, *, root: x509.Certificate | None = None, alpn: bytes = b"") -> TlsStream:
    """Visit a name of the relay's; with *root* its certificate is judged as a browser does."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.clear_mode(0x1)
    if alpn:
        context.set_alpn_protos([alpn])
    if root is not None:
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(root))
        context.set_verify(SSL.VERIFY_PEER, lambda _c, _x, _e, _d, ok: bool(ok))
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    return await TlsStream.handshake(stream, context, role=TlsRole.CLIENT, server_name=Hostname(name), timeout=PATIENCE)
