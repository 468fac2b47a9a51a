"""One QUIC connection on its UDP socket, and the pump that many of them share.

aioquic's connection is sans-IO; a `QuicLink` gives it time and a socket.  All
work is synchronous and happens in `settle`: timers that are due, events to
their owner, one flush of datagrams.  Nobody settles a link for each call:

- whoever has read a batch of datagrams settles each link that it touched, once;
- whoever wrote to a connection calls `touch`, and the `LinkPump` settles the
  touched links at its next turn, together with those whose time has come.

The pump is one task for any number of links: a heap of deadlines, the latest
word of each link being its own `deadline`.  An idle connection has one entry
there and costs nothing until its time comes.

Who owns the events: first nobody (they are kept, within bounds), later the
session (`own`).  What concerns the socket (connection ids, end of handshake,
end of everything) goes to the link's *home*, the endpoint.

Every `now` is `trio.current_time()`.  Source: RFC 9000; aioquic 1.7.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count, islice
from typing import Protocol, final

import trio
from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import Datagram, UdpSocket
from trunnel.transports.quic_credit import CreditedConnection


class LinkOwner(Protocol):
    """Who takes a link's events: its session."""

    def take_event(self, event: events.QuicEvent, now: float) -> None:
        """Act on what the peer did; must not wait.  ConnectionTerminated comes as soon as the end has begun."""
        ...

    def look(self, now: float) -> None:
        """Look what has changed once all events of a turn were taken: acknowledgements, credit, deadlines."""
        ...


class LinkHome(Protocol):
    """Who keeps a link's place among the others of its socket: the relay's endpoint."""

    def issued(self, connection_id: bytes, link: QuicLink) -> None:
        """Datagrams to *connection_id* are this link's from now on."""
        ...

    def retired(self, connection_id: bytes, link: QuicLink) -> None:
        """The peer uses *connection_id* no more."""
        ...

    def completed(self, link: QuicLink) -> None:
        """The handshake is complete; nobody has looked at the certificate yet."""
        ...

    def expired(self, link: QuicLink) -> None:
        """The link's alarm went off while nobody owned it."""
        ...

    def ending(self, link: QuicLink) -> None:
        """The end has begun; may be called more than once."""
        ...

    def ended(self, link: QuicLink) -> None:
        """Nothing will be sent or taken any more."""
        ...


@final
class Farewell:
    """Our CONNECTION_CLOSE, said again to a peer that goes on: it was lost (RFC 9000 §10.2.1)."""

    __slots__ = ("_datagrams", "_heard", "_socket")

    def __init__(self, datagrams: list[Datagram], socket: UdpSocket) -> None:
        self._datagrams = datagrams
        self._socket = socket
        self._heard = 0

    def receive_untrusted(self, _datagram: bytes, _source: HostPort, _now: float) -> None:
        """Answer the first, second, fourth, eighth … datagram; a peer that only floods hears ever less."""
        self._heard += 1
        if self._heard & (self._heard - 1) == 0:
            self.repeat()

    def repeat(self) -> None:
        """Say it again."""
        self._socket.send(self._datagrams)


@final
class QuicLink:
    """See the module's head."""

    __slots__ = (
        "_home",
        "_kept",
        "_owner",
        "_pump",
        "_told",
        "alarm",
        "alpn",
        "completed",
        "connection",
        "deadline",
        "farewell",
        "heard",
        "over",
        "scheduled",
        "socket",
        "spoke",
    )

    def __init__(
        self, connection: CreditedConnection, socket: UdpSocket, pump: LinkPump, home: LinkHome | None
    ) -> None:
        self.connection = connection
        """aioquic's state of the connection; written to only by this package."""
        self.socket = socket
        """Where its datagrams go out; replaced when a client migrates."""
        self._pump = pump
        self._home = home
        self._owner: LinkOwner | None = None
        self._kept: deque[events.QuicEvent] = deque()
        self._told = False  # the owner knows that the connection ends
        self.farewell: Farewell | None = None
        """Our CONNECTION_CLOSE, once it was sent."""
        self.heard = trio.current_time()
        """When the last datagram for this connection came."""
        self.alarm = math.inf
        """A time of the owner's, at which it wants to `look`."""
        self.deadline = math.inf
        """When the link must be settled next."""
        self.scheduled: list[tuple[float, int]] = []
        """This link's entries in the pump's heap, the next one last."""
        self.completed = False
        """Whether the handshake is complete."""
        self.alpn: str | None = None
        """The protocol that was negotiated."""
        self.spoke = False
        """Whether anything was ever sent."""
        self.over = False
        """Whether all is over: nothing more is sent or taken (`connection.ending` says earlier that it ends)."""

    def own(self, owner: LinkOwner) -> None:
        """Give this and all later events to *owner*."""
        self._owner = owner
        self._pump.touch(self)

    def receive_untrusted(self, datagram: bytes, source: HostPort, now: float) -> None:
        """Take one datagram; `settle` must follow before the next wait."""
        self.heard = now
        if self.farewell is not None:
            self.farewell.receive_untrusted(datagram, source, now)
        else:
            self.connection.receive_datagram(datagram, source, now)

    def touch(self) -> None:
        """Have the link settled at the pump's next turn: something was written to the connection."""
        self._pump.touch(self)

    def settle(self, now: float) -> None:
        """Run due timers, pass events on, send what there is to send, and say when to come again."""
        if now >= self.deadline:
            self.connection.handle_timer(now)
        self._pass_on(now)
        if self._owner is not None:
            self.connection.contain(self._owner.look, now)
        elif now >= self.alarm and self._home is not None and not self.over:
            self._home.expired(self)
            return
        self._flush(now)
        if self.over:
            self.dispose()
            return
        timer = self.connection.get_timer()
        self.deadline = self.alarm if timer is None else min(timer, self.alarm)
        self._pump.schedule(self)

    def dispose(self) -> None:
        """Send and take nothing more, and let go of what would keep the connection in memory.  Idempotent."""
        self.over = True
        self.deadline = math.inf
        self._owner = None
        self._pump.drop(self)
        self.connection.dispose()

    def _flush(self, now: float) -> None:
        if self.socket.clogged:
            self._pump.hold(self)
        elif datagrams := self.connection.datagrams_to_send(now):
            self.spoke = True
            self.socket.send(datagrams)
            if self.connection.ending is not None:
                self.farewell = Farewell(datagrams, self.socket)

    def close(self, code: int, reason: str, *, frame_type: int | None = None) -> None:
        """Send CONNECTION_CLOSE, now if the socket takes it.  Only the first close counts.

        Args:
            code: An application's code, or a transport's if *frame_type* is given.
            reason: For people; cut to `QUIC_REASON_MAX` characters.
            frame_type: The frame that is to blame, 0 if none is (a transport's close).
        """
        self.connection.close(code, frame_type, reason[: limits.QUIC_REASON_MAX])
        self.settle(trio.current_time())

    def _pass_on(self, now: float) -> None:
        connection = self.connection
        kept = self._kept
        owner = self._owner
        while owner is not None and kept:
            connection.contain(owner.take_event, kept.popleft(), now)
        while (event := connection.next_event()) is not None:
            if self._concerns_home(event):
                continue
            if owner is not None:
                connection.contain(owner.take_event, event, now)
            elif len(kept) < limits.QUIC_PENDING_EVENTS:
                kept.append(event)
            else:
                connection.close(ErrorCode.ENHANCE_YOUR_CALM, None, "too much before the session began")
        if connection.ending is not None:
            self._tell_ending(connection.ending, now)

    def _tell_ending(self, ending: events.ConnectionTerminated, now: float) -> None:
        if self._home is not None:
            self._home.ending(self)
        if self._owner is not None and not self._told:
            self._told = True
            self.connection.contain(self._owner.take_event, ending, now)

    def _concerns_home(self, event: events.QuicEvent) -> bool:
        """Act on what is not the session's; returns False if it is."""
        match event:
            case events.ConnectionIdIssued(connection_id):
                if self._home is not None:
                    self._home.issued(connection_id, self)
            case events.ConnectionIdRetired(connection_id):
                if self._home is not None:
                    self._home.retired(connection_id, self)
            case events.HandshakeCompleted(alpn_protocol):
                self.completed = True
                self.alpn = alpn_protocol
                if self._home is not None:
                    self._home.completed(self)
            case events.ConnectionTerminated():
                self.over = True
                if self._home is not None:
                    self._home.ended(self)
            case _:
                return False
        return True


@final
class LinkPump:
    """Settles links that were touched or whose time has come; see the module's head."""

    __slots__ = ("_held", "_links", "_numbers", "_scope", "_timers", "_touched", "_wake")

    def __init__(self) -> None:
        self._touched: dict[QuicLink, None] = {}
        self._held: set[QuicLink] = set()
        self._timers: list[tuple[float, int]] = []
        self._links: dict[int, QuicLink] = {}  # of each entry in the heap, unless it was dropped
        self._numbers = count()
        self._wake = trio.Event()
        self._scope = trio.CancelScope()

    def touch(self, link: QuicLink) -> None:
        """Settle *link* at the next turn."""
        self._touched[link] = None
        self._wake.set()

    def hold(self, link: QuicLink) -> None:
        """Settle *link* once its socket takes datagrams again."""
        self._held.add(link)

    def schedule(self, link: QuicLink) -> None:
        """Settle *link* at its deadline.

        An entry that comes early asks for the deadline then; so a link has few
        entries, each earlier than the one before, however often its deadline moves.
        """
        if link.deadline < (link.scheduled[-1][0] if link.scheduled else math.inf):
            entry = (link.deadline, next(self._numbers))
            link.scheduled.append(entry)
            self._links[entry[1]] = link
            heappush(self._timers, entry)
            self._scope.deadline = min(self._scope.deadline, link.deadline)

    def drop(self, link: QuicLink) -> None:
        """Never settle *link* again, unless somebody touches it."""
        self._touched.pop(link, None)
        self._held.discard(link)
        while link.scheduled:
            del self._links[link.scheduled.pop()[1]]

    async def run(self) -> None:
        """Settle links for ever.  Cancellation: no effect on any link."""
        while True:
            self._wake = trio.Event()
            self._settle_due(trio.current_time())
            with trio.CancelScope(deadline=self._timers[0][0] if self._timers else math.inf) as self._scope:
                await self._wake.wait()

    async def unclog(self, socket: UdpSocket) -> None:
        """Send for ever what waits for room in *socket*, and let the links that were held go on.

        Raises:
            trio.ClosedResourceError: The socket was closed.
        """
        while True:
            await socket.drain()
            held, self._held = self._held, set()
            for link in held:
                self.touch(link)

    def _settle_due(self, now: float) -> None:
        for link in self._due(now):  # not in `run`: what sleeps should not hold the last one
            link.settle(now)

    def _due(self, now: float) -> Iterable[QuicLink]:
        """Return some links to settle now: of those that were touched, and of those whose time has come."""
        due = dict.fromkeys(islice(self._touched, limits.LINKS_PER_TURN))
        for link in due:
            del self._touched[link]
        if self._touched:
            self._wake.set()
        while self._timers and self._timers[0][0] <= now and len(due) < limits.LINKS_PER_TURN:
            _, number = heappop(self._timers)
            if number not in self._links:
                continue  # dropped
            link = self._links.pop(number)
            link.scheduled.pop()
            if link.deadline <= now:
                due[link] = None
            elif not link.over:
                self.schedule(link)
        return due


def close_reason(ended: events.ConnectionTerminated) -> tuple[str, ErrorCode]:
    """Return a sentence for people, and our code, for the end of a connection; the peer's words are escaped."""
    phrase = ascii(ended.reason_phrase[: limits.QUIC_REASON_MAX])
    if ended.frame_type is None:
        code = ErrorCode.from_wire(ended.error_code)
        return f"the peer said goodbye: {code.name} {phrase}", code
    if ended.error_code == QuicErrorCode.INTERNAL_ERROR and ended.reason_phrase == "Idle timeout":
        return f"nothing heard for {limits.DEAD_AFTER:.0f} s", ErrorCode.DEADLINE
    return f"QUIC ended the connection: {_name_of(ended.error_code)} {phrase}", ErrorCode.PROTOCOL_ERROR


_TLS_ALERTS = 0x100


def _name_of(code: int) -> str:
    """Return the name of a transport's error code (RFC 9000 §20.1)."""
    if code & ~0xFF == _TLS_ALERTS:
        return f"TLS alert {code & 0xFF}"
    try:
        return QuicErrorCode(code).name
    except ValueError:
        return f"code {code:#x}"
