"""One agent's connection on the relay: handshake, hello, welcome, and its session.

    TLS handshake (client key proven) → HTTP/2 session → control stream
      → hello within 10 s → rejected, and closed
                          → welcome: the names are its own, visitors come
      → until the carrier is lost, the agent drains, or the session is retired

The session's nursery is opened and closed in `_attached`, in one function; the
visitors' tasks that `visitors` starts in it end with it.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final, final

import trio
from OpenSSL import SSL

from trunnel.errors import ConnectError, ErrorCode, LocalProtocolError, RejectCode, RemoteProtocolError, SessionClosed
from trunnel.events import AgentRefused, EventSink, SessionEnded, SessionOpened
from trunnel.identity.keys import extension_of, id_of
from trunnel.names import Hostname, KeyId
from trunnel.relay.admission import Admission, Refuse, Ticket
from trunnel.relay.ingress import Arrival
from trunnel.relay.sessions import AgentSession, Farewell, Sessions
from trunnel.relay.throttle import Throttle
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.sockets import abort_socket
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2
from trunnel.transports.base import Peer, Session
from trunnel.transports.control_stream import ControlStream, receive_one
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.wire import control
from trunnel.wire.proxyprotocol import Address

logger = logging.getLogger(__name__)

_SESSION_ID_BYTES: Final = 9
"""12 characters of base64url."""
HTTPS_PORT: Final = 443
"""The port that a URL need not name."""


def endpoint_of(name: Hostname, public_port: int) -> control.Endpoint:
    """Return the public address of a name."""
    port = "" if public_port == HTTPS_PORT else f":{public_port}"
    return control.Endpoint(name.value, f"https://{name}{port}")


def _sayable(seconds: float) -> float:
    """Return *seconds* as a welcome can carry it."""
    return min(max(seconds, limits.CONTROL_SECONDS_MIN), limits.CONTROL_SECONDS_MAX)


def _peer_of(carrier: TlsStream, arrival: Arrival) -> Peer:
    """Return who proved which key; raises RemoteProtocolError if there is no carrier to be had with it."""
    if carrier.alpn != LINK_ALPN_H2 or not carrier.peer_certificates:
        raise RemoteProtocolError("no carrier protocol in common, or no certificate")
    leaf = carrier.peer_certificates[0]
    return Peer(key_id=id_of(leaf), address=str(Address(*arrival.peer)), extension=extension_of(leaf))


@final
class AgentDoor:
    """Takes agents' connections in and keeps their sessions."""

    def __init__(  # noqa: PLR0913 - the parts of the relay that agents meet, each by its name
        self,
        sessions: Sessions,
        admission: Admission,
        settings: RelaySettings,
        *,
        relay_id: KeyId,
        context: SSL.Context,
        public_port: int,
        on_event: EventSink,
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._settings = settings
        self._relay_id = relay_id
        self._context = context
        self._public_port = public_port
        self._on_event = on_event
        self._refusals = Throttle(limits.LOG_PER_PEER)
        self.draining = False
        """Whether agents are refused because the relay stops."""

    async def serve(self, arrival: Arrival) -> None:
        """Serve one agent's connection to its end."""
        decision = self._admission.admit_handshake(arrival.peer[0])
        if isinstance(decision, Refuse):
            abort_socket(arrival.stream.socket)
            return
        with decision.ticket:
            try:
                carrier = await TlsStream.handshake(
                    arrival.stream,
                    self._context,
                    role=TlsRole.SERVER,
                    prefix=arrival.consumed,
                    timeout=limits.HANDSHAKE_TIMEOUT,
                )
            except ConnectError as exc:
                logger.info("agent_handshake_failed", extra={"peer": arrival.peer[0], "reason": str(exc)})
                return
        try:
            peer = _peer_of(carrier, arrival)
        except RemoteProtocolError as exc:
            logger.warning("agent_handshake_failed", extra={"peer": arrival.peer[0], "reason": exc.reason})
            carrier.abort()
            return
        async with open_h2_session(
            carrier, Role.CLIENT, peer, authority=self._relay_id.value, window_max=self._settings.stream_window
        ) as link:
            await self._greet(link, arrival.slot)

    async def _greet(self, link: Session, slot: Ticket) -> None:
        """Hear the agent's hello and answer it; it counts as half-open until then."""
        try:
            with trio.fail_after(limits.HANDSHAKE_TIMEOUT):
                opened = await link.open_stream()  # waits for ever if the agent allows no stream
            channel = ControlStream(link, opened, control.Phase.EXPECT_HELLO)
            hello = await receive_one(channel, limits.HANDSHAKE_TIMEOUT)
        except (SessionClosed, RemoteProtocolError, trio.TooSlowError) as exc:
            reason = str(exc) or "the agent allowed no control stream in time"
            logger.info("agent_hello_failed", extra={"peer": link.peer.address, "reason": reason})
            link.abort(reason, code=ErrorCode.PROTOCOL_ERROR)
            return
        if not isinstance(hello, control.Hello):
            raise LocalProtocolError("the phase admits nothing else")
        refusal = self._refusal(hello, link)
        if refusal is not None:
            await self._reject(link, channel, refusal)
        else:
            slot.release()
            await self._attached(link, channel, hello)

    def _refusal(self, hello: control.Hello, link: Session) -> control.Rejected | None:
        if self.draining:
            return control.Rejected(RejectCode.DRAINING, "the relay is stopping", limits.BACKOFF_BASE)
        if control.pick_version(hello.versions) is None:
            spoken = ", ".join(map(str, control.VERSIONS))
            return control.Rejected(RejectCode.VERSION, f"this relay speaks protocol version {spoken} only")
        return self._sessions.refusal(link.peer.key_id, hello)

    async def _reject(self, link: Session, channel: ControlStream, refusal: control.Rejected) -> None:
        key_id = link.peer.key_id
        authorize = f"trunnel authorize {key_id}" if refusal.code == RejectCode.UNAUTHORIZED else ""
        if count := self._refusals.due(trio.current_time()):
            named = {"agent": key_id.value, "peer": link.peer.address, "code": str(refusal.code)}
            logger.warning("agent_refused", extra={**named, "authorize": authorize, "count": count})
        self._on_event(
            AgentRefused(
                agent_id=key_id.value,
                peer=link.peer.address,
                code=str(refusal.code),
                reason=refusal.reason,
                authorize=authorize,
            )
        )
        channel.post(refusal)
        channel.finish()
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await channel.run_writer()
            await link.wait_closed()

    # --- an attached agent --------------------------------------------------------------------------

    async def _attached(self, link: Session, channel: ControlStream, hello: control.Hello) -> None:
        """Keep one agent attached until its session ends; owns the session's nursery."""
        async with trio.open_nursery() as nursery:
            session = AgentSession(
                session_id=secrets.token_urlsafe(_SESSION_ID_BYTES),
                link=link,
                channel=channel,
                hello=hello,
                nursery=nursery,
            )
            self._sessions.attach(session)
            reason = "the relay stopped"
            try:
                channel.post(self._welcome(session))
                self._report_opened(session)
                nursery.start_soon(self._speak, session)
                nursery.start_soon(self._listen, session)
                nursery.start_soon(self._watch_link, session)
                await session.retired.wait()
                await self._wind_up(session)
                reason = session.farewell.reason if session.farewell is not None else reason
            finally:
                self._sessions.detach(session)
                self._on_event(SessionEnded(agent_id=session.key_id.value, reason=reason))
                logger.info("session_closed", extra={"agent": session.key_id.value, "reason": reason})
            nursery.cancel_scope.cancel()

    def _report_opened(self, session: AgentSession) -> None:
        agent, peer = session.key_id.value, session.link.peer.address
        self._on_event(SessionOpened(agent_id=agent, label=session.label, peer=peer, transport=session.link.transport))
        logger.info("session_opened", extra={"agent": agent, "peer": peer})

    async def _speak(self, session: AgentSession) -> None:
        await session.channel.run_writer()
        session.has_spoken.set()

    async def _wind_up(self, session: AgentSession) -> None:
        """Let visitors finish within the farewell's grace, and the last message leave."""
        with session.winding_up:
            await session.wait_idle()
        farewell = session.farewell
        if farewell is None or session.link.closed is not None:
            return
        if farewell.message is not None:
            session.channel.post(farewell.message)
        session.channel.finish()
        with trio.move_on_after(limits.RETIRE_GRACE):
            await session.has_spoken.wait()
            if farewell.message is not None:
                await session.link.wait_closed()  # the agent closes once it has read why

    async def _watch_link(self, session: AgentSession) -> None:
        closed = await session.link.wait_closed()
        session.retire(Farewell(reason=closed.reason, grace=limits.ABORT_FLUSH_TIMEOUT))

    async def _listen(self, session: AgentSession) -> None:
        """Hear the agent's control messages."""
        try:
            while True:
                match await session.channel.receive():
                    case control.Ping(id=number):
                        session.channel.post(control.Pong(number))
                    case control.Drain(grace=grace):
                        self._sessions.routes.release(session)
                        session.retire(Farewell(reason="the agent stopped", grace=grace))
                    case _:
                        pass  # a pong; the phase admits nothing else
        except SessionClosed as exc:
            session.retire(Farewell(reason=exc.reason, grace=limits.ABORT_FLUSH_TIMEOUT))
        except RemoteProtocolError as exc:
            session.link.abort(f"control: {exc.reason}", code=ErrorCode.PROTOCOL_ERROR)

    def _welcome(self, session: AgentSession) -> control.Welcome:
        settings = self._settings
        return control.Welcome(
            version=control.pick_version(session.hello.versions) or control.PROTOCOL_VERSION,
            session=session.session_id,
            relay=self._relay_id.value,
            label=control.printable(session.label),
            suffixes=[suffix.value for suffix in settings.domain_suffixes],
            public_port=self._public_port,
            endpoints=self._endpoints(session),
            limits=control.SessionLimits(
                streams=settings.streams_per_session,
                heartbeat=limits.HEARTBEAT,
                dead_after=limits.DEAD_AFTER,
                first_byte_timeout=_sayable(settings.first_byte_timeout),
                idle_timeout=_sayable(settings.idle_timeout),
            ),
        )

    def _endpoints(self, session: AgentSession) -> list[control.Endpoint]:
        return [endpoint_of(name, self._public_port) for name in self._sessions.routes.names(session)]

    def announce(self, session: AgentSession) -> None:
        """Tell an agent that its names have changed."""
        session.channel.post(control.Endpoints(self._endpoints(session)))
