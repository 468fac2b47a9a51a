"""Does the relay pass visitors' TLS through?  The agent visits itself from outside, and looks at the key.

A relay could answer in an agent's place: it gets the visitors, and with some
authority's help a certificate for the name.  So the agent resolves its own
public name like any visitor, connects to what it finds, and compares the key
that it is shown with its own.  Another key is an alarm, as loud as they come.

Ours is a key that is shown now, and one that our identity key has vouched for:
an agent that shares the key (`--share`) may be the one that answers.  Where that
one may show a certificate of its own choice, or the service ends TLS itself, the
agent cannot know what visitors should see; it does not look, and says so.

A visit looks like anybody's: an ordinary ClientHello, at a moment that the relay
cannot foresee; when it arrives here it is not counted (`ownvisits`).  It ends
once the server's flight has been verified (RFC 8446 §4.4.3): in TLS 1.3 our
Finished is never sent, so the origin hears nothing of it.

What this cannot see: a relay that lets visits from the agent's own address
through and others not.  Look from elsewhere, too; the fingerprint is printed.
Not to reach oneself (no hairpin NAT, a name that is not in DNS yet) proves
nothing and is no alarm.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn, final

import trio
from cryptography import x509
from OpenSSL import SSL

from trunnel.agent.eyeballs import connect_any
from trunnel.agent.ownvisits import OwnVisits
from trunnel.agent.resolve import Resolver
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.events import Alarm, EventSink, Ready, Verified
from trunnel.identity.contexts import visiting_context
from trunnel.identity.keys import spki_of
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.streams.abort import abort_stream

logger = logging.getLogger(__name__)

_ALPN: Final = (b"h2", b"http/1.1")
"""What browsers offer."""
_LOOPBACK: Final = ("127.0.0.1", "::1")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What an agent knows of itself."""

    keys: Callable[[Hostname], frozenset[KeyId]]
    """The keys that visitors who ask for a name are shown now."""
    vouched: Callable[[x509.Certificate], bool]
    """Whether our identity key has vouched for a certificate's."""
    visits: OwnVisits
    """Told of each visit."""


def why_not(settings: AgentSettings) -> str:
    """Return why an agent cannot know which key its visitors should be shown, or an empty text."""
    if settings.tls_passthrough:
        return "the service ends TLS itself (--tls-passthrough)"
    if settings.share and (settings.acme_wanted or settings.cert_pem is not None):
        return "other agents share its key (--share), and may show another certificate than this one"
    return ""


async def certificate_shown(
    name: Hostname, port: int, *, resolver: Resolver, visits: OwnVisits, alpn: Sequence[bytes] = ()
) -> x509.Certificate:
    """Visit *name* and return the certificate whose key is proven there.

    Args:
        name: What is resolved, and asked for by SNI; `localhost` and below are this machine.
        port: The public port.
        resolver: Finds the addresses.
        visits: Told of the visit.
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
        connection = SSL.Connection(visiting_context(list(dict.fromkeys((*_ALPN, *alpn)))), None)
        connection.set_tlsext_host_name(name.value.encode("ascii"))
        connection.set_connect_state()
        with suppress(SSL.WantReadError):
            connection.do_handshake()
        hello = connection.bio_read(limits.TLS_READ)
        with visits.under_way(hello):
            return await _handshake(connection, stream, name, hello)
    finally:
        abort_stream(stream)


async def _handshake(
    connection: SSL.Connection, stream: trio.SocketStream, name: Hostname, hello: bytes
) -> x509.Certificate:
    """Shake hands as far as the server has proven its key; begins with *hello*.

    Raises:
        ConnectError: It does not come to that.
        RemoteProtocolError: A certificate is shown that cannot be read.
    """
    received, flight = 0, hello
    try:
        while True:
            await stream.send_all(flight)
            chunk = await stream.receive_some(limits.TLS_READ)
            received += len(chunk)
            if not chunk or received > limits.VERIFY_BYTES_MAX:
                raise ConnectError(f"{name} ended the connection within the handshake")
            connection.bio_write(chunk)
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                flight = _unsent(connection)
        certificate = connection.get_peer_certificate(as_cryptography=True)
    except (ValueError, x509.InvalidVersion) as exc:
        raise RemoteProtocolError(f"{name} shows a certificate that cannot be read: {exc}") from exc
    except (SSL.Error, trio.BrokenResourceError) as exc:
        raise ConnectError(f"no handshake with {name}: {_why(exc)}") from exc
    if certificate is None:
        raise ConnectError(f"{name} shows no certificate")
    return certificate


def _unsent(connection: SSL.Connection) -> bytes:
    """Return what OpenSSL would send now; often nothing, because its peer has more to say."""
    try:
        return connection.bio_read(limits.TLS_READ)
    except SSL.WantReadError:
        return b""


def _why(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        return "; ".join(str(reason[-1]) for reason in error.args[0] if reason) if error.args else "it failed"
    return str(error) or "the connection broke"


@final
class Verifier:
    """Visits every public address of an agent, again and again.

    Args:
        addresses: The public addresses that there are now.
        ours: What the agent knows of itself.
        every: Seconds between two rounds, longer or shorter by chance.
        alpn: Protocols that the origin speaks.
        on_event: Told of each visit.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[Ready]],
        ours: Ours,
        *,
        every: float,
        alpn: Sequence[bytes],
        on_event: EventSink,
    ) -> None:
        self._addresses = addresses
        self._ours = ours
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
        before = self._ours.keys(name)
        found = Verified(hostname=name.value, ok=None, reason="it took too long")
        with trio.move_on_after(limits.VERIFY_TIMEOUT):
            try:
                shown = await certificate_shown(
                    name, port, resolver=self._resolver, visits=self._ours.visits, alpn=self._alpn
                )
            except ConnectError as exc:
                found = Verified(hostname=name.value, ok=None, reason=str(exc))
            except RemoteProtocolError as exc:  # not ours, whoever's it is
                found = self._mismatch(name, exc.reason, before)
            else:
                found = self._judge(name, shown, before | self._ours.keys(name))  # renewed meanwhile, perhaps
        self._on_event(found)
        if found.ok is False:
            self._on_event(Alarm(code="leaf-mismatch", text=f"{name}: {found.reason}", hostname=name.value))
        return found

    def _judge(self, name: Hostname, certificate: x509.Certificate, ours: frozenset[KeyId]) -> Verified:
        shown = _key_of(certificate)
        if shown in ours or self._ours.vouched(certificate):
            return Verified(hostname=name.value, ok=True)
        return self._mismatch(name, f"key {shown}", ours)

    def _mismatch(self, name: Hostname, shown: str, ours: frozenset[KeyId]) -> Verified:
        expected = ", ".join(sorted(map(str, ours))) or "none"
        logger.critical("leaf_mismatch", extra={"names": name.value, "shown": shown, "ours": expected})
        reason = (
            f"somebody between visitors and this agent ends their TLS ({shown} instead of {expected}): "
            "do not use this address until you know who"
        )
        return Verified(hostname=name.value, ok=False, reason=reason)


def _key_of(certificate: x509.Certificate) -> KeyId | None:
    """Return the id of a certificate's key, or None if it is of a kind that we never have."""
    try:
        return KeyId.of_spki(spki_of(certificate))
    except RemoteProtocolError:
        return None
