"""`direct`: data connections, one for each visitor; the part of both sides that does I/O.

The exchange is `wire/direct.py`'s, the rules are DATAPLANE's and PROTOCOL.md's:

    agent: prove ... wait_taken, answer        relay: read_preface, admit or refuse ... offer

* A data connection is *parked* between `prove`/`admit` and `wait_taken`/`offer`.
  Not a byte may come while it is: a heartbeat that is on its way when a visitor
  takes the connection would land in the visitor's TLS.  The kernel's keepalive
  and `TCP_USER_TIMEOUT` look for a vanished peer instead.
* Nothing is read beyond the message that is due: what follows is a visitor's
  and is read by whoever serves it (TLS, or the pump) from the descriptor.
* Whatever fails, and whatever is cancelled, aborts the connection: an
  unfinished exchange cannot be taken up again.
* A key seals one record.  A second one would give the key away (AES-GCM with
  one nonce), so a link forgets each key with its use.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from trio import socket as tsocket

from trunnel import capabilities
from trunnel.errors import ConnectError, LocalProtocolError, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings.limits import PARKED_KEEPALIVE, PARKED_USER_TIMEOUT_MS
from trunnel.streams.exact import read_exactly, receive, send
from trunnel.streams.sockets import abort_socket, tune_socket
from trunnel.wire.direct import (
    ANSWER_SIZE,
    CHALLENGE_SIZE,
    DIGEST_SIZE,
    DIRECT_VERSION,
    LENGTH,
    PREFACE_SIZE,
    PROOF_SIZE,
    SEAL_AGENT,
    SEAL_RELAY,
    Answer,
    DirectKeys,
    Preface,
    Refusal,
    head_version_untrusted,
    read_answer_untrusted,
    read_challenge_untrusted,
    read_preface_untrusted,
    refusal_bytes,
    relay_digest,
    sealed_length,
    sealed_length_untrusted,
    session_tag,
)

_ONLY_NONCE: Final = bytes(12)
"""The nonce of AES-GCM: each key seals one record."""


@final
@dataclass(frozen=True, slots=True)
class DirectTerms:
    """What data connections of one session are proved with.  Made once a session."""

    secret: bytes = field(repr=False)
    """The 32 bytes of the welcome."""
    relay: KeyId
    """The relay, as the session's TLS proved it."""
    session: str
    """Id of the session."""
    relay_digest: bytes = field(init=False, repr=False)
    """What prefaces say of the relay."""
    session_tag: bytes = field(init=False, repr=False)
    """What prefaces say of the session: the relay looks it up by this."""

    def __post_init__(self) -> None:
        if len(self.secret) != DIGEST_SIZE:
            raise ValueError(f"a secret of {len(self.secret)} bytes, not {DIGEST_SIZE}")
        object.__setattr__(self, "relay_digest", relay_digest(self.relay))
        object.__setattr__(self, "session_tag", session_tag(self.session))


@final
class DirectRefused(ConnectError):
    """The relay does not take the data connection; `refusal` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"the relay refused the data connection: {refusal.reason}")
        self.refusal = refusal


@final
class Seal:
    """One key, for one record of one direction."""

    __slots__ = ("_key", "_label")

    def __init__(self, key: bytes, label: bytes) -> None:
        self._key: bytes | None = key
        self._label = label

    def _take(self) -> AESGCM:
        if self._key is None:
            raise LocalProtocolError("a data connection carries one sealed record each way")
        key, self._key = self._key, None
        return AESGCM(key)

    def seal(self, record: bytes) -> bytes:
        """Return *record* encrypted and authenticated; once."""
        return self._take().encrypt(_ONLY_NONCE, record, self._label)

    def unseal_untrusted(self, sealed: bytes) -> bytes:
        """Return the record in *sealed*; once.  Raises RemoteProtocolError if it was not sealed with this key."""
        try:
            return self._take().decrypt(_ONLY_NONCE, sealed, self._label)
        except InvalidTag as exc:
            raise RemoteProtocolError("direct: a sealed record was not made by the peer") from exc


@final
class DirectLink:
    """A data connection whose two ends have proved themselves.  Owns its stream."""

    __slots__ = ("incoming", "outgoing", "rtt", "stream")

    def __init__(self, stream: trio.SocketStream, *, rtt: float, incoming: Seal, outgoing: Seal) -> None:
        """Not for callers: `prove` and `admit` are the constructors.  Parks the connection."""
        self.stream = stream
        """The connection; once taken, it stands at the visitor's bytes."""
        self.rtt = rtt
        """Seconds of the exchange's round trip."""
        self.incoming = incoming
        """For this module: opens the peer's record."""
        self.outgoing = outgoing
        """For this module: seals our record."""
        self.tune_parked()

    def abort(self) -> None:
        """Close with RST, now.  Idempotent."""
        abort_socket(self.stream.socket)

    def is_alive(self) -> bool:
        """Whether the connection, which is parked, can still be taken.

        Anything that can be read says no: an end, an error, or bytes, which
        nobody may send now.  Costs a system call and never waits.
        """
        sock = self.stream.socket
        return sock.fileno() >= 0 and not sock.is_readable()

    def tune_parked(self) -> None:
        """Let the kernel look for a vanished peer; `prove` and `admit` have done so."""
        sock = self.stream.socket
        with suppress(OSError):
            sock.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_KEEPALIVE, 1)
            if capabilities.HAS_KEEPALIVE_TIMES:
                idle, interval, probes = PARKED_KEEPALIVE
                sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPIDLE, idle)
                sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPINTVL, interval)
                sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPCNT, probes)
            if capabilities.HAS_USER_TIMEOUT:
                sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_USER_TIMEOUT, PARKED_USER_TIMEOUT_MS)

    def tune_taken(self) -> None:
        """Give the socket the options of a visitor's; `offer` and `wait_taken` have done so."""
        sock = self.stream.socket
        if capabilities.HAS_USER_TIMEOUT:
            with suppress(OSError):
                sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_USER_TIMEOUT, 0)
        tune_socket(sock)


@final
class _AbortedOnFailure:
    """Aborts a stream if the body does not end well."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            abort_socket(self._stream.socket)


# --- the agent's side, before parking ---------------------------------------------------------


async def prove(stream: trio.SocketStream, terms: DirectTerms, *, timeout: float) -> DirectLink:  # noqa: ASYNC109
    """Prove a dialled connection to the relay, let the relay prove itself, and park it.

    Args:
        stream: A connection to the relay's port; the link owns it afterwards.
        terms: Of the session that it is for.
        timeout: Seconds, > 0, for the whole exchange.

    Raises:
        DirectRefused: The relay does not take it.
        ConnectError: It was cut off, took too long, or the other end does not
            know the session's secret.  *stream* is closed, as it is then.

    Cancellation: *stream* is aborted.
    """
    try:
        with _AbortedOnFailure(stream), trio.fail_after(timeout):
            return await _prove(stream, terms)
    except trio.TooSlowError as exc:
        raise ConnectError(f"the relay did not answer the data connection within {timeout:g} s") from exc
    except trio.BrokenResourceError as exc:
        raise ConnectError(f"the data connection was cut off: {exc}") from exc
    except RemoteProtocolError as exc:
        raise ConnectError(exc.reason) from exc


async def _prove(stream: trio.SocketStream, terms: DirectTerms) -> DirectLink:
    nonce = secrets.token_bytes(DIGEST_SIZE)
    preface = Preface(terms.relay_digest, terms.session_tag, nonce).encode()
    started = trio.current_time()
    await send(stream, preface)
    challenge = await read_exactly(stream, CHALLENGE_SIZE)
    rtt = trio.current_time() - started
    verdict = read_challenge_untrusted(challenge)
    if isinstance(verdict, Refusal):
        raise DirectRefused(verdict)
    keys = DirectKeys.derive(terms.secret, nonce, verdict)
    keys.check_challenge_untrusted(preface, challenge)
    await send(stream, keys.proof(preface, challenge))
    return DirectLink(
        stream, rtt=rtt, incoming=Seal(keys.seal_relay, SEAL_RELAY), outgoing=Seal(keys.seal_agent, SEAL_AGENT)
    )


# --- the relay's side, before parking ---------------------------------------------------------


async def read_preface(stream: trio.SocketStream, *, prefix: bytes = b"") -> Preface:
    """Read whom a new connection means; who does not speak our version is refused.

    Args:
        stream: A connection that has begun as a data connection does.
        prefix: What was read of it already.

    Raises:
        RemoteProtocolError: It is no data connection; seen at the first byte that shows it.
        trio.BrokenResourceError: The peer ended it before.

    Cancellation, and whatever is raised: *stream* is closed.  Callers bound the time.
    """
    with _AbortedOnFailure(stream):
        raw = prefix
        while (version := head_version_untrusted(raw)) in (None, DIRECT_VERSION) and len(raw) < PREFACE_SIZE:
            chunk = await receive(stream, PREFACE_SIZE - len(raw))
            if not chunk:
                raise trio.BrokenResourceError(f"a data connection ended after {len(raw)} of {PREFACE_SIZE} bytes")
            raw += chunk
        if version != DIRECT_VERSION:
            await refuse(stream, Refusal.VERSION)
            raise RemoteProtocolError(f"direct: version {version}, which is not spoken here")
        return read_preface_untrusted(raw)


async def refuse(stream: trio.SocketStream, refusal: Refusal) -> None:
    """Say why a data connection is not taken, and close it; no matter if nobody listens any more.

    Cancellation: *stream* is aborted.
    """
    with suppress(trio.BrokenResourceError), _AbortedOnFailure(stream):
        await stream.send_all(refusal_bytes(refusal))
        await stream.aclose()


async def admit(stream: trio.SocketStream, preface: Preface, terms: DirectTerms) -> DirectLink:
    """Prove ourselves to the agent, let it prove its session, and park the connection.

    Args:
        stream: The connection that *preface* was read from; the link owns it afterwards.
        preface: What the agent said.
        terms: Of the session that it named.

    Raises:
        RemoteProtocolError: The agent does not know the session's secret.
        trio.BrokenResourceError: It ended the connection.
        LocalProtocolError: *terms* are not those that *preface* names.

    Cancellation, and whatever is raised: *stream* is aborted.  Callers bound the time.
    """
    with _AbortedOnFailure(stream):
        if (preface.relay, preface.session) != (terms.relay_digest, terms.session_tag):
            raise LocalProtocolError("a data connection was to be admitted to a session that it does not name")
        nonce = secrets.token_bytes(DIGEST_SIZE)
        keys = DirectKeys.derive(terms.secret, preface.nonce, nonce)
        said = preface.encode()
        challenge = keys.challenge(said, nonce)
        started = trio.current_time()
        await send(stream, challenge)
        proof = await read_exactly(stream, PROOF_SIZE)
        rtt = trio.current_time() - started
        keys.check_proof_untrusted(said, challenge, proof)
    return DirectLink(
        stream, rtt=rtt, incoming=Seal(keys.seal_agent, SEAL_AGENT), outgoing=Seal(keys.seal_relay, SEAL_RELAY)
    )


# --- taking -----------------------------------------------------------------------------------


async def offer(link: DirectLink, header: bytes, first: bytes) -> Answer:
    """Take a parked connection for a visitor, at the relay.

    Args:
        link: Parked until now.
        header: The PROXY header of the visitor, at most `PROXY_HEADER_MAX` bytes.
        first: The visitor's first bytes; they go out in the same write.

    Returns:
        ACCEPTED: `link.stream` stands at what the visitor is answered.
        Anything else: the agent serves no such visitor; the caller closes.

    Raises:
        trio.BrokenResourceError: The connection is gone, or the answer is not the agent's.
        trio.ClosedResourceError: The link was aborted here.

    Cancellation, and whatever is raised: the link is aborted.  Callers bound the time.
    """
    stream = link.stream
    with _AbortedOnFailure(stream):
        length = sealed_length(header)
        await send(stream, b"".join((length, link.outgoing.seal(header), first)))
        sealed = await read_exactly(stream, ANSWER_SIZE)
        try:
            said = read_answer_untrusted(link.incoming.unseal_untrusted(sealed))
        except RemoteProtocolError as exc:
            raise trio.BrokenResourceError(exc.reason) from exc
    link.tune_taken()
    return said


async def wait_taken(link: DirectLink) -> bytes:
    """Wait, at the agent, until the relay takes a parked connection for a visitor.

    Returns:
        The bytes of the visitor's PROXY header, which nobody has looked at
        yet; `link.stream` stands at the visitor's first byte.

    Raises:
        RemoteProtocolError: What came was not sealed by the relay.
        trio.BrokenResourceError: The relay has let go of the connection, or it is lost.

    Cancellation, and whatever is raised: the link is aborted.
    """
    stream = link.stream
    with _AbortedOnFailure(stream):
        length = sealed_length_untrusted(await read_exactly(stream, LENGTH.size))
        header = link.incoming.unseal_untrusted(await read_exactly(stream, length))
    link.tune_taken()
    return header


async def answer(link: DirectLink, code: int) -> None:
    """Say, at the agent, whether the visitor is served (an `Answer`); what it is answered follows on the stream.

    Raises:
        trio.BrokenResourceError: The connection is gone.

    Cancellation, and whatever is raised: the link is aborted.
    """
    with _AbortedOnFailure(link.stream):
        await send(link.stream, link.outgoing.seal(bytes([code])))
