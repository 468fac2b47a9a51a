"""Dial the relay through a proxy: connect to it, ask it to connect on, hand the tunnel back.

The conversation itself is in `wire.socks5` and `wire.httpconnect`; here it
gets a connection and a deadline.  Two rules:

- *The tunnel is untouched*: no more is read than the client says belongs to
  the proxy's answer, and nothing is sent behind the request.
- *The proxy gets the name*, not what it means here, so that it works where
  only the proxy has a name server.  `socks5://` asks for the opposite: then
  the addresses we found are tried one after the other, each on a connection
  of its own, as long as the proxy says that the way behind it failed.

Every error says which hop failed.  A password is never in one.
"""

from __future__ import annotations

from typing import final

import trio

from trunnel.agent.eyeballs import connect_any
from trunnel.agent.resolve import Resolver
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import ViaAddress, ViaKind
from trunnel.wire.hop import HopClient, Refusal
from trunnel.wire.httpconnect import ConnectClient
from trunnel.wire.socks5 import Socks5Client


async def connect_via(via: ViaAddress, server: ServerAddress, *, resolver: Resolver) -> trio.SocketStream:
    """Connect to *server* through the proxy *via*.

    Takes `CONNECT_TIMEOUT` at most, look-ups included.

    Returns:
        The connection: what is sent from now on reaches the server, and no
        byte of the server's has been read.

    Raises:
        ConnectError: The proxy cannot be reached, refuses, or does not do as
            agreed; the text says which.

    Cancellation: no connection is left.
    """
    attempt = _Attempt(via, server, resolver)
    refusal: Refusal | None = None
    for target in await attempt.targets():
        stream = await attempt.reach()
        refusal = await attempt.ask(stream, target)
        if refusal is None:
            return stream
        stream.socket.close()
        if not refusal.beyond:
            break
    raise ConnectError(refusal.sentence(via.address, server) if refusal else f"there is no address for {server}")


@final
class _Attempt:
    """One call of `connect_via`; each step raises ConnectError, and keeps the deadline of all."""

    __slots__ = ("_deadline", "_resolver", "_server", "_via")

    def __init__(self, via: ViaAddress, server: ServerAddress, resolver: Resolver) -> None:
        self._via = via
        self._server = server
        self._resolver = resolver
        self._deadline = trio.current_time() + limits.CONNECT_TIMEOUT

    async def targets(self) -> list[ServerAddress]:
        """Return what to ask the proxy for, one after the other: the name, or its addresses."""
        if self._via.kind is not ViaKind.SOCKS5:
            return [self._server]
        try:
            found = await self._resolver.addresses(self._server.host, self._server.port)
        except ConnectError as exc:
            raise ConnectError(f"{exc} (with socks5h:// the proxy looks names up)") from exc
        return [ServerAddress(*place) for place in found]

    async def reach(self) -> trio.SocketStream:
        """Connect to the proxy."""
        place = self._via.address
        try:
            with trio.fail_at(self._deadline):
                return await connect_any(await self._resolver.addresses(place.host, place.port))
        except trio.TooSlowError as exc:
            cause = f"the proxy at {place} did not answer within {limits.CONNECT_TIMEOUT:g} s"
            raise ConnectError(cause) from exc
        except ConnectError as exc:
            raise ConnectError(f"the proxy at {place} cannot be reached: {exc}") from exc

    async def ask(self, stream: trio.SocketStream, target: ServerAddress) -> Refusal | None:
        """Ask the proxy at the end of *stream* for *target*; on an error the stream is closed."""
        hop = f"the proxy at {self._via.address}"
        is_connected = False
        try:
            with trio.fail_at(self._deadline):
                refusal = await _converse(stream, self._client(target))
            is_connected = True
        except trio.TooSlowError as exc:
            limit = f"{limits.CONNECT_TIMEOUT:g} s"
            raise ConnectError(f"{hop} answered, but did not connect us to {self._server} within {limit}") from exc
        except RemoteProtocolError as exc:
            raise ConnectError(f"{hop} cannot be used: {exc.reason}") from exc
        except (trio.BrokenResourceError, EOFError) as exc:
            raise ConnectError(f"{hop} hung up before it had connected us to {self._server}") from exc
        finally:
            if not is_connected:
                stream.socket.close()
        return refusal

    def _client(self, target: ServerAddress) -> HopClient:
        kind = ConnectClient if self._via.kind is ViaKind.HTTP else Socks5Client
        return kind(target, credentials=self._via.credentials)


async def _converse(stream: trio.SocketStream, client: HopClient) -> Refusal | None:
    """Hold the conversation; raises EOFError if the proxy ends it."""
    await stream.send_all(client.start())
    while client.needed:
        chunk = await stream.receive_some(client.needed)
        if not chunk:
            raise EOFError
        if answer := client.feed_untrusted(bytes(chunk)):
            await stream.send_all(answer)
    return client.refusal
