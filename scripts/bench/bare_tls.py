"""What one TLS connection carries over the same path as trunnel's carriers, without a multiplexer.

    python -m scripts.bench.bare_tls relay                       prints its ports: agents', visitors'
    python -m scripts.bench.bare_tls agent RELAY_PORT ORIGIN_PORT

origin → agent → TLS → relay → visitor: the same processes, TLS streams, socket
options and copying; only, each visitor has a TLS connection of its own, which
the agent holds ready.  So this is the limit that no multiplexer over TLS passes.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import trio

from trunnel.identity.contexts import link_client_context, link_server_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.streams.copy import CopyLimits, copy_streams
from trunnel.streams.sockets import tune_socket
from trunnel.streams.tls import TlsRole, TlsStream

ALPN = [b"bare-tls"]
HOST = "127.0.0.1"
LIMITS = CopyLimits(first_byte=60, idle=60, half_closed=60, first_byte_from="right")
GO = b"\0"
"""Sent by the relay when a visitor has come: the agent then dials the origin."""


async def relay() -> None:
    """Lead visitors to the agent, one at a time."""
    key = IdentityKey.generate()
    context = link_server_context(key, [link_certificate(key, now=datetime.now(UTC))], alpn=ALPN)
    (agents,) = await trio.open_tcp_listeners(0, host=HOST)
    (visitors,) = await trio.open_tcp_listeners(0, host=HOST)
    print(agents.socket.getsockname()[1], visitors.socket.getsockname()[1], flush=True)
    while True:
        raw = await agents.accept()
        tune_socket(raw.socket)
        carrier = await TlsStream.handshake(raw, context, role=TlsRole.SERVER, timeout=10)
        visitor = await visitors.accept()
        tune_socket(visitor.socket)
        await carrier.send_all(GO)
        await copy_streams(visitor, carrier, LIMITS)


async def agent(relay_port: int, origin_port: int) -> None:
    """Lead them on to the origin."""
    key = IdentityKey.generate()
    context = link_client_context(key, link_certificate(key, now=datetime.now(UTC)), alpn=ALPN)
    while True:
        raw = await trio.open_tcp_stream(HOST, relay_port)
        tune_socket(raw.socket)
        carrier = await TlsStream.handshake(raw, context, role=TlsRole.CLIENT, timeout=10)
        if await carrier.receive_some(1) != GO:
            return
        origin = await trio.open_tcp_stream(HOST, origin_port)
        tune_socket(origin.socket)
        await copy_streams(carrier, origin, LIMITS)


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        trio.run(relay)
    else:
        trio.run(agent, int(sys.argv[2]), int(sys.argv[3]))
