"""A session over HTTP/2 on one TLS connection: the shared driver (`mux`) with HTTP/2 in it.

The relay is the HTTP/2 client on the connection that the agent opened
(RFC 9113; `wire/PROTOCOL.md`, "HTTP/2").
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import trio

from trunnel.settings import limits
from trunnel.transports.base import Peer
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.h2_frames import FrameType
from trunnel.transports.h2_receive import H2Receiver
from trunnel.transports.mux import MuxSession, open_mux_session
from trunnel.transports.mux_connection import Multiplexer

_PING: Final = b"trunnel\0"


def open_h2_session(
    carrier: trio.abc.HalfCloseableStream,
    role: Role,
    peer: Peer,
    *,
    authority: str = "relay",
    window_max: int = limits.STREAM_WINDOW_MAX,
) -> AbstractAsyncContextManager[MuxSession]:
    """Run an HTTP/2 session over *carrier* for as long as the body runs.  See `mux.open_mux_session`.

    Args:
        carrier: An authenticated byte stream; owned and closed by the session.
        role: `CLIENT` on the relay, `SERVER` on the agent.
        peer: Who is at the other end, as the carrier proved it.
        authority: `:authority` of requests (client).
        window_max: Bytes to which a stream's receive window may grow.
    """
    h2 = H2Connection(role, now=trio.current_time(), authority=authority, window_max=window_max)
    ping = partial(h2.output.frame, FrameType.PING, 0, 0, _PING)
    multiplexer = Multiplexer(name="h2", title="HTTP/2", connection=h2, receiver=H2Receiver(h2), ping=ping)
    return open_mux_session(carrier, multiplexer, peer)
