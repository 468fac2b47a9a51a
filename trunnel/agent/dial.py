"""From a relay's address to an authenticated carrier.

    addresses of the name (`resolve`), all of them (RFC 8305), or the way out (`via`)
      → TLS 1.3 on TCP, or QUIC, with the agent's key
      → is this the relay it should be (`identity.trust`)?   before a byte of ours goes out
      → `Carrier`, which `open_carrier` turns into a session

A data connection (`dial_direct`) goes where the last carrier went: another
address of the same name may be another relay.  There is no TLS on it; which
session it is for is proved on it (`transports.direct`).

aioquic is imported when QUIC is dialled: a lean agent starts without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio
from cryptography import x509
from OpenSSL import SSL

from trunnel.agent.eyeballs import Place, connect_any, connect_one, first_of
from trunnel.agent.resolve import Resolver
from trunnel.agent.via import connect_via
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, InvalidName
from trunnel.identity.chains import PeerChain
from trunnel.identity.contexts import link_client_context
from trunnel.identity.keys import IdentityKey
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustDecision, TrustPolicy, verify_relay
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import ViaAddress
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2, LINK_ALPN_YAMUX
from trunnel.transports.base import Peer, Session
from trunnel.transports.direct import DirectLink, DirectTerms, prove
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.transports.selection import TransportKind
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire.proxyprotocol import Address

if TYPE_CHECKING:
    from trunnel.transports.quic_handshake import QuicCarrier

T = TypeVar("T")

_ALPN: Final = {TransportKind.H2: LINK_ALPN_H2, TransportKind.YAMUX: LINK_ALPN_YAMUX}


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Carrier:
    """A connection to a relay that is who it should be."""

    transport: TransportKind
    """What it speaks."""
    connection: TlsStream | QuicCarrier
    """The connection; nothing has been sent on it."""
    trust: TrustDecision
    """Why the relay was accepted."""
    address: str
    """Where it was reached, `HOST:PORT`."""

    def abort(self) -> None:
        """Close the connection; for one that is not opened as a session."""
        self.connection.abort()


@asynccontextmanager
async def open_carrier(carrier: Carrier, *, window_max: int) -> AsyncIterator[Session]:
    """Run the session of *carrier* for as long as the body runs; owns the connection."""
    peer = Peer(key_id=carrier.trust.relay_id, address=carrier.address)
    connection = carrier.connection
    if not isinstance(connection, TlsStream):
        from trunnel.transports.quic import open_quic_session

        async with open_quic_session(connection, peer) as session:
            yield session
    elif carrier.transport is TransportKind.YAMUX:
        async with open_yamux_session(connection, Role.SERVER, peer, window_max=window_max) as session:
            yield session
    else:
        async with open_h2_session(connection, Role.SERVER, peer, window_max=window_max) as session:
            yield session


@final
class Dialler:
    """What every attempt to reach one relay has in common."""

    def __init__(  # noqa: PLR0913 - what a dial depends on, each by its name
        self,
        server: ServerAddress,
        *,
        key: IdentityKey,
        certificate: x509.Certificate,
        policy: TrustPolicy,
        known: KnownRelays,
        resolver: Resolver,
        via: ViaAddress | None = None,
        window_max: int = limits.STREAM_WINDOW_MAX,
    ) -> None:
        self.server = server
        self.via = via
        """The way out, if the relay cannot be reached directly."""
        self.last_address: str | None = None
        """The relay's IP address, as dialled last with success."""
        self._key = key
        self._certificate = certificate
        self._contexts: dict[TransportKind, SSL.Context] = {}
        self._policy = policy
        self._known = known
        self._resolver = resolver
        self._window_max = window_max
        self._narrow = False  # whether TCP keeps to small segments

    async def dial(self, transport: TransportKind, *, beside_tcp: bool = False) -> Carrier:
        """Connect, shake hands, and judge the relay.

        Args:
            transport: What to speak.
            beside_tcp: Whether TCP may be used as well, so that QUIC is not to be waited for long.

        Raises:
            ConnectError: No connection, or nobody on it who speaks this; worth a retry.
            RelayIdentityError: Somebody answers who must not be trusted.
            ConfigError: The file of known relays or the CA file cannot be used.

        Cancellation: nothing stays open.
        """
        return await (
            self._dial_quic(beside_tcp=beside_tcp) if transport is TransportKind.QUIC else self._dial_tcp(transport)
        )

    async def dial_direct(self, terms: DirectTerms) -> DirectLink:
        """Dial a data connection to the relay and prove it for the session of *terms*.

        Raises:
            ConnectError: It cannot be had; the text says why.

        Cancellation: nothing stays open.
        """
        return await prove(await self._connect_direct(), terms, timeout=limits.DIRECT_PROOF_TIMEOUT)

    async def _connect_direct(self) -> trio.SocketStream:
        try:
            with trio.fail_after(limits.DIRECT_DIAL_TIMEOUT):
                if self.via is not None:
                    return await connect_via(self.via, self.server, resolver=self._resolver)
                if self.last_address is None:
                    raise ConnectError("it is not known yet where the relay is")
                return await connect_one((self.last_address, self.server.port), narrow=self._narrow)
        except trio.TooSlowError as exc:
            raise ConnectError(f"no answer within {limits.DIRECT_DIAL_TIMEOUT:g} s") from exc

    async def _dial_tcp(self, transport: TransportKind) -> Carrier:
        stream, place = await self._connect()
        started = trio.current_time()
        try:
            carrier = await TlsStream.handshake(
                stream,
                self._context(transport),
                role=TlsRole.CLIENT,
                server_name=_server_name(self.server.host),
                timeout=limits.HANDSHAKE_TIMEOUT,
            )
        except ConnectError:  # connected, then silence: our hello, or its answer, may not fit through the path
            silence = limits.HANDSHAKE_TIMEOUT / 2  # the relay's patience may end a moment before ours
            self._narrow = not self._narrow and trio.current_time() - started >= silence
            raise
        if carrier.alpn != _ALPN[transport]:
            carrier.abort()
            reason = f"{self.server} speaks TLS but is no trunnel relay, or this is not its port for agents"
            raise ConnectError(reason)
        try:
            trust = await self._judge(carrier.peer_certificates, None if place is None else place[0])
        except BaseException:
            carrier.abort()
            raise
        address = str(self.server) if place is None else str(Address(*place))
        return Carrier(transport=transport, connection=carrier, trust=trust, address=address)

    async def _dial_quic(self, *, beside_tcp: bool) -> Carrier:
        try:
            from trunnel.transports.quic_configuration import QuicCredentials
            from trunnel.transports.quic_handshake import QuicCarrier, dial_quic
        except ImportError as exc:
            raise ConnectError(f"QUIC is not installed here ({exc})") from exc

        credentials = QuicCredentials(private_key=self._key.private_key, chain=(self._certificate,))
        server_name = _server_name(self.server.host)

        async def attempt(place: Place) -> QuicCarrier:
            return await dial_quic(place, credentials, server_name=server_name, window_max=self._window_max)

        addresses = await self._resolver.addresses(self.server.host, self.server.port)
        timeout = limits.QUIC_DIAL_TIMEOUT if beside_tcp else limits.HANDSHAKE_TIMEOUT
        carrier = await self._any_of(addresses, attempt, QuicCarrier.abort, timeout=timeout)
        host, port = carrier.address
        try:
            trust = await self._judge(carrier.peer_certificates, host)
        except BaseException:
            carrier.abort()
            raise
        return Carrier(transport=TransportKind.QUIC, connection=carrier, trust=trust, address=str(Address(host, port)))

    async def _any_of(
        self,
        addresses: Sequence[Place],
        attempt: Callable[[Place], Awaitable[T]],
        discard: Callable[[T], None],
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> T:
        """Happy eyeballs, with the relay's name in what is said when all fail."""
        try:
            return await first_of(addresses, attempt, discard=discard, timeout=timeout)
        except ConnectError as exc:
            raise ConnectError(f"{self.server}: {exc}") from exc

    def _context(self, transport: TransportKind) -> SSL.Context:
        if transport not in self._contexts:
            self._contexts[transport] = link_client_context(self._key, self._certificate, alpn=[_ALPN[transport]])
        return self._contexts[transport]

    async def _connect(self) -> tuple[trio.SocketStream, Place | None]:
        """Return a TCP connection and the relay's address on it; None if only a proxy knows it."""
        if self.via is not None:
            return await connect_via(self.via, self.server, resolver=self._resolver), None
        addresses = await self._resolver.addresses(self.server.host, self.server.port)
        try:
            stream = await connect_any(addresses, narrow=self._narrow)
        except ConnectError as exc:
            raise ConnectError(f"{self.server}: {exc}") from exc
        try:
            peer = stream.socket.getpeername()
        except OSError as exc:
            await trio.aclose_forcefully(stream)
            raise ConnectError(f"{self.server} hung up") from exc
        return stream, (str(peer[0]).partition("%")[0], int(peer[1]))

    async def _judge(self, certificates: tuple[x509.Certificate, ...], host: str | None) -> TrustDecision:
        trust = await trio.to_thread.run_sync(
            lambda: verify_relay(
                PeerChain(certificates),
                self.server,
                policy=self._policy,
                known=self._known,
                address=host,
                now=utc_now(),
            )
        )
        self.last_address = host
        return trust


def _server_name(host: str) -> Hostname | None:
    """Return the SNI to send: none for an address (RFC 6066 §3)."""
    try:
        return Hostname.parse(host)
    except InvalidName:
        return None
