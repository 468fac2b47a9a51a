"""One visitor's stream at the agent, from its preface to its closing record.

    preface (PROXY v2)      malformed: reset BAD_PREFACE; late: DEADLINE
    canary                  answered here: no origin, no event
    endpoint                not ours: reset UNKNOWN_ENDPOINT; another kind of stream: REFUSED_STREAM
    the visitor's TLS       ended here (`terminate`), or passed through as it is
    the origin              dialled once the handshake has succeeded: scanners never reach it;
                            down: `badgateway` behind our TLS, a clean end without
    PROXY header            to the origin, if asked for
    copy                    `streams.copy` to both ends, with its deadlines
    StreamClosed            one event for every stream whose preface was read

The preface names an endpoint and addresses, never a place to dial (SEC-10).
It is read by exact lengths, so that not a byte of the visitor is read with it.

The addresses in a PROXY header to the origin are the relay's word.  The origin
must accept that header from the agent's host only: whoever can reach the origin
directly can write one too.

`forward_stream` is a task boundary: what goes wrong for one visitor ends that
visitor's stream, is logged here, and never reaches the session.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, final

import trio

from trunnel.agent.badgateway import answer_for_origin
from trunnel.agent.origin import Origin
from trunnel.agent.terminate import Terminator
from trunnel.agent.visitor import StreamHandler, VisitorInfo, VisitorStream
from trunnel.errors import ConnectError, ErrorCode, RemoteProtocolError
from trunnel.events import EventSink, StreamClosed, StreamOpened, ignore_events
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.agent import ProxyProtocolVersion
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, End, copy_streams
from trunnel.streams.tls import TlsStream
from trunnel.transports.base import Stream
from trunnel.wire.proxyprotocol import (
    Preface,
    ProxyHeader,
    ProxyParser,
    SslTlv,
    StreamKind,
    Tlv,
    TlvType,
    encode_v1,
    encode_v2,
    read_preface_untrusted,
)

logger = logging.getLogger(__name__)

_OVER_TLS: Final = 0x01
"""PP2_CLIENT_SSL: the visitor came over TLS."""
_NO_CERTIFICATE: Final = 1
"""Not zero: the visitor's certificate was not verified, because none was asked for."""


@final
@dataclass(slots=True, eq=False)
class Visits:
    """The visitors who are being served; canaries and refused streams are none."""

    open: dict[str, Counter] = field(default_factory=dict[str, Counter])
    """Live figures by stream id; left is the visitor."""
    peak: int = 0
    """The most at a time since somebody set this back."""

    def enter(self, stream: str, counter: Counter) -> None:
        """Count a visitor who has come."""
        self.open[stream] = counter
        self.peak = max(self.peak, len(self.open))

    def leave(self, stream: str) -> None:
        """Count one who has gone."""
        self.open.pop(stream, None)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """What all visitors of one agent have in common; shared by their tasks."""

    endpoints: Container[Hostname]
    """The host names that are ours; the owner may change it while streams are open."""
    origin: Origin | StreamHandler
    """Where visitors are served: dialled, or called."""
    terminator: Terminator | None
    """Ends the visitors' TLS; None passes it through."""
    proxy_protocol: ProxyProtocolVersion | None = None
    """The header that a dialled origin gets ahead of the bytes."""
    first_byte_timeout: float = limits.FIRST_BYTE_TIMEOUT
    """Seconds without a byte while the origin has sent nothing yet."""
    idle_timeout: float = limits.IDLE_TIMEOUT
    """Seconds without a byte afterwards."""
    events: EventSink = ignore_events
    """Told when a stream has closed."""
    visits: Visits = field(default_factory=Visits)
    """Those of one session."""


async def forward_stream(stream: Stream, forwarding: Forwarding) -> None:
    """Serve the visitor on *stream*, which was just accepted; owns it.

    Raises:
        trio.Cancelled: And nothing else; bugs and a handler's exceptions are logged.

    Cancellation: the stream was reset.
    """
    try:
        preface = await _read_preface(stream)
        if preface.kind is StreamKind.CANARY:
            await _answer_canary(stream)
            return
        hostname = _check_preface(preface, forwarding)
        await _Visit(stream, preface, hostname, forwarding).run()
    except RemoteProtocolError as exc:
        logger.warning("stream_refused", extra={"reason": exc.reason, "code": exc.code.name})
        stream.reset(exc.code)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        logger.debug("stream_lost", extra={"reason": str(exc)})
        stream.reset(ErrorCode.CANCEL)
    except Exception:
        logger.exception("stream_failed")
        stream.reset(ErrorCode.INTERNAL_ERROR)
    except BaseException:
        stream.reset(ErrorCode.CANCEL)
        raise


async def _read_preface(stream: Stream) -> Preface:
    """Read the header at the head of *stream* and not a byte more.

    Raises:
        RemoteProtocolError: It is malformed, cut off or late; `code` says which.
        trio.BrokenResourceError: The stream broke before.
    """
    parser = ProxyParser(versions=(2,))
    with trio.move_on_after(limits.PREFACE_TIMEOUT):
        while True:
            chunk = await stream.receive_some(parser.needed)
            if not chunk:
                raise RemoteProtocolError("the stream ended within its preface", code=ErrorCode.BAD_PREFACE)
            header = parser.feed_untrusted(chunk)
            if header is not None:
                return read_preface_untrusted(header)
    raise RemoteProtocolError("the preface did not come in time", code=ErrorCode.DEADLINE)


async def _answer_canary(stream: Stream) -> None:
    """Send back what the relay's canary stream says: it has come as far as a visitor would.

    Raises:
        RemoteProtocolError: It says more than a canary does, or nothing in time.
        trio.BrokenResourceError: The stream broke.
    """
    said = b""
    with trio.move_on_after(limits.CANARY_TIMEOUT):
        while chunk := await stream.receive_some(limits.CANARY_BYTES_MAX + 1):
            said += chunk
            if len(said) > limits.CANARY_BYTES_MAX:
                raise RemoteProtocolError("a canary stream of too many bytes", code=ErrorCode.ENHANCE_YOUR_CALM)
        await stream.send_all(said)
        await stream.aclose()
        return
    raise RemoteProtocolError("the canary stream did not end in time", code=ErrorCode.DEADLINE)


def _check_preface(preface: Preface, forwarding: Forwarding) -> Hostname:
    """Return the endpoint asked for, or raise RemoteProtocolError if it is not for us to serve."""
    passed_through = preface.kind is StreamKind.CHALLENGE and forwarding.terminator is None  # the origin's own affair
    if preface.kind is not StreamKind.VISITOR and not passed_through:
        raise RemoteProtocolError(f"no streams of kind {preface.kind.name} here", code=ErrorCode.REFUSED_STREAM)
    if preface.endpoint is None or preface.endpoint not in forwarding.endpoints:
        raise RemoteProtocolError(f"{preface.endpoint} is not served here", code=ErrorCode.UNKNOWN_ENDPOINT)
    return preface.endpoint


@final
class _Visit:
    """One visitor, once it is clear that it is ours."""

    __slots__ = ("_counter", "_forwarding", "_hostname", "_origin_end", "_preface", "_stream", "_visitor_end")

    def __init__(self, stream: Stream, preface: Preface, hostname: Hostname, forwarding: Forwarding) -> None:
        self._stream = stream
        self._preface = preface
        self._hostname = hostname
        self._forwarding = forwarding
        self._counter = Counter()
        self._visitor_end = End.CANCELLED
        self._origin_end = End.CANCELLED

    async def run(self) -> None:
        """Serve, and report the end however it comes."""
        started = trio.current_time()
        visits, name = self._forwarding.visits, self._preface.stream
        visits.enter(name, self._counter)
        self._forwarding.events(
            StreamOpened(stream=name, visitor=str(self._preface.visitor or ""), hostname=self._hostname.value)
        )
        try:
            await self._serve()
        finally:
            visits.leave(name)
            self._forwarding.events(self._record(trio.current_time() - started))

    def _record(self, seconds: float) -> StreamClosed:
        return StreamClosed(
            stream=self._preface.stream,
            visitor=str(self._preface.visitor or ""),
            bytes_in=self._counter.left_bytes,
            bytes_out=self._counter.right_bytes,
            seconds=seconds,
            visitor_end=self._visitor_end.value,
            origin_end=self._origin_end.value,
            data_path="session",
            hostname=self._hostname.value,
        )

    async def _serve(self) -> None:
        visitor: trio.abc.HalfCloseableStream = self._stream
        if self._forwarding.terminator is not None:
            try:
                visitor = await self._forwarding.terminator.handshake(self._stream)
            except ConnectError as exc:
                self._visitor_end = End.ERROR
                logger.info("visitor_handshake_failed", extra={"stream": self._preface.stream, "reason": str(exc)})
                return
        origin = self._forwarding.origin
        if isinstance(origin, Origin):
            await self._forward(visitor, origin)
        else:
            await self._call(visitor, origin)

    # --- a dialled origin -------------------------------------------------------------------------

    async def _forward(self, visitor: trio.abc.HalfCloseableStream, origin: Origin) -> None:
        """Copy between *visitor* and a new connection to *origin*."""
        started = trio.current_time()
        try:
            connection = await origin.connect()
        except ConnectError as exc:
            await self._answer(visitor, str(exc), until=started + origin.connect_timeout)
            return
        try:
            await self._introduce(visitor, connection)
        except BaseException:
            abort_stream(connection)
            raise
        deadlines = CopyLimits(
            first_byte=self._forwarding.first_byte_timeout,
            idle=self._forwarding.idle_timeout,
            half_closed=limits.HALF_CLOSED_TIMEOUT,
            first_byte_from="right",
        )
        outcome = await copy_streams(visitor, connection, deadlines, counter=self._counter)
        self._visitor_end, self._origin_end = outcome.left_end, outcome.right_end

    async def _answer(self, visitor: trio.abc.HalfCloseableStream, cause: str, *, until: float) -> None:
        """Let the visitor know that the origin is down."""
        self._origin_end = End.ERROR
        if self._forwarding.terminator is None:
            await self._stream.aclose()  # an end without a byte: there is no way to speak to TLS that is not ours
            return
        sniff_until = max(until, trio.current_time()) + limits.SNIFF_GRACE
        self._visitor_end = await answer_for_origin(
            visitor, cause=cause, sniff_until=sniff_until, counter=self._counter
        )

    async def _introduce(self, visitor: trio.abc.HalfCloseableStream, connection: trio.SocketStream) -> None:
        """Send the PROXY header to the origin; that it broke meanwhile is for the copy to find."""
        version = self._forwarding.proxy_protocol
        if version is None:
            return
        header = self._proxy_header(visitor)
        encoded = encode_v1(header) if version is ProxyProtocolVersion.V1 else encode_v2(header)
        try:
            await connection.send_all(encoded)
        except trio.BrokenResourceError:
            return

    def _proxy_header(self, visitor: trio.abc.HalfCloseableStream) -> ProxyHeader:
        """Say who the visitor is; v1 leaves the TLVs out."""
        preface = self._preface
        tlvs = [
            Tlv(TlvType.AUTHORITY, self._hostname.value.encode()),
            Tlv(TlvType.UNIQUE_ID, preface.stream.encode()),
        ]
        if isinstance(visitor, TlsStream):
            if visitor.alpn is not None:
                tlvs.append(Tlv(TlvType.ALPN, visitor.alpn))
            version = Tlv(TlvType.SSL_VERSION, visitor.tls_version.encode())
            tlvs.append(SslTlv(client=_OVER_TLS, verify=_NO_CERTIFICATE, fields=(version,)).to_tlv())
        if preface.visitor is None or preface.local is None:
            return ProxyHeader(None, None, tuple(tlvs))
        return ProxyHeader(preface.visitor, preface.local, tuple(tlvs))

    # --- a handler in this program ----------------------------------------------------------------

    async def _call(self, visitor: trio.abc.HalfCloseableStream, handler: StreamHandler) -> None:
        """Give *visitor* to *handler*; its deadlines are its own."""
        counted = VisitorStream(visitor, self._counter)
        known = VisitorInfo(
            address=self._preface.visitor,
            hostname=self._hostname,
            alpn=visitor.alpn if isinstance(visitor, TlsStream) else None,
            stream=self._preface.stream,
        )
        try:
            self._origin_end = End.ERROR
            await handler(counted, known)
            self._origin_end = End.FIN
            with trio.move_on_after(limits.CLOSE_TIMEOUT):
                await counted.aclose()
        finally:
            self._visitor_end = counted.end or End.CANCELLED
