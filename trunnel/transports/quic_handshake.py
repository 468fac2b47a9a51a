"""QUIC carriers: one authenticated connection each, and how an agent dials one.

`dial_quic` runs the handshake inline, without a task of its own: until a
session is opened on the carrier nothing moves, and what the relay sends waits
in the socket's buffer.  At the relay the endpoint makes the carriers, and
drives them from the first datagram on.

The agent's socket is bound to no address and connected to none, so the kernel
chooses the route for each datagram; when the network changes, `migrate` goes on
from a new socket with a connection id that nobody has seen (RFC 9000 §9.5).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio
from cryptography import x509

from trunnel.errors import ConnectError, ErrorCode
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.listen import HostPort
from trunnel.streams.nursery import bare_nursery
from trunnel.streams.udp import UdpSocket
from trunnel.transports.alpn import LINK_ALPN_QUIC
from trunnel.transports.quic_configuration import QuicCredentials, client_configuration
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_link import LinkPump, QuicLink, close_reason

__all__ = ["QuicCarrier", "QuicCredentials", "dial_quic"]


@final
class QuicCarrier:
    """One QUIC connection whose handshake is complete; `open_quic_session` takes it over."""

    __slots__ = ("_pump", "address", "link")

    def __init__(self, link: QuicLink, address: HostPort, *, pump: LinkPump | None = None) -> None:
        """Wrap *link*; *pump* is given if nobody else drives it."""
        self.link = link
        """The connection; for this package only."""
        self.address = address
        """Where the peer was when the connection began."""
        self._pump = pump

    @property
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain, leaf first; it has proved to possess the leaf's key."""
        return self.link.connection.peer_certificates

    def abort(self, reason: str = "", *, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Say goodbye and let go, without waiting.  Idempotent."""
        self.link.close(code, reason)
        self._leave()

    async def aclose(self) -> None:
        """Say goodbye and let go."""
        self.abort(code=ErrorCode.NO_ERROR)
        await trio.lowlevel.checkpoint()

    def migrate(self) -> bool:
        """Go on from a new socket and with a new connection id; return whether that was possible."""
        if self._pump is None or self.link.socket.closed:
            return False
        try:
            fresh = UdpSocket.towards(self.address)
        except OSError:
            return False
        former, self.link.socket = self.link.socket, fresh
        self.link.connection.change_connection_id()
        self.link.connection.send_ping(0)  # the relay learns of the new address by a datagram from there
        self.link.touch()
        former.close()
        return True

    @asynccontextmanager
    async def driven(self) -> AsyncIterator[None]:
        """Drive the connection while the body runs, unless the endpoint does."""
        if self._pump is None:
            yield
            return
        try:
            async with bare_nursery() as nursery:
                nursery.start_soon(self._pump.run)
                nursery.start_soon(self._read)
                nursery.start_soon(self._unclog, self._pump)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close a socket of our own; nobody will be there to say goodbye again, so it is said twice."""
        if self._pump is not None and not self.link.socket.closed:
            if self.link.farewell is not None:
                self.link.farewell.repeat()
            self.link.socket.close()
            self.link.dispose()

    async def _read(self) -> None:
        """Take datagrams from whichever socket is the present one."""
        link = self.link
        while not link.socket.closed:
            try:
                await link.socket.wait_readable()
            except trio.ClosedResourceError:
                continue  # it may have been replaced
            _take_batch(link)

    async def _unclog(self, pump: LinkPump) -> None:
        while not self.link.socket.closed:
            try:
                await pump.unclog(self.link.socket)
            except trio.ClosedResourceError:
                continue


def _take_batch(link: QuicLink) -> None:
    """Give *link* the datagrams that lie in a socket of its own."""
    batch = link.socket.receive_batch()
    if batch:
        now = trio.current_time()
        for datagram, source in batch:
            link.receive_untrusted(datagram, source, now)
        link.settle(now)


async def dial_quic(
    address: HostPort,
    credentials: QuicCredentials,
    *,
    server_name: Hostname | None,
    window_max: int = limits.STREAM_WINDOW_MAX,
    timeout: float = limits.HANDSHAKE_TIMEOUT,  # noqa: ASYNC109 - the error names it
) -> QuicCarrier:
    """Connect to a relay.

    Args:
        address: IP address and UDP port.
        credentials: The agent's.
        server_name: The name that was dialled, sent as SNI; None for an IP address.
        window_max: Bytes to which a stream's receive window may grow.
        timeout: Seconds for the handshake.

    Returns:
        A carrier whose `peer_certificates` nobody has judged yet.  The relay may
        still refuse ours: then the session ends at once.

    Raises:
        ConnectError: No answer in time, a refusal, or no socket.

    Cancellation: the socket is closed.
    """
    try:
        socket = UdpSocket.towards(address)
    except OSError as exc:
        raise ConnectError(f"no UDP socket: {exc.strerror or exc}") from exc
    pump = LinkPump()
    connection = CreditedConnection.for_client(
        client_configuration(credentials, server_name=server_name), window_max=window_max
    )
    link = QuicLink(connection, socket, pump, None)
    carrier = QuicCarrier(link, address, pump=pump)
    connection.connect(address, trio.current_time())
    try:
        with trio.fail_after(timeout):
            await _handshake(link)
    except trio.TooSlowError as exc:
        carrier.abort()
        raise ConnectError(f"no answer over UDP within {timeout:g} s") from exc
    except BaseException:  # undone by re-raising
        carrier.abort()
        raise
    return carrier


async def _handshake(link: QuicLink) -> None:
    """Exchange datagrams until the handshake is complete."""
    while True:
        link.settle(trio.current_time())
        if link.connection.ending is not None:
            reason, _ = close_reason(link.connection.ending)
            raise ConnectError(reason)
        if link.completed:
            break
        with trio.move_on_at(link.deadline):
            await link.socket.wait_readable()
            _take_batch(link)
    if link.alpn != LINK_ALPN_QUIC.decode():
        raise ConnectError("the server at this port is no trunnel relay")
