"""Does the relay pass visitors' TLS through?  The agent visits itself from outside, and looks at the key.

A relay could answer in an agent's place: it gets the visitors, and with some
authority's help a certificate for the name.  So the agent resolves its own
public name like any visitor, connects to what it finds, and compares the key
that it is shown with its own.  Another key is an alarm, as loud as they come.

A visit looks like anybody's: an ordinary ClientHello, at a moment that the relay
cannot foresee.  It ends once the server's flight has been verified (RFC 8446
§4.4.3): in TLS 1.3 our Finished is never sent, so the origin hears nothing of it.

What this cannot see: a relay that lets visits from the agent's own address
through and others not.  Look from elsewhere, too; the fingerprint is printed.
Not to reach oneself (no hairpin NAT, a name that is not in DNS yet) proves
nothing and is no alarm.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, final

import trio
from OpenSSL import SSL

from trunnel.agent.eyeballs import connect_any
from trunnel.agent.resolve import Resolver
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.events import EventSink, Ready, Verified
from trunnel.identity.contexts import visiting_context
from trunnel.identity.keys import spki_of
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream

logger = logging.getLogger(__name__)

_ALPN: Final = (b"h2", b"http/1.1")
"""What browsers offer."""
_LOOPBACK: Final = ("127.0.0.1", "::1")

Keys = Callable[[Hostname], frozenset[KeyId]]
"""The keys that may be shown for a name now."""


async def key_shown(name: Hostname, port: int, *, resolver: Resolver, alpn: Sequence[bytes] = ()) -> KeyId:
    """Visit *name* and return the key that is proven there.

    Args:
        name: What is resolved, and asked for by SNI; `localhost` and below are this machine.
        port: The public port.
        resolver: Finds the addresses.
        alpn: Protocols that are offered besides those of browsers.

    Raises:
        ConnectError: Nobody could be visited; the text says why.

    Cancellation: the connection is aborted.
    """
    if name.value == "localhost" or name.value.endswith(".localhost"):  # RFC 6761 §6.3
        places: Sequence[tuple[str, int]] = [(host, port) for host in _LOOPBACK]
    else:
        places = await resolver.addresses(name.value, port)
    stream = await connect_any(places)
    try:
        return await _handshake(stream, name, list(dict.fromkeys((*_ALPN, *alpn))))
    finally:
        abort_stream(stream)


async def _handshake(stream: trio.SocketStream, name: Hostname, alpn: list[bytes]) -> KeyId:
    """Shake hands as far as the server has proven its key."""
    connection = SSL.Connection(visiting_context(alpn), None)
    connection.set_tlsext_host_name(name.value.encode("ascii"))
    connection.set_connect_state()
    received = 0
    try:
        while True:
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                pass
            await stream.send_all(connection.bio_read(limits.TLS_READ))
            chunk = await stream.receive_some(limits.TLS_READ)
            received += len(chunk)
            if not chunk or received > limits.VERIFY_BYTES_MAX:
                raise ConnectError(f"{name} ended the connection within the handshake")
            connection.bio_write(chunk)
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise ConnectError(f"{name} shows no certificate")
        return KeyId.of_spki(spki_of(certificate))
    except (SSL.Error, RemoteProtocolError, trio.BrokenResourceError) as exc:
        raise ConnectError(f"no handshake with {name}: {_why(exc)}") from exc


def _why(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        return "; ".join(str(reason[-1]) for reason in error.args[0] if reason) if error.args else "it failed"
    return str(error) or "the connection broke"


@final
class Verifier:
    """Visits every public address of an agent, again and again.

    Args:
        addresses: The public addresses that there are now.
        keys: What may be shown for each.
        every: Seconds between two rounds, longer or shorter by chance.
        alpn: Protocols that the origin speaks.
        on_event: Told of each visit.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[Ready]],
        keys: Keys,
        *,
        every: float,
        alpn: Sequence[bytes],
        on_event: EventSink,
    ) -> None:
        self._addresses = addresses
        self._keys = keys
        self._every = every
        self._alpn = alpn
        self._on_event = on_event
        self._resolver = Resolver()
        self._rng = secrets.SystemRandom()

    async def run(self) -> NoReturn:
        """Visit until cancelled; the first round comes soon."""
        await trio.sleep(self._rng.uniform(0.0, min(limits.VERIFY_FIRST, self._every)))
        while True:
            for name, port in dict.fromkeys((Hostname(ready.hostname), ready.port) for ready in self._addresses()):
                await self.visit(name, port)
            await trio.sleep(self._every * self._rng.uniform(1 - limits.VERIFY_JITTER, 1 + limits.VERIFY_JITTER))

    async def visit(self, name: Hostname, port: int) -> Verified:
        """Visit one address, report, and return what was found."""
        ours = self._keys(name)
        found = Verified(hostname=name.value, ok=None, reason="it took too long")
        with trio.move_on_after(limits.VERIFY_TIMEOUT):
            try:
                shown = await key_shown(name, port, resolver=self._resolver, alpn=self._alpn)
            except ConnectError as exc:
                found = Verified(hostname=name.value, ok=None, reason=str(exc))
            else:
                found = self._judge(name, shown, ours | self._keys(name))  # it may have been renewed meanwhile
        self._on_event(found)
        return found

    def _judge(self, name: Hostname, shown: KeyId, ours: frozenset[KeyId]) -> Verified:
        if shown in ours:
            return Verified(hostname=name.value, ok=True)
        expected = ", ".join(sorted(map(str, ours))) or "none"
        logger.critical("leaf_mismatch", extra={"names": name.value, "shown": str(shown), "ours": expected})
        reason = (
            f"somebody between visitors and this agent ends their TLS (key {shown} instead of {expected}): "
            "do not use this address until you know who"
        )
        return Verified(hostname=name.value, ok=False, reason=reason)
