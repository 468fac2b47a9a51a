"""What OpenSSL tells about the peer, in our words: errors, certificates, floods.

OpenSSL is not touched here beyond asking; `trunnel.streams.tls` decides what
follows.  Everything here takes what a stranger caused: the functions raise
`RemoteProtocolError` only.

A peer may make us work without sending a byte of payload: KeyUpdate (RFC 8446
§4.6.3), refused renegotiation, warnings.  `Incoming` counts them in OpenSSL's
info callback; past the limit OpenSSL is told that the peer has finished, which
ends the running call at once.  A reader that looked only between calls would
decrypt a whole receive buffer of them first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, final

from cryptography import x509
from OpenSSL import SSL

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits

TRUNCATED: Final = "the peer closed the connection without close_notify"
_UNEXPECTED_EOF: Final = -1
"""The number in `SSL.SysCallError` for an end of file without close_notify."""


@final
class Incoming:
    """What came from the peer, and how it ended: decided once, told at every later read."""

    __slots__ = (
        "_connection",
        "_control",
        "_established",
        "_finished",
        "_flooded",
        "_tolerate_truncation",
        "failure",
        "refused",
        "truncated",
    )

    def __init__(self, connection: SSL.Connection, *, tolerate_truncation: bool) -> None:
        self._connection = connection
        self._control = 0
        self._established = False
        self._finished = False
        self._flooded = False
        self._tolerate_truncation = tolerate_truncation
        self.failure: RemoteProtocolError | OSError | None = None
        """Why nothing can be read any more."""
        self.truncated = False
        """The peer's bytes ended without its close_notify."""
        self.refused = False
        """We sent an alert: the peer should be given time to read it."""
        connection.set_info_callback(self._note)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be read."""
        return self._finished or self.failure is not None

    def read(self, wanted: int) -> bytes:
        """Decrypt the records that are there, at most `TLS_RECORDS_PER_READ`.

        Returns:
            1 to *wanted* bytes; b"" if the peer has finished, or if `failure` is set.

        Raises:
            SSL.WantReadError, SSL.WantWriteError: Nothing is there yet.
        """
        if self.has_ended:
            return b""
        records: list[bytes] = []
        try:
            for _ in range(limits.TLS_RECORDS_PER_READ):
                record = self._connection.recv(min(wanted, limits.TLS_RECORD_MAX))
                records.append(record)
                wanted -= len(record)
                if not wanted:
                    break
        except (SSL.WantReadError, SSL.WantWriteError):
            if not records:
                raise
        except SSL.Error as exc:
            self._end(exc)
        if records:
            self._control = 0
        return b"".join(records)

    def discard(self) -> None:
        """Read away what has come, before a goodbye.

        A socket that is closed with bytes unread (a server's tickets are
        always there) sends RST, and the peer loses what was on its way to it.
        """
        with contextlib.suppress(SSL.WantReadError, SSL.WantWriteError):
            for _ in range(limits.TLS_RECORDS_PER_READ):
                if not self.read(limits.TLS_READ):
                    break

    def _end(self, exc: SSL.Error) -> None:
        if self._flooded:
            reason = "TLS: the peer sends control messages without end"
            self.failure = RemoteProtocolError(reason, code=ErrorCode.ENHANCE_YOUR_CALM)
        elif isinstance(exc, SSL.ZeroReturnError):
            self._finished = True
        else:
            failure = explain(exc)
            self.truncated = str(failure) == TRUNCATED
            if self.truncated and self._tolerate_truncation:
                self._finished = True
            else:
                self.failure = failure

    def _note(self, connection: SSL.Connection, where: int, _value: int) -> None:
        """Take OpenSSL's word of what it does; runs inside OpenSSL and must not raise."""
        if where & SSL.SSL_CB_HANDSHAKE_DONE:
            self._established = True
            return
        if where & SSL.SSL_CB_ALERT and where & SSL.SSL_CB_WRITE:
            self.refused = True
        if self._established and where & (SSL.SSL_CB_LOOP | SSL.SSL_CB_ALERT):
            self._control += 1
            if self._control > limits.TLS_CONTROL_MAX:
                self._flooded = True
                connection.set_shutdown(connection.get_shutdown() | SSL.RECEIVED_SHUTDOWN)


def explain(exc: SSL.Error) -> RemoteProtocolError | OSError:
    """Return in our words, caused by *exc*, what OpenSSL reports.

    After a reset it reports anything: a number, an empty list, a list without
    a reason.  What has no reason of TLS's is a lost connection.
    """
    ours = _in_our_words(exc)
    ours.__cause__ = exc
    return ours


def _in_our_words(exc: SSL.Error) -> RemoteProtocolError | OSError:
    match exc.args:
        case (int(number), *_):
            if number == _UNEXPECTED_EOF:
                return RemoteProtocolError(TRUNCATED)
            return OSError(number, os.strerror(number))
        case ([*_, (_, _, str(reason))], *_) if reason:
            return RemoteProtocolError(f"TLS: {reason}")
        case _:
            return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def certificates_of(connection: SSL.Connection) -> tuple[x509.Certificate, ...]:
    """Return the peer's certificates, leaf first; OpenSSL leaves the leaf out of a client's chain.

    Raises:
        RemoteProtocolError: One of them is not a certificate by RFC 5280.
    """
    try:
        leaf = connection.get_peer_certificate(as_cryptography=True)
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    except (ValueError, x509.InvalidVersion) as exc:  # InvalidVersion is no ValueError
        raise RemoteProtocolError(f"the peer's certificate cannot be read: {exc}") from exc
    if leaf is None:
        return ()
    return tuple(chain) if chain[:1] == [leaf] else (leaf, *chain)
