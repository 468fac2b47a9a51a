"""One visitor's way through the relay: from a routed hello to the "closed" record.

A visitor whose name has an owner becomes a task in that owner's session: when
the session ends, so does the visitor, and nobody else.  The task finds it a
road to the agent, sends the PROXY header and the hello in one write, and pumps
until both sides have ended:

    a data connection, parked or soon to be (`taking`)     where the session has them
    a stream in the session                                else, for challenges, and when that failed

A challenge (`acme-tls/1`) goes to the owner of its name only, always inside the
session, and for a name of the agent's own only after DNS has said once more
that it is that agent's (`claims`); all of it within `CHALLENGE_TIMEOUT`.

Nobody is led to a default tenant: a name without an owner gets a TLS alert,
after a takeover not before its agent had the time to come (`holding`).
Which name is used for routing is the name in the preface, read once (SEC-09).

A visitor that has arrived may stay for hours: its task then keeps what the
closing record needs, and nothing of its hello.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, final

import trio

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.events import EventSink, StreamClosed
from trunnel.names import Hostname
from trunnel.pump import Workers, pump
from trunnel.relay.admission import Admission, Admit, Refuse, Ticket
from trunnel.relay.farewell import bid_farewell
from trunnel.relay.holding import Hold
from trunnel.relay.ingress import Arrival, Role
from trunnel.relay.sessions import AgentSession, Sessions
from trunnel.relay.taking import take
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, End
from trunnel.streams.sockets import abort_socket
from trunnel.transports.base import Stream
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.clienthello import ClientHello
from trunnel.wire.control import DataPath
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import Address, StreamKind, visitor_preface

logger = logging.getLogger(__name__)

_UNKNOWN = plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
_UNAVAILABLE = plaintext_alert(AlertDescription.INTERNAL_ERROR)
_ALERTS: Final = {Answer.UNKNOWN_ENDPOINT: _UNKNOWN}
"""What a visitor is told whom its agent refuses; all others hear that it is unavailable."""


async def open_visit(session: AgentSession, opening: bytes, *, timeout: float) -> Stream:  # noqa: ASYNC109 - the agent's
    """Open a visitor's stream in *session* and send its *opening*, preface first.

    Args:
        session: Where the visitor's name led.
        opening: What is sent at once.
        timeout: Seconds for all of it; without a carrier only `CARRIER_WAIT`.

    Raises:
        SessionClosed, trio.BrokenResourceError: No carrier came in time, or the one that had the stream is lost.
        trio.TooSlowError: The carrier did not take the opening in time.

    Cancellation: the stream was reset.
    """
    with trio.fail_after(timeout):
        stream = await session.link.open_stream()
        try:
            await stream.send_all(opening)
        except BaseException:
            abort_stream(stream, ErrorCode.CANCEL)
            raise
    return stream


@final
class _Visit:
    """One visitor that has been let in."""

    __slots__ = ("alpn", "arrival", "counter", "ends", "first", "name", "opened", "path", "tickets")

    def __init__(self, arrival: Arrival, name: Hostname, hello: ClientHello, first: bytes) -> None:
        self.arrival = arrival
        self.name = name
        self.alpn = hello.alpn[0] if hello.alpn and hello.alpn[0] else None
        self.first = first  # until it is delivered
        self.tickets: tuple[Ticket, ...] = ()
        self.counter = Counter(left_bytes=len(first))
        self.ends: tuple[End, End] = (End.CANCELLED, End.CANCELLED)
        self.opened = trio.current_time()
        self.path = DataPath.SESSION

    @property
    def is_challenge(self) -> bool:
        """Whether it checks a certificate instead of visiting."""
        return self.arrival.role is Role.CHALLENGES

    def header(self) -> bytes:
        """Return the PROXY header."""
        return visitor_preface(
            visitor=Address(*self.arrival.peer),
            local=Address(*self.arrival.local),
            authority=self.name,
            endpoint=self.name,
            alpn=self.alpn,
            stream=self.arrival.stream_id,
            kind=StreamKind.CHALLENGE if self.is_challenge else StreamKind.VISITOR,
        )

    def closed(self) -> StreamClosed:
        """Return the closing record."""
        return StreamClosed(
            stream=self.arrival.stream_id,
            visitor=str(Address(*self.arrival.peer)),
            bytes_in=self.counter.left_bytes,
            bytes_out=self.counter.right_bytes,
            seconds=round(trio.current_time() - self.opened, 3),
            visitor_end=self.ends[0].value,
            origin_end=self.ends[1].value,
            data_path=self.path.value,
            hostname=self.name.value,
        )


@final
class VisitorDoor:
    """Leads routed visitors into their sessions."""

    def __init__(
        self,
        sessions: Sessions,
        admission: Admission,
        settings: RelaySettings,
        *,
        workers: Workers | None = None,
        on_event: EventSink,
        refused: Callable[[Arrival, str], None],
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._workers = workers
        self.confirm: Callable[[Hostname, AgentSession], Awaitable[bool]] = self._is_given
        """Whether a challenge for a name may be passed on to a session (`Claims.confirm`)."""
        self._on_event = on_event
        self._refused = refused
        self.hold: Hold | None = None
        """Where visitors wait whose agents have yet to come, after a takeover."""
        self._streams_max = settings.streams_per_session
        self._held_max = min(self._streams_max, limits.TAKEOVER_VISITORS)
        self._visitor_limits = CopyLimits(
            first_byte=settings.first_byte_timeout,
            idle=settings.idle_timeout,
            half_closed=limits.HALF_CLOSED_TIMEOUT,
            first_byte_from="right",
        )
        self._challenge_limits = CopyLimits(
            first_byte=limits.CHALLENGE_TIMEOUT,
            idle=limits.CHALLENGE_TIMEOUT,
            half_closed=limits.CHALLENGE_TIMEOUT,
            total=limits.CHALLENGE_TIMEOUT,
            first_byte_from="right",
        )

    async def lead(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        """Find the owner of the hello's name and hand the visitor over to its session.

        Returns once the visitor is in its session's nursery, or turned away.
        """
        name = hello.server_name
        if name is not None and self.hold is not None:
            await self._hold(self.hold, arrival, name)
        session = None if name is None else self._sessions.routes.lookup(name)
        if name is None or session is None:
            self._refused(arrival, "unknown-name")
            await bid_farewell(arrival.stream, _UNKNOWN)
            return
        tickets = self._admit(arrival, name, session)
        if isinstance(tickets, str):
            self._refused(arrival, tickets)
            abort_socket(arrival.stream.socket)
            return
        visit = _Visit(arrival, name, hello, raw)
        visit.tickets = tickets
        session.enter()
        session.nursery.start_soon(self._serve, session, visit)

    async def _hold(self, hold: Hold, arrival: Arrival, name: Hostname) -> None:
        """Let a visitor wait for the owner of its name, who is about to come; it counts as a visitor meanwhile."""

        def owners() -> tuple[AgentSession, ...]:
            return self._sessions.routes.owners(name)

        def has_room() -> bool:
            return any(owner.visitors < self._held_max for owner in owners())

        if has_room() or hold.over:
            return
        decision = self._admission.admit_visitor(arrival.peer[0])
        if isinstance(decision, Admit):
            with decision.ticket:
                await hold.wait_owner(name, is_owned=lambda: bool(owners()), has_room=has_room)

    def _admit(self, arrival: Arrival, name: Hostname, session: AgentSession) -> tuple[Ticket, ...] | str:
        """Return the visitor's tickets, or the word for why it is refused."""
        if session.visitors >= self._streams_max:
            return "streams-per-session"
        host = arrival.peer[0]
        decisions = [self._admission.admit_visitor(host)]
        if arrival.role is Role.CHALLENGES:
            decisions.append(self._admission.admit_challenge(name, host))
        tickets = tuple(decision.ticket for decision in decisions if isinstance(decision, Admit))
        for decision in decisions:
            if isinstance(decision, Refuse):
                for ticket in tickets:
                    ticket.release()
                return decision.reason.value
        return tickets

    async def _serve(self, session: AgentSession, visit: _Visit) -> None:
        """Carry one visitor to its end: a task boundary, like the one in `ingress`."""
        try:
            await self._carry(session, visit)
        except Exception:
            arrival = visit.arrival
            logger.exception("visitor_failed", extra={"stream": arrival.stream_id, "peer": arrival.peer[0]})
        finally:
            abort_socket(visit.arrival.stream.socket)  # no effect on one that was closed in order
            session.leave()
            for ticket in visit.tickets:
                ticket.release()

    async def _carry(self, session: AgentSession, visit: _Visit) -> None:
        copy_limits = self._visitor_limits
        if visit.is_challenge:
            road = await self._reach_challenged(session, visit)
            copy_limits = replace(self._challenge_limits, total=_time_left(visit))
        else:
            road = await self._reach(session, visit, patience=copy_limits.first_byte)
        if isinstance(road, bytes):
            await bid_farewell(visit.arrival.stream, road)
            return
        visit.first = visit.arrival.consumed = b""
        on_direct = visit.path is DataPath.DIRECT
        session.on_direct += on_direct
        try:
            result = await pump(visit.arrival.stream, road, copy_limits, counter=visit.counter, workers=self._workers)
            visit.ends = result.left_end, result.right_end
        finally:
            session.on_direct -= on_direct
            self._on_event(visit.closed())

    async def _is_given(self, name: Hostname, session: AgentSession) -> bool:  # noqa: ARG002 - as `Claims.confirm`
        """Without claims there are only names under the suffixes."""
        return self._sessions.rules.is_given(name)

    async def _reach_challenged(self, session: AgentSession, visit: _Visit) -> Stream | trio.SocketStream | bytes:
        """Return the road of a challenge, as `_reach` does, if its name is the session's beyond doubt."""
        with trio.move_on_after(_time_left(visit)):
            if await self.confirm(visit.name, session):
                return await self._reach(session, visit, patience=_time_left(visit))
        self._refused(visit.arrival, "name-not-proven")
        return _UNKNOWN

    async def _reach(
        self, session: AgentSession, visit: _Visit, *, patience: float
    ) -> Stream | trio.SocketStream | bytes:
        """Return the road on which the agent has the visitor's opening, or last words for one that gets no road."""
        header = visit.header()
        lot = None if visit.is_challenge else session.lot
        taken = None if lot is None else await take(lot, header, visit.first, patience=patience)
        if taken is not None:
            if taken.answer is Answer.ACCEPTED:
                visit.path = DataPath.DIRECT
                return taken.link.stream
            taken.link.abort()
            self._refused(visit.arrival, "agent-refused")
            return _ALERTS.get(taken.answer, _UNAVAILABLE)
        if lot is None or not lot.only:
            with suppress(SessionClosed, trio.BrokenResourceError, trio.TooSlowError):
                return await open_visit(session, header + visit.first, timeout=patience)
        self._refused(visit.arrival, "agent-lost")
        return _UNAVAILABLE


def _time_left(visit: _Visit) -> float:
    """Return the seconds that a challenge still has."""
    return max(visit.opened + limits.CHALLENGE_TIMEOUT - trio.current_time(), limits.CHALLENGE_TIME_MIN)
