"""The front door: accept, look at the first bytes, lead to one of three doors.

Every listener runs through this file, one port for all or a port for each
role.  A connection's life here:

    accept → half-open ticket → a task of its own → peek → verdict
        ALPN `trunnel-…`          the agents' door, hello still in the kernel
        a host name               the visitors' door, with the bytes of the hello
        0xF7                      the data door (`parking`): an agent's data connection
        anything else             last words (`farewell`), closed

Rules:

* The accept loop never waits for a peer: no handshake, no read, no write.  It
  takes up to `ACCEPT_BATCH` connections a turn and survives every error of
  accept(2).  Where descriptors run short it rests, it does not fail.
* A connection beyond the half-open cap is reset at once, without a task.
* The deadline of the hello counts from accept; no byte extends it.
* The hello is looked at, not read (`streams.peek`): TLS towards agents runs on
  the descriptor.  A visitor's hello is read once its door is known.
* What cannot be read, or names nothing, never reaches a door.
* A door that raises ends its own connection: `_serve_connection` is the task
  boundary "visitor", the one place here with `except Exception`.

Sources: RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3, accept(2) "Error handling".
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, final

import trio
from trio import socket as tsocket

from trunnel.relay.admission import Admission, Refuse, RefuseReason, Room, Ticket, room_for
from trunnel.relay.farewell import bid_farewell, farewell_for
from trunnel.relay.throttle import Throttle
from trunnel.settings.limits import ACCEPT_BATCH, ACCEPT_PAUSE, HELLO_TIMEOUT, LOG_PER_PEER
from trunnel.streams.listen import HostPort, descriptor_limit, host_port
from trunnel.streams.peek import Peeked, peek_hello, take_hello
from trunnel.streams.sockets import abort_socket, tune_socket
from trunnel.transports.alpn import offers_challenge, offers_link
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.clienthello import ClientHello, ClientHelloParser, Verdict
from trunnel.wire.direct import MAGIC

logger = logging.getLogger(__name__)

_STREAM_ID_BYTES: Final = 12
"""16 characters of base64url, 96 random bits."""
_OF_ONE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT, errno.EINTR}
    | {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
    | {getattr(errno, name, errno.ECONNABORTED) for name in ("EHOSTDOWN", "ENONET")}  # not on every system
)
"""Errors of accept(2) that concern the connection at the head of the queue: go on with the next."""


@final
class Role(StrEnum):
    """What a connection is, and what a port is for."""

    AGENTS = "agents"
    VISITORS = "visitors"
    CHALLENGES = "challenges"


ALL_ROLES: Final = frozenset(Role)
"""What one port for everything serves."""
_WRONG_PORT: Final = {
    Role.AGENTS: plaintext_alert(AlertDescription.NO_APPLICATION_PROTOCOL),
    Role.CHALLENGES: plaintext_alert(AlertDescription.NO_APPLICATION_PROTOCOL),
    Role.VISITORS: plaintext_alert(AlertDescription.UNRECOGNIZED_NAME),
}


class Listener(Protocol):
    """What the ingress needs of `streams.listen.TcpListener`."""

    @property
    def address(self) -> HostPort:
        """Where it listens."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    def fileno(self) -> int:
        """Return the descriptor, for another process."""
        ...

    def close(self) -> None:
        """Stop listening.  Idempotent."""
        ...

    async def wait_readable(self) -> None:
        """Wait for a connection; raises ClosedResourceError when closed."""
        ...

    def accept_nowait(self) -> tuple[tsocket.SocketType, HostPort] | None:
        """Accept one, or None; raises OSError."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Entrance:
    """A listener and whom it is for."""

    listener: Listener
    roles: frozenset[Role] = ALL_ROLES
    name: str = "port"
    """Which of the relay's ports it is (`entrances`)."""
    supervised: bool = False
    """Whether a supervisor has made the socket."""


@final
@dataclass(slots=True, kw_only=True, eq=False)
class Arrival:
    """One accepted connection, and what is known of it so far."""

    stream: trio.SocketStream
    """The connection; the door owns it."""
    peer: HostPort
    """Who came."""
    local: HostPort
    """Where it came to."""
    accepted_at: float
    """`trio.current_time()` of accept."""
    stream_id: str
    """16 url-safe characters, unique: one id in events, logs and the PROXY header."""
    slot: Ticket
    """Its place among the half-open.  A door releases it when its handshake is done; a visitor's is
    released already.  The ingress releases it in any case when the door returns."""
    role: Role = Role.VISITORS
    """What it turned out to be; VISITORS until its hello is known."""
    consumed: bytes = b""
    """Bytes read ahead where the system cannot peek: the prefix for a TLS handshake."""


class Doors(Protocol):
    """Where arrivals are led.  Each method may raise: only its own connection ends."""

    async def agent(self, arrival: Arrival) -> None:
        """Serve an agent's connection to its end; its hello waits in the kernel, or is `arrival.consumed`."""
        ...

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        """Take a visitor or a challenge (`arrival.role`) over; *raw* is all that was read, hello first.

        The door owns the connection once this returns, and may serve it in another task.
        """
        ...

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        """Have a data connection proven and parked; return whether it was taken over, else it is closed.

        Args:
            arrival: Its first byte is that of a data connection; it waits in the kernel, or is in `consumed`.
            scarce: Whether descriptors run short.
        """
        ...

    def refused(self, arrival: Arrival, verdict: str) -> None:
        """Note that *arrival* was turned away.

        The word is one of `Verdict` (NEED_MORE: FIN came first), or `timeout`,
        `reset`, `wrong-port`, `descriptors`.
        """
        ...


async def serve(
    entrances: Iterable[Entrance], *, admission: Admission, doors: Doors, hello_timeout: float = HELLO_TIMEOUT
) -> None:
    """Accept and lead until every listener is closed and every connection was led or has ended.

    Args:
        entrances: Bound listeners; close them to stop accepting (drain).
        admission: The relay's counts.
        doors: Where connections are led.
        hello_timeout: Seconds from accept to a complete ClientHello, > 0.

    Cancellation: every connection is closed; listeners stay open for whoever opened them.
    """
    async with trio.open_nursery() as nursery:
        for entrance in entrances:
            ingress = _Ingress(entrance, admission, doors, hello_timeout)
            nursery.start_soon(ingress.accept_loop, nursery)


@final
class _Ingress:
    """One entrance."""

    def __init__(self, entrance: Entrance, admission: Admission, doors: Doors, hello_timeout: float) -> None:
        self._listener = entrance.listener
        self._roles = entrance.roles
        self._admission = admission
        self._doors = doors
        self._hello_timeout = hello_timeout
        self._accept_errors = Throttle(LOG_PER_PEER)
        self._refusals = Throttle(LOG_PER_PEER)

    # --- accepting: nothing here waits for a peer -----------------------------------------------

    async def accept_loop(self, nursery: trio.Nursery) -> None:
        """Accept into *nursery* until the listener is closed."""
        while True:
            try:
                await self._listener.wait_readable()
            except trio.ClosedResourceError:
                return
            if not self._accept_some(nursery):
                await trio.sleep(ACCEPT_PAUSE)

    def _accept_some(self, nursery: trio.Nursery) -> bool:
        """Take what waits, at most `ACCEPT_BATCH`; return False if the loop should rest."""
        limit = descriptor_limit()
        for _ in range(ACCEPT_BATCH):
            try:
                accepted = self._listener.accept_nowait()
            except OSError as exc:
                if self._listener.closed:  # since we were woken
                    return True
                if exc.errno in _OF_ONE_CONNECTION:
                    continue
                self._report_accept_error(exc)
                return False
            if accepted is None:
                return True
            sock, peer = accepted
            room = room_for(sock.fileno(), limit)
            if room is Room.NONE:
                self._turn_away(sock, peer, RefuseReason.DESCRIPTORS)
                return False
            self._let_in(nursery, sock, peer, scarce=room is Room.SCARCE)
        return True

    def _let_in(self, nursery: trio.Nursery, sock: tsocket.SocketType, peer: HostPort, *, scarce: bool) -> None:
        decision = self._admission.admit_connection(peer[0])
        if isinstance(decision, Refuse):
            self._turn_away(sock, peer, decision.reason)
            return
        try:
            local = host_port(sock.getsockname())
        except OSError:  # it is gone already, on some systems
            local = ("", 0)
        arrival = Arrival(
            stream=trio.SocketStream(sock),
            peer=peer,
            local=local,
            accepted_at=trio.current_time(),
            stream_id=secrets.token_urlsafe(_STREAM_ID_BYTES),
            slot=decision.ticket,
        )
        nursery.start_soon(self._serve_connection, arrival, scarce)

    def _turn_away(self, sock: tsocket.SocketType, peer: HostPort, reason: RefuseReason) -> None:
        abort_socket(sock)
        if count := self._refusals.due(trio.current_time()):
            logger.warning("connection_refused", extra={"reason": reason.value, "peer": peer[0], "count": count})

    def _report_accept_error(self, error: OSError) -> None:
        if count := self._accept_errors.due(trio.current_time()):
            logger.error(
                "accept_failed",
                extra={"error": error.strerror, "errno": errno.errorcode.get(error.errno or 0), "count": count},
            )

    # --- one connection -------------------------------------------------------------------------

    async def _serve_connection(self, arrival: Arrival, scarce: bool) -> None:
        """Serve one connection from accept to its end: the task boundary "visitor"."""
        taken_over = False
        try:
            taken_over = await self._lead(arrival, scarce)
        except Exception:
            logger.exception("connection_failed", extra={"stream": arrival.stream_id, "peer": arrival.peer[0]})
            abort_socket(arrival.stream.socket)
        finally:
            arrival.slot.release()
            if not taken_over:
                arrival.stream.socket.close()

    async def _lead(self, arrival: Arrival, scarce: bool) -> bool:
        """Learn what *arrival* is and lead it to its door, or turn it away; whether a door took it over."""
        found = await self._await_hello(arrival)
        if found is None:
            return False
        peeked, raw = found
        hello = peeked.hello
        arrival.consumed = peeked.consumed
        if hello is None:
            if peeked.head[:1] == MAGIC[:1] and Role.AGENTS in self._roles:
                return await self._doors.data(arrival, scarce=scarce)  # it tunes the socket itself
            await self._refuse(arrival, peeked.verdict, farewell_for(peeked.verdict, peeked.head))
            return False
        arrival.role = role_of(hello)
        tune_socket(arrival.stream.socket)
        if arrival.role not in self._roles:
            await self._refuse(arrival, "wrong-port", _WRONG_PORT[arrival.role])
        elif arrival.role is Role.AGENTS:
            await self._doors.agent(arrival)
        elif peeked.verdict is not Verdict.ROUTE:
            await self._refuse(arrival, peeked.verdict, farewell_for(peeked.verdict, peeked.head))
        elif scarce:
            self._reset(arrival, RefuseReason.DESCRIPTORS)
        else:
            arrival.slot.release()  # its hello is complete: from here on it counts as a visitor
            await self._doors.visitor(arrival, hello, raw)
            return True
        return False

    async def _await_hello(self, arrival: Arrival) -> tuple[Peeked, bytes] | None:
        """Return what the hello amounts to, and a visitor's bytes; None if the deadline or a reset came first."""
        sock = arrival.stream.socket
        with trio.CancelScope(deadline=arrival.accepted_at + self._hello_timeout):
            try:
                peeked = await peek_hello(sock, ClientHelloParser())
                is_visitor = peeked.hello is not None and not offers_link(peeked.hello.alpn)
                return peeked, await take_hello(sock, peeked) if is_visitor else b""
            except trio.BrokenResourceError:
                self._reset(arrival, "reset")
                return None
        self._reset(arrival, "timeout")
        return None

    async def _refuse(self, arrival: Arrival, verdict: str, words: bytes) -> None:
        """Turn *arrival* away with *words*; without any, just close."""
        self._doors.refused(arrival, str(verdict))
        if words:
            await bid_farewell(arrival.stream, words)

    def _reset(self, arrival: Arrival, verdict: str) -> None:
        abort_socket(arrival.stream.socket)
        self._doors.refused(arrival, str(verdict))


def role_of(hello: ClientHello) -> Role:
    """Return what sent *hello*, told by its ALPN."""
    if offers_link(hello.alpn):
        return Role.AGENTS
    return Role.CHALLENGES if offers_challenge(hello.alpn) else Role.VISITORS
