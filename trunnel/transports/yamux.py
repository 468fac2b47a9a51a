"""A session over yamux on one TLS connection: the shared driver (`mux`) with yamux in it.

The relay is the yamux client on the connection that the agent opened
(`wire/PROTOCOL.md`, "yamux").
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import trio

from trunnel.settings import limits
from trunnel.transports.base import Peer
from trunnel.transports.mux import MuxSession, open_mux_session
from trunnel.transports.mux_connection import Multiplexer
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux import YamuxConnection


def open_yamux_session(
    carrier: trio.abc.HalfCloseableStream,
    role: Role,
    peer: Peer,
    *,
    window_max: int = limits.STREAM_WINDOW_MAX,
    accepting: bool = True,
) -> AbstractAsyncContextManager[MuxSession]:
    """Run a yamux session over *carrier* for as long as the body runs.  See `mux.open_mux_session`.

    Args:
        carrier: An authenticated byte stream; owned and closed by the session.
        role: `CLIENT` on the relay, `SERVER` on the agent.
        peer: Who is at the other end, as the carrier proved it.
        window_max: Bytes to which a stream's receive window may grow.
        accepting: Whether the peer may open streams; agents may not.
    """
    yamux = YamuxConnection(role, now=trio.current_time(), window_max=window_max, accepting=accepting)
    multiplexer = Multiplexer(
        name="yamux", title="yamux", connection=yamux, receiver=yamux, ping=yamux.ping, accepted=yamux.accepted
    )
    return open_mux_session(carrier, multiplexer, peer)
