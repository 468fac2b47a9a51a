"""The agents' door: from an agent's connection to a carrier of a session.

    TLS handshake (client key proven) → HTTP/2 or yamux, by ALPN ┐
    QUIC handshake (client key proven), done by the endpoint     ┴→ control stream
      → hello within 10 s → rejected, and closed
                          → carrier of a session, new or joined (`attached`)

The carrier's tasks live in the task of its connection, and end with it.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import final

import trio

from trunnel.errors import ConnectError, ErrorCode, LocalProtocolError, RejectCode, RemoteProtocolError, SessionClosed
from trunnel.events import AgentRefused, EventSink
from trunnel.identity.keys import extension_of, id_of
from trunnel.names import KeyId
from trunnel.relay.admission import Admission, Refuse, Ticket
from trunnel.relay.attached import STOPPING, AttachedAgents
from trunnel.relay.certificate import RelayCertificate
from trunnel.relay.ingress import Arrival
from trunnel.relay.reception import Reception
from trunnel.relay.sessions import AgentSession
from trunnel.relay.throttle import Throttle
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.sockets import abort_socket
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2, LINK_ALPN_YAMUX
from trunnel.transports.base import Peer, Session
from trunnel.transports.control_stream import ControlStream, receive_one
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire import control
from trunnel.wire.proxyprotocol import Address

logger = logging.getLogger(__name__)


def _peer_of(carrier: TlsStream, arrival: Arrival) -> Peer:
    """Return who proved which key; raises RemoteProtocolError if there is no carrier to be had with it."""
    if carrier.alpn not in (LINK_ALPN_H2, LINK_ALPN_YAMUX) or not carrier.peer_certificates:
        raise RemoteProtocolError("no carrier protocol in common, or no certificate")
    leaf = carrier.peer_certificates[0]
    return Peer(key_id=id_of(leaf), address=str(Address(*arrival.peer)), extension=extension_of(leaf))


@final
class AgentDoor:
    """Takes agents' connections in and makes them carriers."""

    def __init__(
        self,
        attached: AttachedAgents,
        admission: Admission,
        settings: RelaySettings,
        *,
        certificate: RelayCertificate,
        on_event: EventSink,
    ) -> None:
        self._attached = attached
        self._admission = admission
        self._certificate = certificate
        self._on_event = on_event
        self._refusals = Throttle(limits.LOG_PER_PEER)
        self.window_max = settings.stream_window
        """Bytes to which a stream's receive window may grow."""
        self.reception: Reception | None = None
        """Takes agents' invitations, if there are any to be taken."""

    @property
    def draining(self) -> bool:
        """Whether agents are refused because the relay stops."""
        return self._attached.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._attached.draining = value

    async def serve(self, arrival: Arrival) -> None:
        """Serve one agent's TCP connection to its end."""
        decision = self._admission.admit_handshake(arrival.peer[0])
        if isinstance(decision, Refuse):
            abort_socket(arrival.stream.socket)
            return
        shown = self._certificate.current
        with decision.ticket:
            try:
                carrier = await TlsStream.handshake(
                    arrival.stream,
                    shown.context,
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
        carrier.peer_certificates = ()  # 3 KiB for each agent that is attached; what they say is in `peer`
        async with self._multiplex(carrier, peer) as link:
            await self.greet(link, arrival.slot, shown.relay_id)

    def _multiplex(self, carrier: TlsStream, peer: Peer) -> AbstractAsyncContextManager[Session]:
        """Return the transport that ALPN has agreed on."""
        if carrier.alpn == LINK_ALPN_YAMUX:
            return open_yamux_session(carrier, Role.CLIENT, peer, window_max=self.window_max, accepting=False)
        authority = self._certificate.current.relay_id.value
        return open_h2_session(carrier, Role.CLIENT, peer, authority=authority, window_max=self.window_max)

    async def greet(self, link: Session, slot: Ticket, shown: KeyId) -> None:
        """Hear the agent's hello on a new carrier, answer it, and serve the carrier to its end.

        Args:
            link: The carrier; whoever opened it closes it.
            slot: Its place among the half-open; released once the agent is admitted.
            shown: The relay's id by the certificate that the agent was shown.
        """
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
        admitted = self._refusal(hello, shown) or await self._admit(link, hello, shown)
        if isinstance(admitted, control.Rejected):
            await self._reject(link, channel, admitted)
        else:
            slot.release()
            await self._attached.carry(admitted, link, channel, alone=hello.alone)

    async def _admit(self, link: Session, hello: control.Hello, shown: KeyId) -> AgentSession | control.Rejected:
        """Take what the hook says, or an invitation is worth, into account, and admit the agent or say why not.

        One that joins a session is asked for neither; nor does it wait, in which time the session might end.
        """
        if self._attached.joins(link.peer, hello):
            return await self._attached.admit(link, hello)
        granted = await self._attached.judge(link.peer, hello)
        if isinstance(granted, control.Rejected):
            return granted
        if self.reception is not None and granted is None:
            refused = await self.reception.refusal(link.peer.key_id, hello)
            if refused is not None:
                return refused
        return self._refusal(hello, shown) or await self._attached.admit(link, hello, granted)

    def _refusal(self, hello: control.Hello, shown: KeyId) -> control.Rejected | None:
        if self.draining:  # nobody need be asked about it
            return STOPPING
        if control.pick_version(hello.versions) is None:
            spoken = ", ".join(map(str, control.VERSIONS))
            return control.Rejected(RejectCode.VERSION, f"this relay speaks protocol version {spoken} only")
        if shown != self._certificate.current.relay_id:  # a welcome says who we are now
            return control.Rejected(RejectCode.DRAINING, "the relay has another key since", limits.BACKOFF_BASE)
        return None

    async def _reject(self, link: Session, channel: ControlStream, refusal: control.Rejected) -> None:
        key_id = link.peer.key_id
        authorize = f"trunnel authorize {key_id}" if refusal.code == RejectCode.UNAUTHORIZED else ""
        if count := self._refusals.due(trio.current_time()):
            named = {"agent": key_id.value, "peer": link.peer.address, "code": str(refusal.code)}
            named["extension"] = link.peer.extension.hex()
            logger.warning("agent_refused", extra={**named, "authorize": authorize, "count": count})
        self._on_event(
            AgentRefused(
                agent_id=key_id.value,
                peer=link.peer.address,
                code=str(refusal.code),
                reason=refusal.reason,
                authorize=authorize,
                extension=link.peer.extension.hex(),
            )
        )
        channel.post(refusal)
        channel.finish()
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await channel.run_writer()
            await link.wait_closed()
