"""From a relay's address to an authenticated carrier.

TCP (all addresses of the name, RFC 8305), TLS 1.3 with the agent's key, then
the question whether this is the relay it should be (`identity.trust`), before
a single byte of ours goes out.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import cast, final

import trio
from OpenSSL import SSL

from trunnel.clock import utc_now
from trunnel.errors import ConnectError, InvalidName
from trunnel.identity.chains import PeerChain
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustDecision, TrustPolicy, verify_relay
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.streams.sockets import tune_socket
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2
from trunnel.wire.proxyprotocol import Address


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A connection to a relay that is who it should be."""

    stream: TlsStream
    """The connection; nothing has been sent on it."""
    trust: TrustDecision
    """Why the relay was accepted."""
    address: str
    """Where it was reached, `HOST:PORT`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dialler:
    """What every attempt to reach one relay has in common."""

    server: ServerAddress
    context: SSL.Context
    policy: TrustPolicy
    known: KnownRelays

    async def dial(self) -> Carrier:
        """Connect, shake hands, and judge the relay.

        Raises:
            ConnectError: No connection, or no TLS on it; worth a retry.
            RelayIdentityError: Somebody answers who must not be trusted.
            ConfigError: The file of known relays or the CA file cannot be used.

        Cancellation: nothing stays open.
        """
        stream, host, port = await self._connect()
        carrier = await TlsStream.handshake(
            stream,
            self.context,
            role=TlsRole.CLIENT,
            server_name=_server_name(self.server.host),
            timeout=limits.HANDSHAKE_TIMEOUT,
        )
        try:
            decision = await trio.to_thread.run_sync(self._judge, carrier, host)
        except BaseException:
            carrier.abort()
            raise
        return Carrier(stream=carrier, trust=decision, address=str(Address(host, port)))

    async def _connect(self) -> tuple[trio.SocketStream, str, int]:
        try:
            with trio.fail_after(limits.CONNECT_TIMEOUT):
                stream = await trio.open_tcp_stream(
                    self.server.host, self.server.port, happy_eyeballs_delay=limits.HAPPY_EYEBALLS_DELAY
                )
        except trio.TooSlowError as exc:
            raise ConnectError(f"{self.server} did not answer within {limits.CONNECT_TIMEOUT:.0f} s") from exc
        except OSError as exc:
            raise ConnectError(f"{self.server}: {_reason(exc)}") from exc
        try:
            peer = stream.socket.getpeername()
        except OSError as exc:
            await trio.aclose_forcefully(stream)
            raise ConnectError(f"{self.server} hung up") from exc
        tune_socket(stream.socket)
        return stream, str(peer[0]).partition("%")[0], int(peer[1])

    def _judge(self, carrier: TlsStream, host: str) -> TrustDecision:
        if carrier.alpn != LINK_ALPN_H2:
            raise ConnectError(f"{self.server} speaks TLS but is no trunnel relay, or this is not its port for agents")
        return verify_relay(
            PeerChain(carrier.peer_certificates),
            self.server,
            policy=self.policy,
            known=self.known,
            address=host,
            now=utc_now(),
        )


def _server_name(host: str) -> Hostname | None:
    """Return the SNI to send: none for an address (RFC 6066 §3)."""
    try:
        return Hostname.parse(host)
    except InvalidName:
        return None


def _reason(error: OSError) -> str:
    """Return why a connection failed, in words; several attempts give one reason."""
    cause = error.__cause__
    attempts: tuple[BaseException, ...] = (cause or error,)
    if isinstance(cause, BaseExceptionGroup):
        attempts = cast("BaseExceptionGroup[BaseException]", cause).exceptions
    numbers = {part.errno for part in attempts if isinstance(part, OSError) and part.errno}
    known = [os.strerror(number) for number in sorted(numbers) if not isinstance(error, socket.gaierror)]
    return (" / ".join(known) or error.strerror or str(error)).lower()
