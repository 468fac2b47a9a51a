"""An attached agent's session on the relay: from its first carrier to its end.

    first carrier → a session of its own, in the relay's nursery (`_run`)
        carriers come and go (`carry`, each in the task of its connection)
        the last one is lost: ADOPTION_TIMEOUT for the next
    → retired: replaced, revoked, drained, or not adopted in time

A session's nursery is opened and closed in `_keep`, in one function; the
visitors' tasks that `visitors` starts in it end with it.  `_run` around it is a
task boundary: a session that fails ends alone, never the relay.  A carrier's
control stream is served by the carrier's task, whatever session it belongs to.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import trio

from trunnel.errors import ErrorCode, RejectCode, RemoteProtocolError, SessionClosed
from trunnel.events import CarrierLost, CarrierOpened, EventSink, SessionEnded, SessionOpened
from trunnel.names import Hostname, KeyId
from trunnel.relay.applicants import judge
from trunnel.relay.authorized import AuthorizedAgent
from trunnel.relay.canary import run_canary
from trunnel.relay.claims import Claims, prover, refused_names
from trunnel.relay.issuance import Issuances
from trunnel.relay.sessions import AgentSession, Farewell, Sessions
from trunnel.relay.taking import DataPlane
from trunnel.settings import limits
from trunnel.settings.agent import DataChoice
from trunnel.settings.relay import RelaySettings
from trunnel.transports.base import Peer, Session
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.pool import open_pool
from trunnel.wire import control

logger = logging.getLogger(__name__)

_SESSION_ID_BYTES: Final = 9
"""12 characters of base64url."""
STOPPING: Final = control.Rejected(RejectCode.DRAINING, "the relay is stopping", limits.BACKOFF_BASE)
"""What agents are told who come when the relay drains."""
HTTPS_PORT: Final = 443
"""The port that a URL need not name."""


def endpoint_of(name: Hostname, public_port: int) -> control.Endpoint:
    """Return the public address of a name."""
    port = "" if public_port == HTTPS_PORT else f":{public_port}"
    return control.Endpoint(name.value, f"https://{name}{port}")


def quic_heartbeat(sessions: int) -> float:
    """Return how often an agent on QUIC is to ping, in seconds, at a relay with so many *sessions*.

    A ping costs about 0.3 ms here.  A full relay bears them more seldom, and a blackholed UDP is
    then noticed later by agents that nobody visits.
    """
    return min(limits.HEARTBEAT, max(limits.QUIC_HEARTBEAT, sessions / limits.QUIC_PINGS_PER_SECOND))


def _sayable(seconds: float) -> float:
    """Return *seconds* as a welcome can carry it."""
    return min(max(seconds, limits.CONTROL_SECONDS_MIN), limits.CONTROL_SECONDS_MAX)


def _direct_of(session: AgentSession) -> control.Direct | None:
    """Return what the agent is told of data connections."""
    if session.lot is None:
        return None
    return control.Direct(secret=session.lot.terms.secret.hex(), parked=limits.PARKED_MAX)


@final
class AttachedAgents:
    """Runs the sessions of a relay's agents."""

    def __init__(
        self,
        sessions: Sessions,
        settings: RelaySettings,
        *,
        plane: DataPlane,
        public_port: int,
        nursery: trio.Nursery,
        on_event: EventSink,
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._plane = plane
        self._public_port = public_port
        self._nursery = nursery
        self._on_event = on_event
        self.claims = Claims(sessions, prover(settings), self.announce)
        """Who has which names of the agents' own."""
        self.issuances: Issuances | None = None
        """What the agents may ask an authority for; None: as much as they like."""
        self.draining = False
        """Whether all are refused because the relay stops: who came now would not be told so."""

    def joins(self, peer: Peer, hello: control.Hello) -> bool:
        """Return whether an agent's carrier is one more of a session that is there."""
        return self._sessions.joined(peer.key_id, hello) is not None

    async def judge(self, peer: Peer, hello: control.Hello) -> AuthorizedAgent | control.Rejected | None:
        """Return what the authorisation hook says of an agent; None if there is none, or the list is to decide.

        Cancellation: the hook's, too.
        """
        hook = self._sessions.hook
        return None if hook is None else await judge(hook, peer, hello)

    async def admit(
        self, link: Session, hello: control.Hello, granted: AuthorizedAgent | None = None
    ) -> AgentSession | control.Rejected:
        """Return the session that *link* belongs to, perhaps a new one, or why it is refused.

        Args:
            link: The carrier.
            hello: What its agent says.
            granted: What the authorisation hook gives a new session; None: the list decides.

        Cancellation: a new session ends by itself when no carrier comes.
        """
        refusal = self._refusal(link.peer.key_id, hello, granted)
        if refusal is not None:
            return refusal
        joined = self._sessions.joined(link.peer.key_id, hello)
        if joined is not None:
            return joined
        admitted: AgentSession | control.Rejected = await self._nursery.start(self._run, link, hello, granted)
        return admitted

    def _refusal(self, key_id: KeyId, hello: control.Hello, granted: AuthorizedAgent | None) -> control.Rejected | None:
        if self.draining:
            return STOPPING
        return self._sessions.refusal(key_id, hello, granted)

    # --- a session ----------------------------------------------------------------------------------

    async def _run(
        self,
        first: Session,
        hello: control.Hello,
        granted: AuthorizedAgent | None,
        task_status: trio.TaskStatus[AgentSession | control.Rejected],
    ) -> None:
        """Run one session to its end: a task boundary, like the ones in `ingress` and `visitors`."""
        try:
            await self._keep(first, hello, granted, task_status)
        except Exception:  # before `started` the task that waits for it learns of it, too
            logger.exception("session_failed", extra={"agent": first.peer.key_id.value, "peer": first.peer.address})

    async def _keep(
        self,
        first: Session,
        hello: control.Hello,
        granted: AuthorizedAgent | None,
        task_status: trio.TaskStatus[AgentSession | control.Rejected],
    ) -> None:
        """Keep one agent attached until its session ends; owns the session's nursery."""
        async with open_pool(first.peer, lasting=True) as link, trio.open_nursery() as nursery:
            session = AgentSession(
                session_id=secrets.token_urlsafe(_SESSION_ID_BYTES), link=link, hello=hello, nursery=nursery
            )
            session.granted = granted
            refusal = self._refusal(session.key_id, hello, granted)  # again: time has passed since
            if refusal is not None:
                task_status.started(refusal)
                return
            with self._parking(session):
                self._sessions.attach(session)
                try:
                    self._report_opened(session, first)
                    task_status.started(session)
                    nursery.start_soon(self._await_adoption, session)
                    nursery.start_soon(self.claims.keep, session)
                    await session.retired.wait()
                    await self._wind_up(session)
                finally:
                    session.over = True
                    self._sessions.detach(session)
                    self._report_ended(session)
            nursery.cancel_scope.cancel()

    @contextmanager
    def _parking(self, session: AgentSession) -> Iterator[None]:
        """Let a session that wants data connections have a place for them."""
        wanted = session.hello.data
        if not self._settings.direct or wanted is DataChoice.SESSION:
            yield
            return
        with self._plane.lots.open(session.session_id, only=wanted is DataChoice.DIRECT) as session.lot:
            yield

    async def _await_adoption(self, session: AgentSession) -> None:
        """Wait for a carrier, for a session that has none; retire it if nobody adopts it."""
        while not session.link.carriers:
            patience = session.alone_since + limits.ADOPTION_TIMEOUT - trio.current_time()
            if patience <= 0:
                session.retire(Farewell(reason=f"no carrier for {limits.ADOPTION_TIMEOUT:.0f} s", grace=0))
                return
            with trio.move_on_after(patience):
                await session.link.wait_carriers_changed()

    def _left_alone(self, session: AgentSession) -> None:
        """Take note that a session has lost its last carrier: it waits for the next, or winds up."""
        session.alone_since = trio.current_time()
        session.nursery.start_soon(self._await_adoption, session)
        if session.farewell is not None and not session.on_direct:
            soon = trio.current_time() + limits.ABORT_FLUSH_TIMEOUT
            session.winding_up.deadline = min(session.winding_up.deadline, soon)

    async def _wind_up(self, session: AgentSession) -> None:
        """Let visitors finish within the farewell's grace, and the last message leave."""
        with session.winding_up:
            await session.wait_idle()
        farewell = session.farewell
        for channel in session.channels.values():
            if farewell is not None and farewell.message is not None:
                channel.post(farewell.message)
            channel.finish()
        with trio.move_on_after(limits.RETIRE_GRACE):
            while session.link.carriers:  # the agent closes them once it has read why
                await session.link.wait_carriers_changed()

    def _report_opened(self, session: AgentSession, first: Session) -> None:
        agent, peer = session.key_id.value, first.peer.address
        self._on_event(
            SessionOpened(
                agent_id=agent,
                label=session.label,
                peer=peer,
                transport=first.transport,
                session=session.session_id,
                extension=first.peer.extension.hex(),
            )
        )
        logger.info("session_opened", extra={"agent": agent, "peer": peer, "session": session.session_id})

    def _report_ended(self, session: AgentSession) -> None:
        agent, session_id = session.key_id.value, session.session_id
        reason = "the relay ended it" if session.farewell is None else session.farewell.reason
        self._on_event(SessionEnded(agent_id=agent, reason=reason, session=session_id))
        logger.info("session_closed", extra={"agent": agent, "reason": reason, "session": session_id})

    # --- a carrier ----------------------------------------------------------------------------------

    async def carry(self, session: AgentSession, link: Session, channel: ControlStream, *, alone: bool) -> None:
        """Have *link* in *session* until it is lost or the session has ended.

        Args:
            session: As `admit` returned it.
            link: The carrier.
            channel: Its control stream, on which the hello was heard.
            alone: Whether the agent has lost every other carrier.
        """
        if alone:
            session.let_go("the agent lost it")
        async with trio.open_nursery() as nursery:
            channel.post(self._welcome(session))
            if any(standing.reason for standing in session.hostnames.values()):
                channel.post(self._addresses(session))
            nursery.start_soon(channel.run_writer)
            nursery.start_soon(self._listen, session, link, channel, nursery)
            for other in session.channels.values():
                other.post(control.Ping(0))  # the agent may have come because that one is dead: let it be noticed
            session.channels[link] = channel
            self._report_carrier(session, link)
            closed = SessionClosed("the carrier's task was cancelled")
            try:
                closed = await session.link.carry(link)
            except SessionClosed as exc:
                closed = exc
                link.abort(exc.reason, code=ErrorCode.NO_ERROR)
            finally:
                del session.channels[link]
                self._report_lost(session, link, closed)
                if not session.link.carriers and not session.over:
                    self._left_alone(session)
            nursery.cancel_scope.cancel()

    def _report_carrier(self, session: AgentSession, link: Session) -> None:
        self._on_event(
            CarrierOpened(
                agent_id=session.key_id.value,
                session=session.session_id,
                peer=link.peer.address,
                transport=link.transport,
                carriers=len(session.channels),
            )
        )

    def _report_lost(self, session: AgentSession, link: Session, closed: SessionClosed) -> None:
        if session.farewell is not None:
            return  # the session's end is what there is to say
        named = {"session": session.session_id, "transport": link.transport, "reason": closed.reason}
        left = len(session.channels)
        self._on_event(CarrierLost(agent_id=session.key_id.value, carriers=left, **named))
        logger.info("carrier_lost", extra={"agent": session.key_id.value, "carriers": left, **named})

    async def _listen(
        self, session: AgentSession, link: Session, channel: ControlStream, nursery: trio.Nursery
    ) -> None:
        """Hear the agent's control messages on one carrier; *nursery* is the carrier's."""
        probing: set[control.DataPath] = set()  # one at a time on each path is what the protocol allows
        try:
            while True:
                match await channel.receive():
                    case control.Ping(id=number):
                        channel.post(control.Pong(number))
                    case control.Probe(path=path) as asked if path not in probing:
                        probing.add(path)
                        nursery.start_soon(self._probe, session, channel, asked, probing)
                    case control.MayIssue() as asked:
                        channel.post(self._issuance(session, asked))
                    case control.IssueEnded() as said if self.issuances is not None:
                        self.issuances.ended(session.key_id, said)
                    case control.Drain(grace=grace):
                        self._sessions.routes.release(session)
                        session.retire(Farewell(reason="the agent stopped", grace=grace))
                    case _:
                        pass  # a pong, or one probe too many; the phase admits nothing else
        except SessionClosed as exc:
            link.abort(exc.reason, code=ErrorCode.NO_ERROR)
        except RemoteProtocolError as exc:
            link.abort(f"control: {exc.reason}", code=ErrorCode.PROTOCOL_ERROR)

    def _issuance(self, session: AgentSession, asked: control.MayIssue) -> control.Issuance:
        if self.issuances is None:
            return control.Issuance(asked.id)
        return self.issuances.may_issue(session.key_id, asked, allowed=self._sessions.routes.names(session))

    async def _probe(
        self, session: AgentSession, channel: ControlStream, asked: control.Probe, probing: set[control.DataPath]
    ) -> None:
        failure = await run_canary(session, asked.path, workers=self._plane.workers)
        channel.post(control.Probed(asked.id, control.printable(failure)))
        probing.discard(asked.path)

    def _welcome(self, session: AgentSession) -> control.Welcome:
        settings = self._settings
        return control.Welcome(
            version=control.pick_version(session.hello.versions) or control.PROTOCOL_VERSION,
            session=session.session_id,
            relay=self._plane.lots.relay_id.value,
            label=control.printable(session.label),
            suffixes=[suffix.value for suffix in settings.domain_suffixes],
            public_port=self._public_port,
            endpoints=self._endpoints(session),
            direct=_direct_of(session),
            limits=control.SessionLimits(
                streams=settings.streams_per_session,
                heartbeat=limits.HEARTBEAT,
                dead_after=limits.DEAD_AFTER,
                first_byte_timeout=_sayable(settings.first_byte_timeout),
                idle_timeout=_sayable(settings.idle_timeout),
                quic_heartbeat=quic_heartbeat(len(self._sessions)),
            ),
        )

    def _endpoints(self, session: AgentSession) -> list[control.Endpoint]:
        names = self._sessions.routes.names(session)
        given_first = sorted(names, key=lambda name: not self._sessions.rules.is_given(name))
        return [endpoint_of(name, self._public_port) for name in given_first][: limits.CONTROL_ENDPOINTS_MAX]

    def _addresses(self, session: AgentSession) -> control.Endpoints:
        endpoints = self._endpoints(session)
        has = {endpoint.hostname for endpoint in endpoints}
        refused = refused_names(session, self._settings.domain_suffixes[0])
        return control.Endpoints(endpoints, [each for each in refused if each.hostname not in has])

    def announce(self, session: AgentSession) -> None:
        """Tell an agent that its names have changed."""
        session.post(self._addresses(session))
