"""HTTP CONNECT, the client: ask an HTTP proxy for a tunnel.  Sans-IO.

The request is complete from the start (Basic credentials are sent unasked:
one round trip).  Of the answer only the status line counts, and for a 407 the
schemes that the proxy offers, for the message.  Content-Length and
Transfer-Encoding of a 2xx are ignored: the tunnel begins behind the head (RFC
9110 §9.3.6).  Interim answers (1xx) are skipped (§15.2).

*Never a byte too much*: `needed` is the least number of bytes that can end
the head after what is there, so that whoever reads no more than that cannot
read into the tunnel.  It is 1 or 2, since a line may end in LF alone (RFC
9112 §2.2); a head has a few hundred bytes, once a connection.

What is not HTTP/1 is refused at its first odd byte, and `VIA_HEAD_MAX` bounds
all answers together.

Source: RFC 9110 §9.3.6, RFC 9112 §3.2.3 and §4, RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import re
from http import HTTPStatus
from typing import Final, final

from trunnel.errors import RemoteProtocolError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import Credentials
from trunnel.wire.hop import Refusal

_BEGINNING: Final = b"HTTP/1."
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_OPEN_LINE: Final = re.compile(rb"\n\r?\Z")
"""The end of bytes after which one LF ends the head."""
_HEAD_END_MAX: Final = 3
"""Bytes of the longest end of a head as the pattern sees it."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: (.*))?")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_SCHEME: Final = re.compile(rb"proxy-authenticate:[ \t]*([A-Za-z0-9-]{1,20})(?=[ \t,]|\Z)", re.IGNORECASE)


@final
class ConnectClient:
    """One request to be connected to a server; see `wire.hop` for how to drive it."""

    __slots__ = ("_buffer", "_credentials", "_is_over", "_looked_at", "_server", "_used", "refusal")

    def __init__(self, server: ServerAddress, *, credentials: Credentials | None = None) -> None:
        """Prepare to ask for *server*; a host name is left to the proxy to look up."""
        self._server = server
        self._credentials = credentials
        self._buffer = bytearray()
        self._looked_at = 0
        """Bytes of the buffer in which no head ends."""
        self._used = 0
        """Bytes of the interim answers before."""
        self._is_over = False
        self.refusal: Refusal | None = None

    @property
    def needed(self) -> int:
        """Bytes that may be read without reading behind the head; 0 when it is over."""
        if self._is_over:
            return 0
        return 1 if _OPEN_LINE.search(self._buffer, max(0, len(self._buffer) - _HEAD_END_MAX)) else 2

    @property
    def leftover(self) -> bytes:
        """Bytes that were given and lie behind the proxy's answer."""
        return bytes(self._buffer) if self._is_over else b""

    def start(self) -> bytes:
        """Return the request (RFC 9110 §9.3.6), with credentials if there are any (RFC 7617 §2)."""
        host, percent, _ = self._server.host.partition("%")  # a scope is the name of an interface of ours
        authority = str(ServerAddress(host, self._server.port) if percent else self._server)
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "User-Agent: trunnel"]
        if self._credentials is not None:
            pair = f"{self._credentials.user}:{self._credentials.password}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode('ascii')}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def feed_untrusted(self, chunk: bytes) -> bytes:
        """Take bytes of the proxy; there is never anything to send next.

        Raises:
            RemoteProtocolError: They are not the answer of an HTTP/1 proxy.
        """
        self._buffer += chunk
        while not self._is_over and (head := self._next_head_untrusted()) is not None:
            self._take_untrusted(head)
        return b""

    def _next_head_untrusted(self) -> bytes | None:
        """Cut the next head off the buffer; None if it is not complete."""
        beginning = bytes(self._buffer[: len(_BEGINNING)])
        if not _BEGINNING.startswith(beginning):
            raise RemoteProtocolError("it does not speak HTTP/1")
        found = _HEAD_END.search(self._buffer, self._looked_at)
        end = found.end() if found else len(self._buffer)
        if self._used + end > limits.VIA_HEAD_MAX:
            raise RemoteProtocolError(f"its answer is longer than {limits.VIA_HEAD_MAX} bytes")
        if not found:
            self._looked_at = max(0, end - _HEAD_END_MAX)
            return None
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._used += end
        self._looked_at = 0
        return head

    def _take_untrusted(self, head: bytes) -> None:
        """Judge one head."""
        lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
        status_line = _STATUS_LINE.fullmatch(lines[0])
        if status_line is None:
            raise RemoteProtocolError("its status line is not one of HTTP/1")
        status = int(status_line[1])
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise RemoteProtocolError("it switched to another protocol, which nobody asked for")
        if status < HTTPStatus.OK:
            return
        self._is_over = True
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            reason = " ".join(filter(None, (str(status), _printable(status_line[2] or b""))))
            if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                reason += f" ({self._missing(lines[1:])})"
            self.refusal = Refusal(reason=reason, beyond=status >= HTTPStatus.INTERNAL_SERVER_ERROR)

    def _missing(self, fields: list[bytes]) -> str:
        """Say what a 407 means for the person: no, wrong or unsuitable credentials."""
        found = (_SCHEME.match(field) for field in fields)
        schemes = list(dict.fromkeys(scheme[1].decode("ascii") for scheme in found if scheme))
        if schemes and "basic" not in (scheme.lower() for scheme in schemes):
            return f"it takes {', '.join(schemes[: limits.VIA_SCHEMES_MAX])}, but only Basic is spoken here"
        if self._credentials is None:
            return "it wants a user and a password: http://USER:PASSWORD@HOST:PORT"
        return "user or password are wrong"


def _printable(phrase: bytes) -> str:
    """Return a reason phrase as it may be shown: ASCII, short."""
    return _UNPRINTABLE.sub("?", phrase.decode("latin-1").strip())[: limits.VIA_REASON_MAX]
