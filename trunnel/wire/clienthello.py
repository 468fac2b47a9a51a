"""Read the name out of a TLS ClientHello, without being a TLS server.

The relay routes on a message that somebody else will answer, so the one rule
above all is the *terminator's rule*: a hello routes only if the TLS stack at
the far end would accept its structure and see the same name.  HAProxy, nginx,
Envoy, sslh and Traefik each fell for a hello that they and the terminator read
differently, and then routed to a default; here nothing has a default.

What holds in this file:

* A record is type 22, version major 3, at most 2^14 bytes (RFC 8446 §5.1).
  The handshake message may be spread over records and segments in any way:
  at most `CLIENT_HELLO_RECORDS_MAX` records, at most `EMPTY_RECORDS_MAX` empty
  ones in a row.  Its length is judged from its 4-byte header, before its body
  is kept.
* The verdict falls at the end of the record that completes the message, as in
  a TLS server, or earlier if it is a refusal.  It has fallen, at the latest,
  when `CLIENT_HELLO_RAW_MAX` bytes were fed.
* Each byte is looked at once: there is a cursor and never a second parse, so
  one byte at a time costs the same as all at once and gives the same result.
* What opens with something else than a TLS handshake is NOT_TLS, known from
  its first byte on; what began as TLS and then breaks its rules is MALFORMED.

The fields of the message, and the rule for each extension, are in
`wire/hellofields.py`; what the relay answers in `wire/alert.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, final

from trunnel.errors import RemoteProtocolError
from trunnel.names import Hostname, parse_hostname_untrusted
from trunnel.settings.limits import (
    CLIENT_HELLO_MAX,
    CLIENT_HELLO_RAW_MAX,
    CLIENT_HELLO_RECORDS_MAX,
    EMPTY_RECORDS_MAX,
    TLS_RECORD_MAX,
)
from trunnel.wire.hellofields import parse_fields_untrusted

RECORD_HEADER: Final = 5
"""Bytes ahead of each record: type, version, length (RFC 8446 §5.1)."""
MESSAGE_HEADER: Final = 4
"""Bytes at the head of a handshake message: type, 24-bit length (RFC 8446 §4)."""
HANDSHAKE_RECORD: Final = 22
"""ContentType handshake."""
RECORD_MAJOR: Final = 3
"""First byte of every record version since SSL 3.0."""
CLIENT_HELLO_TYPE: Final = 1
"""HandshakeType client_hello."""


@final
class Verdict(StrEnum):
    """What the bytes so far amount to; the words of `trunnel hello`."""

    NEED_MORE = "need-more"
    """Not decided; the only verdict that is not final."""
    ROUTE = "route"
    """A well-formed hello with a host name."""
    NO_SNI = "no-sni"
    """A well-formed hello that names no server."""
    BAD_NAME = "bad-name"
    """A well-formed hello whose server name is no host name (an IP address, for example)."""
    MALFORMED = "reject-malformed"
    """TLS that breaks a rule of structure."""
    TOO_LARGE = "reject-too-large"
    """A record, message or number of records beyond our limits."""
    NOT_TLS = "not-tls"
    """Not the beginning of a TLS handshake."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """What a complete, well-formed ClientHello says."""

    server_name: Hostname | None
    """The canonical name; set if the verdict is ROUTE."""
    raw_server_name: bytes | None
    """The name as sent (1 to 255 bytes of anything but NUL), None without SNI.  Escape it before printing."""
    alpn: tuple[bytes, ...]
    """Offered application protocols in the client's order (RFC 7301), each 1 to 255 bytes."""
    versions: tuple[int, ...]
    """Offered TLS versions in the client's order, for example 0x0304, without GREASE."""
    message_bytes: int
    """Bytes of the handshake message, its 4-byte header included."""
    records: int
    """TLS records up to the end of the message, empty ones included."""
    raw_bytes: int
    """Bytes of the stream up to the end of the record that completes the message."""


@final
class _Refused(Exception):
    """The verdict is known and it is a refusal."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@final
class ClientHelloParser:
    """Feed a connection's first bytes until the verdict is final.

    Each byte is fed once, in order, in chunks of any size.  Keeps at most
    `CLIENT_HELLO_MAX` bytes, and none once the verdict is final.

    Source: RFC 8446 §4.1.2, §5.1; RFC 6066 §3; RFC 7301 §3.1.
    """

    def __init__(self) -> None:
        self.verdict = Verdict.NEED_MORE
        self.reason = "the ClientHello is incomplete"
        """A sentence for people: why the verdict is what it is."""
        self.hello: ClientHello | None = None
        """Set for ROUTE, NO_SNI and BAD_NAME."""
        self.raw_bytes = 0
        """Bytes read of the stream: up to the byte that decided, once the verdict is final."""
        self._header = bytearray()
        self._records = 0
        self._empty_in_a_row = 0
        self._fragment = 0  # bytes of the current record's body still to come
        self._message = bytearray()
        self._message_bytes = 0  # header included; 0 until the header is complete

    def feed_untrusted(self, chunk: bytes | bytearray | memoryview) -> Verdict:
        """Take the next bytes of the stream.

        Args:
            chunk: Bytes that were not fed before; may be empty.  What follows
                the hello is ignored.

        Returns:
            The verdict so far.  Once it is not NEED_MORE, further bytes change
            nothing.
        """
        view = memoryview(chunk)
        at = 0
        try:
            while at < len(view) and self.verdict is Verdict.NEED_MORE:
                taken = view[at : at + self._stride]
                at += len(taken)
                self.raw_bytes += len(taken)
                if self._fragment:
                    self._take_body(taken)
                else:
                    self._take_header(taken)
        except _Refused as refusal:
            self._decide(refusal.verdict, refusal.reason)
        return self.verdict

    @property
    def needed(self) -> int:
        """Bytes, at least 1, that must still come before the verdict can change."""
        if self._fragment and self._message_missing > self._fragment:
            return self._fragment + RECORD_HEADER
        return self._stride

    @property
    def _message_missing(self) -> int:
        """Bytes until the message, or its header, is complete."""
        return (self._message_bytes or MESSAGE_HEADER) - len(self._message)

    @property
    def _stride(self) -> int:
        """Bytes to the next place where something is checked or stored differently.

        Checks happen at these places only, so a refusal falls on the same byte
        however the stream was cut.
        """
        if not self._fragment:
            goal = RECORD_HEADER if self._records or self._header else 1
            return goal - len(self._header)
        return min(self._fragment, self._message_missing) or self._fragment

    # --- the record layer ---------------------------------------------------------------------

    def _take_header(self, taken: memoryview) -> None:
        self._header += taken
        complete = len(self._header) == RECORD_HEADER
        if self._records and not complete:
            return
        verdict = Verdict.MALFORMED if self._records else Verdict.NOT_TLS
        if self._header[0] != HANDSHAKE_RECORD:
            raise _Refused(verdict, f"record type {self._header[0]} instead of {HANDSHAKE_RECORD} (handshake)")
        if not complete:
            return
        if self._header[1] != RECORD_MAJOR:
            raise _Refused(verdict, f"record version {self._header[1]}.x instead of {RECORD_MAJOR}.x")
        self._begin_record(int.from_bytes(self._header[-2:], "big"))
        self._header.clear()

    def _begin_record(self, length: int) -> None:
        self._records += 1
        self._fragment = length
        self._empty_in_a_row = 0 if length else self._empty_in_a_row + 1
        if length > TLS_RECORD_MAX:
            raise _Refused(Verdict.TOO_LARGE, f"a record of {length} bytes; at most {TLS_RECORD_MAX}")
        if self._records > CLIENT_HELLO_RECORDS_MAX:
            raise _Refused(Verdict.TOO_LARGE, f"more than {CLIENT_HELLO_RECORDS_MAX} records")
        if self._empty_in_a_row > EMPTY_RECORDS_MAX:
            raise _Refused(Verdict.MALFORMED, f"more than {EMPTY_RECORDS_MAX} empty records in a row")
        if self.raw_bytes + length > CLIENT_HELLO_RAW_MAX:
            raise _Refused(Verdict.TOO_LARGE, f"records of more than {CLIENT_HELLO_RAW_MAX} bytes in all")

    # --- the message --------------------------------------------------------------------------

    def _take_body(self, taken: memoryview) -> None:
        self._fragment -= len(taken)
        if self._message_missing:  # else it is the rest of the last record, which is not ours to read
            self._message += taken
        if not self._message_bytes and not self._message_missing:
            self._read_message_header()
        if self._message_bytes and not self._message_missing and not self._fragment:
            self._finish()

    def _read_message_header(self) -> None:
        kind, length = self._message[0], int.from_bytes(self._message[1:], "big")
        if kind != CLIENT_HELLO_TYPE:
            raise _Refused(Verdict.NOT_TLS, f"handshake message {kind} instead of {CLIENT_HELLO_TYPE} (ClientHello)")
        self._message_bytes = MESSAGE_HEADER + length
        if self._message_bytes > CLIENT_HELLO_MAX:
            raise _Refused(
                Verdict.TOO_LARGE, f"a ClientHello of {self._message_bytes} bytes; at most {CLIENT_HELLO_MAX}"
            )

    def _finish(self) -> None:
        try:
            fields = parse_fields_untrusted(bytes(self._message[MESSAGE_HEADER:]))
        except RemoteProtocolError as exc:
            raise _Refused(Verdict.MALFORMED, exc.reason) from exc
        verdict, reason, name = _judge_name(fields.server_name)
        self.hello = ClientHello(
            server_name=name,
            raw_server_name=fields.server_name,
            alpn=fields.alpn,
            versions=fields.versions,
            message_bytes=self._message_bytes,
            records=self._records,
            raw_bytes=self.raw_bytes,
        )
        self._decide(verdict, reason)

    def _decide(self, verdict: Verdict, reason: str) -> None:
        self.verdict = verdict
        self.reason = reason
        self._message = bytearray()


def _judge_name(raw: bytes | None) -> tuple[Verdict, str, Hostname | None]:
    """Turn a server name as sent into verdict, reason and canonical name."""
    if raw is None:
        return Verdict.NO_SNI, "the ClientHello names no server", None
    try:
        return Verdict.ROUTE, "the ClientHello names a server", parse_hostname_untrusted(raw)
    except RemoteProtocolError:
        return Verdict.BAD_NAME, "the server name is not a host name", None
