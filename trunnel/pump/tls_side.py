"""The visitor's side of a stream whose TLS is ended in a worker.

OpenSSL runs on the descriptor (RFC 8446); `streams.tls_peer.Incoming` says what
its errors mean and stops a peer that keeps it busy with control messages.  To
`flow` it is a side like any other: what would block raises BlockingIOError,
whatever else goes wrong is an OSError.

What TLS adds:

- FIN is close_notify (§6.1), sent alone: the other direction goes on, and TCP's
  own FIN follows when everything is over.  A socket that is full at that moment
  is waited for (`sealing`).
- A reader may have to write first (a KeyUpdate is answered): it then waits for
  room, not for bytes (`crossed`).
- A peer that closes without close_notify has cut its bytes off (`is_truncation`).

Why pyOpenSSL and not `ssl`: 1,090 against 690 MB/s on one core (2026-11-21,
Python 3.11, OpenSSL 4.0 against 3.0), and `SSLSocket.unwrap` reads, and
throws away, what the visitor still sends after we have ended: no half-close.
`ssl` could have used kTLS, where a kernel has it.
"""

from __future__ import annotations

import errno
from select import EPOLLOUT
from socket import IPPROTO_TCP, TCP_CORK, socket
from typing import Final, final

from OpenSSL import SSL

from trunnel.identity.shown import ShownLeaves
from trunnel.pump.leaf import decode_leaves
from trunnel.pump.sides import Registry, Side
from trunnel.streams.tls_peer import TRUNCATED, Incoming, explain

_RECORD: Final = 16 * 1024
"""Bytes of plaintext in a TLS record at most (RFC 8446 §5.1)."""


@final
class Leaves:
    """The certificates that a worker shows to the next visitor."""

    def __init__(self) -> None:
        self._shown: ShownLeaves | None = None
        self._alpn: list[bytes] = []
        self._parts = bytearray()

    def take(self, part: bytes, *, is_last: bool) -> None:
        """Take the next part of what `encode_leaves` returned; with the last one, `replace`."""
        self._parts += part
        if is_last:
            encoded, self._parts = bytes(self._parts), bytearray()
            self.replace(encoded)

    def replace(self, encoded: bytes) -> None:
        """Show the leaves of `encode_leaves` from now on; streams that are open keep theirs."""
        leaves, alpn = decode_leaves(encoded)
        if self._shown is None or alpn != self._alpn:
            self._shown, self._alpn = ShownLeaves(leaves, alpn=alpn), alpn
        else:
            self._shown.replace(leaves)

    def side(self, sock: socket, registry: Registry) -> TlsSide | None:
        """Return the visitor's side on *sock*, or None while there is no leaf."""
        return None if self._shown is None else TlsSide(sock, registry, self._shown.context)


@final
class TlsSide(Side):
    """A socket on which we are the server of TLS."""

    __slots__ = ("_incoming", "connection")

    def __init__(self, sock: socket, registry: Registry, context: SSL.Context) -> None:
        """Own *sock*; nothing has been read from it."""
        super().__init__(sock, registry)
        self.connection = SSL.Connection(context, sock)
        self.connection.set_accept_state()
        self._incoming = Incoming(self.connection, tolerate_truncation=False)
        self.receive = self._receive
        self.send = self._send

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            BlockingIOError: The peer's turn; `crossed` if it has to read first.
            OSError: It failed; the text says why.  `has_alerted` tells whether the peer was told.
        """
        self.crossed = False
        try:
            self.connection.do_handshake()
        except SSL.WantReadError as exc:
            raise BlockingIOError from exc
        except SSL.WantWriteError as exc:
            self.crossed = True
            raise BlockingIOError from exc
        except SSL.Error as exc:
            raise _lost(exc) from exc

    @property
    def has_alerted(self) -> bool:
        """Whether we sent an alert."""
        return self._incoming.refused

    def _receive(self, wanted: int) -> bytes:
        self.crossed = False
        try:
            plaintext = self._incoming.read(wanted)
        except SSL.WantReadError as exc:
            raise BlockingIOError from exc
        except SSL.WantWriteError as exc:
            self.crossed = True
            raise BlockingIOError from exc
        self.ahead = self._incoming.has_ended
        if not plaintext and (failure := self._incoming.failure) is not None:
            raise OSError(errno.EPROTO, str(failure)) from failure
        return plaintext

    def _send(self, plaintext: bytes) -> int:
        if len(plaintext) <= _RECORD:
            return self._write(plaintext)
        # Several records: as one stretch of the stream, or each is a segment, and a wake-up, of its own.
        self.sock.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
        try:
            return self._write(plaintext)
        finally:
            self.sock.setsockopt(IPPROTO_TCP, TCP_CORK, 0)

    def _write(self, plaintext: bytes) -> int:
        try:
            return self.connection.send(plaintext)
        except SSL.WantWriteError as exc:
            raise BlockingIOError from exc
        except SSL.Error as exc:  # WantRead, too: there is no handshake after the first
            raise _lost(exc) from exc

    def seal(self) -> None:
        """Send close_notify; what was sent before has left."""
        self.sealing = False
        try:
            self.connection.shutdown()
        except SSL.WantWriteError:
            self.sealing = True
            return
        except SSL.Error:
            return
        self.sealed = True

    def is_truncation(self, error: OSError) -> bool:
        """See `Side`."""
        return str(error.__cause__) == TRUNCATED

    def interest(self) -> int:
        """See `Side`."""
        if self.crossed:
            return EPOLLOUT
        return super().interest() | (EPOLLOUT if self.sealing else 0)


def _lost(exc: SSL.Error) -> OSError:
    ours = explain(exc)
    return ours if isinstance(ours, OSError) else OSError(errno.EPROTO, str(ours))
