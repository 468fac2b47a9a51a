"""One visitor at the agent, from an accepted preface to the closing record.

    the visitor's TLS       ended (`terminate`), or passed through as it is
    the origin              dialled once the handshake has succeeded: scanners never reach it;
                            down: `badgateway` behind our TLS, a clean end without
    PROXY header            to the origin, if asked for
    bytes                   `plaintext` moves them, with the deadlines of `streams.copy`
    StreamClosed            one event for every visitor; none for visits of our own (`ownvisits`)

Which road the visitor came by is no business of this file: what it is given is
a stream that stands at the visitor's first byte.

The addresses in a PROXY header to the origin are the relay's word.  The origin
must accept that header from the agent's host only: whoever can reach the origin
directly can write one too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, final

import trio

from trunnel.agent.badgateway import answer_for_origin
from trunnel.agent.challenges import Challenges
from trunnel.agent.offload import offload
from trunnel.agent.origin import Origin
from trunnel.agent.ownvisits import OwnVisits, first_bytes
from trunnel.agent.plaintext import Here, Plaintext
from trunnel.agent.terminate import Terminator
from trunnel.agent.visitor import StreamHandler, VisitorInfo, VisitorStream
from trunnel.errors import ConnectError
from trunnel.events import EventSink, StreamClosed, StreamOpened, ignore_events
from trunnel.names import Hostname
from trunnel.pump import Workers
from trunnel.settings import limits
from trunnel.settings.agent import ProxyProtocolVersion
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, End
from trunnel.wire.control import DataPath
from trunnel.wire.proxyprotocol import Preface, ProxyHeader, SslTlv, Tlv, TlvType, encode_v1, encode_v2

logger = logging.getLogger(__name__)

_OVER_TLS: Final = 0x01
"""PP2_CLIENT_SSL: the visitor came over TLS."""
_NO_CERTIFICATE: Final = 1
"""Not zero: the visitor's certificate was not verified, because none was asked for."""


@final
@dataclass(slots=True, eq=False)
class Visits:
    """The visitors who are being served by one road; canaries and refused streams are none."""

    open: dict[str, Counter] = field(default_factory=dict[str, Counter])
    """Live figures by stream id; left is the visitor."""
    peak: int = 0
    """The most at a time since somebody set this back."""
    most: float = math.inf
    """As many as may be open: what was agreed with the relay, and what we can bear."""
    _idle: trio.Event = field(default_factory=trio.Event)

    def enter(self, stream: str, counter: Counter) -> None:
        """Count a visitor who has come."""
        self.open[stream] = counter
        self.peak = max(self.peak, len(self.open))

    def leave(self, stream: str) -> None:
        """Count one who has gone."""
        self.open.pop(stream, None)
        if not self.open:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until nobody is being served.  Cancellation: no effect."""
        while self.open:
            self._idle = trio.Event()
            await self._idle.wait()


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
    """Those of one road of one session."""
    workers: Workers | None = None
    """Who may move bytes between plain sockets."""
    challenges: Challenges = field(default_factory=Challenges)
    """Answers to authorities that validate our names, where TLS ends here."""
    own_visits: OwnVisits = field(default_factory=OwnVisits)
    """Those that are under way."""

    @property
    def deadlines(self) -> CopyLimits:
        """The deadlines of a visitor whose origin was dialled."""
        return CopyLimits(
            first_byte=self.first_byte_timeout,
            idle=self.idle_timeout,
            half_closed=limits.HALF_CLOSED_TIMEOUT,
            first_byte_from="right",
        )


@final
class Visit:
    """One visitor, once it is clear that it is ours."""

    __slots__ = (
        "_counter",
        "_data_path",
        "_forwarding",
        "_hostname",
        "_origin_end",
        "_preface",
        "_read",
        "_stream",
        "_visitor",
        "_visitor_end",
    )

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        preface: Preface,
        hostname: Hostname,
        *,
        data_path: DataPath,
        forwarding: Forwarding,
    ) -> None:
        """Take the visitor at the end of *stream*, of which nothing but *preface* was read; owns it."""
        self._stream = stream
        self._read = b""  # of it
        self._preface = preface
        self._hostname = hostname
        self._data_path = data_path
        self._forwarding = forwarding
        self._visitor = "" if preface.visitor is None else str(preface.visitor)
        self._counter = Counter()
        self._visitor_end = End.CANCELLED
        self._origin_end = End.CANCELLED

    async def run(self) -> None:
        """Serve, and report the end however it comes.

        Raises whatever goes wrong; the caller then aborts the visitor's stream.
        """
        started = trio.current_time()
        visits, name = self._forwarding.visits, self._preface.stream
        visits.enter(name, self._counter)
        a_visitor = True
        try:
            if await self._is_our_own():
                a_visitor = False
                await self._face_ourselves()
                return
            self._forwarding.events(StreamOpened(stream=name, visitor=self._visitor, hostname=self._hostname.value))
            await self._serve()
        finally:
            visits.leave(name)
            if a_visitor:
                self._forwarding.events(self._record(trio.current_time() - started))

    async def _is_our_own(self) -> bool:
        """Whether the agent itself has come as a visitor; no look is taken while none of its visits is under way."""
        forwarding = self._forwarding
        if forwarding.terminator is None or not forwarding.own_visits:
            return False
        head, self._read = await first_bytes(self._stream)
        return forwarding.own_visits.arrived(head)

    async def _face_ourselves(self) -> None:
        """Shake hands as with anybody; a visit of ours ends within that."""
        try:
            visitor = await self._receive()
        except ConnectError:
            return
        await visitor.abandon()
        abort_stream(self._stream)

    def _record(self, seconds: float) -> StreamClosed:
        return StreamClosed(
            stream=self._preface.stream,
            visitor=self._visitor,
            bytes_in=self._counter.left_bytes,
            bytes_out=self._counter.right_bytes,
            seconds=seconds,
            visitor_end=self._visitor_end.value,
            origin_end=self._origin_end.value,
            data_path=self._data_path.value,
            hostname=self._hostname.value,
        )

    async def _serve(self) -> None:
        try:
            visitor = await self._receive()
        except ConnectError as exc:
            self._visitor_end = End.ERROR
            logger.info("visitor_handshake_failed", extra={"stream": self._preface.stream, "reason": str(exc)})
            return
        origin = self._forwarding.origin
        try:
            if isinstance(origin, Origin):
                await self._forward(visitor, origin)
            else:
                await self._call(visitor, origin)
        except BaseException:
            await visitor.abandon()
            raise

    async def _receive(self) -> Plaintext:
        """End the visitor's TLS, or pass it through; raises ConnectError if the handshake fails."""
        stream, forwarding = self._stream, self._forwarding
        if forwarding.terminator is None:
            return Here(stream, workers=forwarding.workers)
        if isinstance(stream, trio.SocketStream) and isinstance(forwarding.origin, Origin):
            offloaded = await offload(stream, forwarding.workers)
            if offloaded is not None:
                return offloaded
        return Here(await forwarding.terminator.handshake(stream, self._read), workers=None)

    # --- a dialled origin -------------------------------------------------------------------------

    async def _forward(self, visitor: Plaintext, origin: Origin) -> None:
        """Join *visitor* to a new connection to *origin*."""
        started = trio.current_time()
        try:
            connection = await origin.connect()
        except ConnectError as exc:
            await self._answer(visitor, str(exc), until=started + origin.connect_timeout)
            return
        if self._forwarding.proxy_protocol is not None:
            await self._introduce(visitor, connection, self._forwarding.proxy_protocol)
        self._visitor_end, self._origin_end = await visitor.carry(connection, self._forwarding.deadlines, self._counter)

    async def _answer(self, visitor: Plaintext, cause: str, *, until: float) -> None:
        """Let the visitor know that the origin is down."""
        self._origin_end = End.ERROR
        sniff_until = max(until, trio.current_time()) + limits.SNIFF_GRACE
        async with visitor.here() as stream:
            if self._forwarding.terminator is None:
                await stream.aclose()  # an end without a byte: there is no way to speak to TLS that is not ours
                return
            self._visitor_end = await answer_for_origin(
                stream, cause=cause, sniff_until=sniff_until, counter=self._counter
            )

    async def _introduce(
        self, visitor: Plaintext, connection: trio.SocketStream, version: ProxyProtocolVersion
    ) -> None:
        """Send the PROXY header to the origin; that it broke meanwhile is for the copy to find."""
        header = self._proxy_header(visitor)
        encoded = encode_v1(header) if version is ProxyProtocolVersion.V1 else encode_v2(header)
        try:
            await connection.send_all(encoded)
        except trio.BrokenResourceError:
            return
        except BaseException:
            abort_stream(connection)
            raise

    def _proxy_header(self, visitor: Plaintext) -> ProxyHeader:
        """Say who the visitor is; v1 leaves the TLVs out."""
        preface = self._preface
        tlvs = [
            Tlv(TlvType.AUTHORITY, self._hostname.value.encode()),
            Tlv(TlvType.UNIQUE_ID, preface.stream.encode()),
        ]
        if visitor.alpn is not None:
            tlvs.append(Tlv(TlvType.ALPN, visitor.alpn))
        if visitor.tls_version is not None:
            version = Tlv(TlvType.SSL_VERSION, visitor.tls_version.encode())
            tlvs.append(SslTlv(client=_OVER_TLS, verify=_NO_CERTIFICATE, fields=(version,)).to_tlv())
        if preface.visitor is None or preface.local is None:
            return ProxyHeader(None, None, tuple(tlvs))
        return ProxyHeader(preface.visitor, preface.local, tuple(tlvs))

    # --- a handler in this program ----------------------------------------------------------------

    async def _call(self, visitor: Plaintext, handler: StreamHandler) -> None:
        """Give *visitor* to *handler*; its deadlines are its own."""
        known = VisitorInfo(
            address=self._preface.visitor,
            hostname=self._hostname,
            alpn=visitor.alpn,
            stream=self._preface.stream,
        )
        async with visitor.here() as stream:
            counted = VisitorStream(stream, self._counter)
            try:
                self._origin_end = End.ERROR
                await handler(counted, known)
                self._origin_end = End.FIN
                with trio.move_on_after(limits.CLOSE_TIMEOUT):
                    await counted.aclose()
            finally:
                self._visitor_end = counted.end or End.CANCELLED
