"""One attachment of the agent to its relay: hello, welcome, carriers, visitors, goodbye.

    carrier → session of its transport → control stream (the relay's first)
      → hello → welcome: addresses are ours, visitors come as streams
              → rejected: raised
      → more carriers join the same session (`add`)
      → until the relay says goodbye, the last carrier is lost, or we drain

A relay that drains may have another process beside it that accepts already: a
carrier that was to join, and reaches that one, is refused (`no-session`).  Both
are one message: this session goes on, and the next one is elsewhere.

Each carrier runs in a task of its own (`_carry`) in the attachment's nursery;
the visitors' tasks live in the nursery of whoever runs `serve_visitors`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import final

import msgspec
import trio

from trunnel.agent.dial import Carrier, open_carrier
from trunnel.agent.forward import InSession, forward_stream
from trunnel.agent.permission import Questions
from trunnel.agent.visit import Forwarding, Visits
from trunnel.errors import (
    ErrorCode,
    LocalProtocolError,
    RejectCode,
    Rejected,
    RemoteProtocolError,
    SessionClosed,
)
from trunnel.settings import limits
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, Stream
from trunnel.transports.control_stream import ControlStream, receive_one
from trunnel.transports.pool import PooledSession, is_suspect, open_pool
from trunnel.wire import control

logger = logging.getLogger(__name__)


@final
@dataclass(slots=True, eq=False)
class Attached:
    """One carrier of the session."""

    carrier: Carrier
    link: Session
    channel: ControlStream
    answered: float
    """When the relay's control task answered last."""


@final
@dataclass(slots=True, eq=False)
class _Probe:
    """A probe that we asked for."""

    number: int
    answered: trio.Event = field(default_factory=trio.Event)
    failure: str = "the session ended"
    """Until the answer comes."""


@final
class Attachment:
    """A session in which the relay has welcomed us."""

    def __init__(self, link: PooledSession, hello: control.Hello, *, nursery: trio.Nursery, window_max: int) -> None:
        self.link = link
        """The carriers as one."""
        self.carriers: list[Attached] = []
        """Each carrier that lives, oldest first."""
        self.endpoints: tuple[control.Endpoint, ...] = ()
        """Our public addresses, as the relay said last."""
        self.refused: tuple[control.RefusedName, ...] = ()
        """The names of our own that it does not lead here, as it said last."""
        self.relay_drains = trio.Event()
        """Set when this session is to be the last of its relay's process."""
        self.relay_grace = 0.0
        """Seconds that visitors have from that moment on."""
        self.visits = Visits()
        """The visitors who are being served inside the session."""
        self._hello = hello
        self._nursery = nursery
        self._window_max = window_max
        self._welcome: control.Welcome | None = None
        self._endpoints_changed = trio.Event()
        self._streams = 0  # of visitors and canaries that are open
        self._idle = trio.Event()  # replaced whenever one comes
        self._rejected: Rejected | None = None
        self._probes: dict[control.DataPath, _Probe] = {}  # the last on each road
        self._probes_sent = 0
        self.questions = Questions(self._post)
        """What this session's relay is asked before a certificate is ordered."""

    @property
    def welcome(self) -> control.Welcome:
        """What the relay said first."""
        if self._welcome is None:
            raise LocalProtocolError("nobody has welcomed us yet")
        return self._welcome

    # --- carriers -----------------------------------------------------------------------------------

    async def add(self, carrier: Carrier) -> None:
        """Let *carrier* join the session; returns once the relay has taken it in.

        Raises:
            Rejected: The relay said no.
            SessionClosed: The carrier was lost, or the relay has forgotten the session.

        Cancellation: the carrier is closed.
        """
        try:
            await self._nursery.start(self._carry, carrier)
        except Rejected as exc:
            if exc.code is RejectCode.NO_SESSION:
                self._relay_leaves(limits.TAKEOVER_GRACE, exc.reason)  # as a relay that was replaced would say
            raise

    async def _carry(self, carrier: Carrier, task_status: trio.TaskStatus[None]) -> None:
        """Run one carrier to its end."""
        async with open_carrier(carrier, window_max=self._window_max) as link:
            channel, welcome = await introduce(link, self._hello_for_carrier())
            self._take_welcome(welcome)
            link.ask_every(welcome.limits.quic_heartbeat)
            attached = Attached(carrier, link, channel, trio.current_time())
            async with bare_nursery() as nursery:
                nursery.start_soon(channel.run_writer)
                nursery.start_soon(self._listen, attached)
                nursery.start_soon(self._heartbeat, attached)
                self.carriers.append(attached)
                task_status.started()
                try:
                    await self.link.carry(link)
                except SessionClosed as exc:
                    link.abort(exc.reason, code=ErrorCode.NO_ERROR)
                finally:
                    self.carriers.remove(attached)
                nursery.cancel_scope.cancel()

    def _hello_for_carrier(self) -> control.Hello:
        """The first carrier says which session it comes back to, if any; later ones join the present one."""
        if self._welcome is None:
            return self._hello
        return msgspec.structs.replace(self._hello, session=self._welcome.session, alone=False, invitation="")

    def _take_welcome(self, welcome: control.Welcome) -> None:
        if self._welcome is not None and welcome.session != self._welcome.session:
            self.link.abort("the relay has forgotten the session")
            raise SessionClosed("the relay has forgotten the session")
        self._welcome = welcome
        if self.endpoints != tuple(welcome.endpoints):
            self.endpoints = tuple(welcome.endpoints)
            self._endpoints_changed.set()

    def find(self, link: Session) -> Attached | None:
        """Return what is known of the carrier with this session."""
        return next((attached for attached in self.carriers if attached.link is link), None)

    # --- the session --------------------------------------------------------------------------------

    async def wait_changed(self) -> SessionClosed | Rejected | None:
        """Wait until `endpoints` has changed (None), or the session has ended, and return why it did.

        Cancellation: no effect.
        """
        await self._wait_unless_closed(self._endpoints_changed)
        if (ended := self.ended) is None:
            self._endpoints_changed = trio.Event()
        return ended

    @property
    def ended(self) -> SessionClosed | Rejected | None:
        """Why the session ended, or None while it lives."""
        return None if self.link.closed is None else self._rejected or self.link.closed

    async def _wait_unless_closed(self, event: trio.Event) -> None:
        """Wait for *event*, or for the end of the session."""
        async with trio.open_nursery() as nursery:

            async def ended() -> None:
                await self.link.wait_closed()
                nursery.cancel_scope.cancel()

            nursery.start_soon(ended)
            await event.wait()
            nursery.cancel_scope.cancel()

    def acknowledge_endpoints(self) -> None:
        """Take note that the present `endpoints` are known: `wait_changed` waits for the next change."""
        self._endpoints_changed = trio.Event()

    async def probe(self, path: control.DataPath = control.DataPath.SESSION) -> str:
        """Have the relay send a canary stream by *path*, one at a time; return why it failed, or an empty text.

        Cancellation: no effect.
        """
        self._probes_sent += 1
        self._probes[path] = asked = _Probe(self._probes_sent)
        if not self._post(control.Probe(asked.number, path)):
            return "no carrier"
        with trio.move_on_after(limits.CANARY_TIMEOUT + limits.CLOSE_TIMEOUT):
            await self._wait_unless_closed(asked.answered)
            return asked.failure
        return "the relay did not answer the probe in time"

    def _post(self, message: control.Message) -> bool:
        """Tell the relay *message*, on the carrier that was heard last; return whether there is one."""
        now = trio.current_time()
        best = max(self.carriers, key=lambda each: (not is_suspect(each.link, now), each.link.last_heard), default=None)
        if best is not None:
            best.channel.post(message)
        return best is not None

    async def drain(self, grace: float, reason: str) -> None:
        """Tell the relay that we stop, and let visitors finish, at most *grace* seconds.

        The relay ends the session once its last visitor has everything: what
        we have sent may still be on its way when our own tasks are done.
        """
        self._post(control.Drain(min(grace, limits.CONTROL_SECONDS_MAX), control.printable(reason)))
        with trio.move_on_after(grace):
            await self.link.wait_closed()

    async def wait_idle(self) -> None:
        """Wait until no visitor's stream is open."""
        while self._streams:
            await self._idle.wait()

    # --- tasks ------------------------------------------------------------------------------------

    async def serve_visitors(self, forwarding: Forwarding, nursery: trio.Nursery) -> None:
        """Take every stream that the relay opens into *nursery*."""
        try:
            while True:
                stream = await self.link.accept_stream()
                self._streams += 1
                self._idle = trio.Event()
                nursery.start_soon(self._visitor, stream, forwarding)
        except SessionClosed:
            return

    async def _visitor(self, stream: Stream, forwarding: Forwarding) -> None:
        try:
            await forward_stream(InSession(stream), forwarding)
        finally:
            self._streams -= 1
            if not self._streams:
                self._idle.set()

    async def _listen(self, attached: Attached) -> None:
        """Hear the relay's control messages on one carrier until it ends."""
        channel, link = attached.channel, attached.link
        try:
            while True:
                self._hear(attached, await channel.receive())
        except SessionClosed as exc:
            link.abort(exc.reason, code=ErrorCode.NO_ERROR, retryable=exc.retryable)
        except RemoteProtocolError as exc:
            link.abort(f"control: {exc.reason}", code=ErrorCode.PROTOCOL_ERROR)

    def _hear(self, attached: Attached, message: control.Message) -> None:
        match message:
            case control.Ping(id=number):
                attached.channel.post(control.Pong(number))
            case control.Pong():
                attached.answered = trio.current_time()
            case control.Probed(id=number, failure=failure):
                self._take_probed(number, failure)
            case control.Issuance() as answer:
                self.questions.take(answer)
            case control.Endpoints(endpoints=endpoints, refused=refused):
                self.endpoints, self.refused = tuple(endpoints), tuple(refused)
                self._endpoints_changed.set()
            case control.Drain(grace=grace, reason=reason):
                self._relay_leaves(grace, reason)
            case control.Rejected() as rejected:
                self._rejected = rejected.to_error()
                self.link.abort(self._rejected.reason, code=ErrorCode.NO_ERROR)
            case _:
                pass  # the phase admits nothing else

    def _relay_leaves(self, grace: float, reason: str) -> None:
        if not self.relay_drains.is_set():
            logger.info("relay_drains", extra={"reason": reason})
            self.relay_grace = grace
            self.relay_drains.set()

    def _take_probed(self, number: int, failure: str) -> None:
        for asked in self._probes.values():
            if asked.number == number and not asked.answered.is_set():
                asked.failure = failure
                asked.answered.set()

    async def _heartbeat(self, attached: Attached) -> None:
        """Ping the relay's control task; one that has stopped answering is as good as dead."""
        number = 0
        while attached.link.closed is None:
            number += 1
            attached.channel.post(control.Ping(number))
            await trio.sleep(limits.HEARTBEAT)
            if trio.current_time() - attached.answered > limits.DEAD_AFTER:
                reason = f"the relay answered no ping for {limits.DEAD_AFTER:.0f} s"
                attached.link.abort(reason, code=ErrorCode.DEADLINE)


async def introduce(link: Session, hello: control.Hello) -> tuple[ControlStream, control.Welcome]:
    """Say hello on a new carrier and return the relay's welcome.

    Raises:
        Rejected: The relay said no.
        SessionClosed: The carrier was lost, or the relay is no such thing.
    """
    try:
        with trio.fail_after(limits.HANDSHAKE_TIMEOUT):
            channel = ControlStream(link, await link.accept_stream(), control.Phase.EXPECT_ANSWER)
            await channel.send(hello)
        answer = await receive_one(channel, limits.HANDSHAKE_TIMEOUT)
    except trio.TooSlowError as exc:
        raise SessionClosed("the relay opened no control stream in time") from exc
    except RemoteProtocolError as exc:
        raise SessionClosed(f"the relay's answer made no sense: {exc.reason}") from exc
    if isinstance(answer, control.Rejected):
        raise answer.to_error()
    if not isinstance(answer, control.Welcome):
        raise LocalProtocolError("the phase admits nothing else")
    if answer.relay != link.peer.key_id.value:
        raise SessionClosed("the relay claims another key than the one it proved", retryable=False)
    return channel, answer


@asynccontextmanager
async def attached(carrier: Carrier, hello: control.Hello, *, window_max: int) -> AsyncIterator[Attachment]:
    """Attach to the relay, at first with *carrier* alone, for as long as the body runs.

    The body runs `serve_visitors`; it is to be left when `wait_changed` says that the session has ended.

    Raises:
        Rejected, SessionClosed: Before the body, as `Attachment.add`.
    """
    peer = Peer(key_id=carrier.trust.relay_id, address=carrier.address)
    async with open_pool(peer, lasting=False) as link, bare_nursery() as nursery:
        attachment = Attachment(link, hello, nursery=nursery, window_max=window_max)
        await attachment.add(carrier)
        yield attachment
        link.abort("closed by us", code=ErrorCode.NO_ERROR)  # each carrier says goodbye and ends by itself
        nursery.cancel_scope.deadline = trio.current_time() + 2 * limits.CLOSE_TIMEOUT
