"""What those are told who are turned away, and how it reaches them.

A TLS client gets a fatal alert in plaintext: it prints the reason although no
handshake took place.  One that speaks HTTP on a TLS port gets a plain 400,
anything else nothing.  Nobody is led to a default tenant.

A socket that is closed with unread bytes sends RST, and RST makes the peer's
kernel throw away what we said just before.  So the last words are sent, then
our FIN, then what the peer had sent is read away, within a time and an amount
that are both bounded; only then the socket is closed (RFC 9112 §9.6 says the
same of HTTP).
"""

from __future__ import annotations

from typing import Final

import trio

from trunnel.settings.limits import CLOSE_TIMEOUT, FAREWELL_DRAIN_MAX
from trunnel.wire.alert import alert_for, plaintext_alert
from trunnel.wire.clienthello import Verdict

_SENTENCE: Final = b"This port speaks TLS: use https:// instead of http://.\n"
HTTP_ON_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n"
    b"\r\n%b" % (len(_SENTENCE), _SENTENCE)
)
"""The answer to HTTP on a TLS port (RFC 9110 §15.5.1)."""
_METHODS: Final = tuple(
    method + b" "
    for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PRI")
)
_CHUNK: Final = 16_384


def speaks_http(head: bytes) -> bool:
    """Return whether *head*, a connection's first bytes, is (the beginning of) an HTTP request.

    Source: RFC 9110 §9, RFC 5789, RFC 9113 §3.4 (`PRI`).
    """
    return bool(head) and any(head.startswith(method) or method.startswith(head) for method in _METHODS)


def farewell_for(verdict: Verdict, head: bytes) -> bytes:
    """Return the last words for *verdict*; empty where there is nothing to say."""
    if verdict is Verdict.NOT_TLS:
        return HTTP_ON_TLS if speaks_http(head) else b""
    alert = alert_for(verdict)
    return b"" if alert is None else plaintext_alert(alert)


async def bid_farewell(stream: trio.SocketStream, words: bytes) -> None:
    """Send *words*, end the connection so that they arrive, and close it.

    Takes at most `CLOSE_TIMEOUT`.  A lost connection is no error: it was to
    be ended anyway.

    Cancellation: the socket is closed.
    """
    left = FAREWELL_DRAIN_MAX
    try:
        with trio.move_on_after(CLOSE_TIMEOUT):
            await stream.send_all(words)
            await stream.send_eof()
            while left > 0 and (chunk := await stream.receive_some(_CHUNK)):
                left -= len(chunk)
    except trio.BrokenResourceError:
        pass
    finally:
        stream.socket.close()
