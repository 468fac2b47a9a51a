"""One visitor's way through the relay: from a routed hello to the "closed" record.

A visitor whose name has an owner becomes a task in that owner's session: when
the session ends, so does the visitor, and nobody else.  The task opens a
stream, sends the PROXY header and the hello in one write, and copies until
both sides have ended.

Nobody is led to a default tenant: a name without an owner gets a TLS alert.
Which name is used for routing is the name in the preface, read once (SEC-09).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import final

import trio

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.events import EventSink, StreamClosed
from trunnel.names import Hostname
from trunnel.relay.admission import Admission, Admit, Refuse, Ticket
from trunnel.relay.farewell import bid_farewell
from trunnel.relay.ingress import Arrival, Role
from trunnel.relay.sessions import AgentSession, Sessions
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, End, copy_streams
from trunnel.streams.sockets import abort_socket
from trunnel.transports.base import Stream
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.clienthello import ClientHello
from trunnel.wire.proxyprotocol import Address, StreamKind, visitor_preface

logger = logging.getLogger(__name__)

_UNKNOWN = plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
_UNAVAILABLE = plaintext_alert(AlertDescription.INTERNAL_ERROR)
_DATA_PATH = "session"


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
class VisitorDoor:
    """Leads routed visitors into their sessions."""

    def __init__(
        self,
        sessions: Sessions,
        admission: Admission,
        settings: RelaySettings,
        *,
        on_event: EventSink,
        refused: Callable[[Arrival, str], None],
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._on_event = on_event
        self._refused = refused
        self._streams_max = settings.streams_per_session
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
        session.enter()
        session.nursery.start_soon(self._serve, session, arrival, name, hello, raw, tickets)

    def _admit(self, arrival: Arrival, name: Hostname, session: AgentSession) -> tuple[Ticket, ...] | str:
        """Return the visitor's tickets, or the word for why it is refused."""
        if session.visitors >= self._streams_max:
            return "streams-per-session"
        decisions = [self._admission.admit_visitor(arrival.peer[0])]
        if arrival.role is Role.CHALLENGES:
            decisions.append(self._admission.admit_challenge(name))
        tickets = tuple(decision.ticket for decision in decisions if isinstance(decision, Admit))
        for decision in decisions:
            if isinstance(decision, Refuse):
                for ticket in tickets:
                    ticket.release()
                return decision.reason.value
        return tickets

    async def _serve(
        self,
        session: AgentSession,
        arrival: Arrival,
        name: Hostname,
        hello: ClientHello,
        raw: bytes,
        tickets: tuple[Ticket, ...],
    ) -> None:
        """Carry one visitor to its end: a task boundary, like the one in `ingress`."""
        with ExitStack() as stack:
            for ticket in tickets:
                stack.enter_context(ticket)
            stack.callback(session.leave)
            try:
                await self._carry(session, arrival, name, hello, raw)
            except Exception:
                logger.exception("visitor_failed", extra={"stream": arrival.stream_id, "peer": arrival.peer[0]})
            finally:
                abort_socket(arrival.stream.socket)  # no effect on one that was closed in order

    async def _carry(
        self, session: AgentSession, arrival: Arrival, name: Hostname, hello: ClientHello, raw: bytes
    ) -> None:
        challenge = arrival.role is Role.CHALLENGES
        preface = visitor_preface(
            visitor=Address(*arrival.peer),
            local=Address(*arrival.local),
            authority=name,
            endpoint=name,
            alpn=hello.alpn[0] if hello.alpn and hello.alpn[0] else None,
            stream=arrival.stream_id,
            kind=StreamKind.CHALLENGE if challenge else StreamKind.VISITOR,
        )
        opened = trio.current_time()
        copy_limits = self._challenge_limits if challenge else self._visitor_limits
        try:
            stream = await open_visit(session, preface + raw, timeout=copy_limits.first_byte)
        except (SessionClosed, trio.BrokenResourceError, trio.TooSlowError):
            self._refused(arrival, "agent-lost")
            await bid_farewell(arrival.stream, _UNAVAILABLE)
            return
        counter, ends = Counter(left_bytes=len(raw)), (End.CANCELLED, End.CANCELLED)
        try:
            result = await copy_streams(arrival.stream, stream, copy_limits, counter=counter)
            ends = result.left_end, result.right_end
        finally:
            self._report(arrival, name, counter, ends, trio.current_time() - opened)

    def _report(
        self, arrival: Arrival, name: Hostname, counter: Counter, ends: tuple[End, End], seconds: float
    ) -> None:
        self._on_event(
            StreamClosed(
                stream=arrival.stream_id,
                visitor=str(Address(*arrival.peer)),
                bytes_in=counter.left_bytes,
                bytes_out=counter.right_bytes,
                seconds=round(seconds, 3),
                visitor_end=ends[0].value,
                origin_end=ends[1].value,
                data_path=_DATA_PATH,
                hostname=name.value,
            )
        )
