"""A relay by script: it speaks control messages over sessions in memory, and does what a test says.

Dials take virtual seconds: tests of this relay take `autojump_clock`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio

from tests.agent.scripted_reach import ScriptedReach
from tests.agent.stage import NAME, PREFACE
from trunnel.agent.attachment import Attachment, attached
from trunnel.agent.carriers import CarrierKeeper
from trunnel.agent.dial import Carrier
from trunnel.agent.visit import Forwarding
from trunnel.agent.visitor import VisitorInfo
from trunnel.errors import ConnectError, ErrorCode, SessionClosed, TrunnelError
from trunnel.identity.trust import TrustDecision, TrustKind
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.streams.copy import Counter
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.memory import MemorySession, memory_session_pair
from trunnel.transports.selection import TransportKind
from trunnel.wire import control
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

QUIC, H2 = TransportKind.QUIC, TransportKind.H2
KEY = KeyId.of_spki(b"relay")
HELLO = control.Hello(versions=[1], instance="0" * 32, agent="test")


class ScriptedLink(Session):
    """The agent's end of a session in memory that calls itself anything, and falls silent when told."""

    def __init__(self, inner: MemorySession, transport: TransportKind) -> None:
        self.inner = inner
        self.silent_since: float | None = None
        self.migrates = transport is QUIC
        self.migrations = 0
        self.goes_away = False
        self._transport = transport

    @property
    def transport(self) -> str:
        return self._transport

    @property
    def peer(self) -> Peer:
        return self.inner.peer

    @property
    def closed(self) -> SessionClosed | None:
        return self.inner.closed

    @property
    def last_heard(self) -> float:
        return trio.current_time() if self.silent_since is None else self.silent_since

    @property
    def unanswered_since(self) -> float | None:
        return self.silent_since

    async def open_stream(self) -> Stream:
        return await self.inner.open_stream()

    async def accept_stream(self) -> Stream:
        return await self.inner.accept_stream()

    async def wait_closed(self) -> SessionClosed:
        return await self.inner.wait_closed()

    async def migrate(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.migrations += 1
        return self.migrates

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        self.goes_away = True
        self.inner.go_away(code)

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        self.inner.abort(reason, code=code, retryable=retryable)

    def statistics(self) -> SessionStatistics:
        return self.inner.statistics()


@dataclass(eq=False)
class FarCarrier:
    """One carrier, as the relay sees it."""

    kind: TransportKind
    link: ScriptedLink
    """The agent's end."""
    session: MemorySession
    """The relay's end."""
    hello: control.Hello | None = None
    channel: ControlStream | None = None
    """Once the agent was welcomed."""

    def fall_silent(self) -> None:
        """Be a carrier on which nothing comes any more."""
        self.link.silent_since = trio.current_time()

    def speak(self) -> None:
        """Answer again."""
        self.link.silent_since = None

    @property
    def is_open(self) -> bool:
        return self.session.closed is None


@dataclass(eq=False)
class Connection:
    """What was dialled; nobody has opened a session on it."""

    open_count: int = 0
    aborted: bool = False

    def abort(self) -> None:
        self.aborted = True


@dataclass(eq=False)
class FarRelay:
    """The relay, and the dialling to it."""

    nursery: trio.Nursery
    names: tuple[str, ...] = (NAME.value,)
    """What the agent is called."""
    failing: dict[TransportKind, TrunnelError] = field(default_factory=dict)
    """How dialling fails."""
    takes: dict[TransportKind, float] = field(default_factory=dict)
    """Seconds for a dial."""
    rejection: control.Rejected | None = None
    """The answer to every hello, if any."""
    canary: str | None = ""
    """How probes end: well, with a failure, or (None) never."""
    probe_takes: float = 0.0
    """Seconds from a probe to its canary."""
    deaf: bool = False
    """Whether it answers hellos and nothing else."""
    dials: list[tuple[float, TransportKind]] = field(default_factory=list)
    """When each dial began."""
    connections: list[Connection] = field(default_factory=list)
    carriers: list[FarCarrier] = field(default_factory=list)
    """Every carrier that ever was."""
    drains: list[control.Drain] = field(default_factory=list)
    probed: list[FarCarrier] = field(default_factory=list)
    """The carriers on which a probe came."""
    forgets: bool = False
    """Whether each hello gets a new session."""
    last_address: str | None = None
    _sessions: int = 0

    @property
    def open(self) -> list[FarCarrier]:
        """The carriers that live and were welcomed."""
        return [far for far in self.carriers if far.is_open and far.channel is not None]

    @property
    def kinds(self) -> list[str]:
        """What they speak."""
        return [far.kind.value for far in self.open]

    # --- the agent's side ---------------------------------------------------------------------------

    async def dial(self, kind: TransportKind) -> Carrier:
        self.dials.append((trio.current_time(), kind))
        await trio.sleep(self.takes.get(kind, 0.0))
        if kind in self.failing:
            raise self.failing[kind]
        connection = Connection()
        self.connections.append(connection)
        trust = TrustDecision(relay_id=KEY, how=TrustKind.PIN, notice=None)
        return Carrier(transport=kind, connection=connection, trust=trust, address="test")  # type: ignore[arg-type]

    @asynccontextmanager
    async def open_carrier(self, carrier: Carrier, *, window_max: int) -> AsyncIterator[Session]:
        cast("Connection", carrier.connection).open_count += 1
        peer = Peer(key_id=KEY, address="test")
        async with memory_session_pair(peer, peer) as (far_end, near_end):
            far = FarCarrier(carrier.transport, ScriptedLink(near_end, carrier.transport), far_end)
            self.carriers.append(far)
            self.nursery.start_soon(self._serve, far)
            yield far.link

    # --- the relay's side ---------------------------------------------------------------------------

    async def _serve(self, far: FarCarrier) -> None:
        try:
            channel = ControlStream(far.session, await far.session.open_stream(), control.Phase.EXPECT_HELLO)
            hello = await channel.receive()
            assert isinstance(hello, control.Hello)
            far.hello = hello
            if self.rejection is not None:
                await channel.send(self.rejection)
                return
            await channel.send(self._welcome(hello))
            far.channel = channel
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run_writer)
                await self._listen(far, channel, nursery)
        except* (SessionClosed, trio.BrokenResourceError):
            pass  # the agent has left

    async def _listen(self, far: FarCarrier, channel: ControlStream, nursery: trio.Nursery) -> None:
        while True:
            match await channel.receive():
                case control.Ping(id=number) if far.link.silent_since is None and not self.deaf:
                    channel.post(control.Pong(number))
                case control.Probe(id=number):
                    self.probed.append(far)
                    nursery.start_soon(self._probe, far, number)
                case control.Drain() as drain:
                    self.drains.append(drain)
                case _:
                    pass

    async def _probe(self, far: FarCarrier, number: int) -> None:
        failure = self.canary
        if failure is None or far.link.silent_since is not None:
            return
        await trio.sleep(self.probe_takes)
        if not failure and await send_canary(far.session) != b"token":
            failure = "came back changed"
        assert far.channel is not None
        far.channel.post(control.Probed(number, failure))

    def _welcome(self, hello: control.Hello) -> control.Welcome:
        if hello.session is None or self.forgets:
            self._sessions += 1
        return control.Welcome(
            version=1,
            session=f"s{self._sessions}" if hello.session is None or self.forgets else hello.session,
            relay=KEY.value,
            suffixes=["localhost"],
            public_port=443,
            endpoints=endpoints(*self.names),
            limits=control.SessionLimits(
                streams=1, heartbeat=10.0, dead_after=20.0, first_byte_timeout=30.0, idle_timeout=3600.0
            ),
        )

    def tell(self, message: control.Message) -> None:
        """Say *message* on the newest carrier."""
        channel = self.open[-1].channel
        assert channel is not None
        channel.post(message)


def endpoints(*names: str) -> list[control.Endpoint]:
    """Return public addresses with these host names."""
    return [control.Endpoint(name, f"https://{name}") for name in names]


async def send_canary(session: Session, token: bytes = b"token") -> bytes:
    """Send a canary stream with *token*; return what comes back."""
    stream = await session.open_stream()
    preface = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream="c", kind=StreamKind.CANARY)
    await stream.send_all(preface + token)
    await stream.send_eof()
    answer = b""
    while chunk := await stream.receive_some():
        answer += chunk
    await stream.aclose()
    return answer


@asynccontextmanager
async def far_relay(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarRelay]:
    """Run a relay that every carrier leads to, whatever is dialled."""
    async with trio.open_nursery() as nursery:
        relay = FarRelay(nursery)
        monkeypatch.setattr("trunnel.agent.attachment.open_carrier", relay.open_carrier)
        yield relay
        nursery.cancel_scope.cancel()


async def listen(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
    """Serve a visitor: hear it out."""
    while await stream.receive_some():
        pass


async def visit(session: Session) -> Stream:
    """Come as a visitor, who stays until the stream ends."""
    stream = await session.open_stream()
    await stream.send_all(PREFACE)
    return stream


@asynccontextmanager
async def attached_to(relay: FarRelay, kind: TransportKind = H2) -> AsyncIterator[Attachment]:
    """Attach an agent that serves canaries."""
    async with (
        attached(await relay.dial(kind), HELLO, window_max=limits.STREAM_WINDOW_MIN) as attachment,
        trio.open_nursery() as nursery,
    ):
        forwarding = Forwarding(endpoints={NAME}, origin=listen, terminator=None, visits=attachment.visits)
        nursery.start_soon(attachment.serve_visitors, forwarding, nursery)
        yield attachment
        nursery.cancel_scope.cancel()


@dataclass
class Keeping:
    """An agent whose carriers are kept."""

    attachment: Attachment
    keeper: CarrierKeeper
    reach: ScriptedReach
    said: list[tuple[float, str, str]]
    """When, which transport, and why."""


@asynccontextmanager
async def keeping(
    relay: FarRelay, *, kind: TransportKind = H2, pool_size: int = 4, **script: object
) -> AsyncIterator[Keeping]:
    """Attach, and keep the carriers; `script` is for the `ScriptedReach`."""
    reach = ScriptedReach(relay, kind=kind, **script)  # type: ignore[arg-type]
    said: list[tuple[float, str, str]] = []

    def announce(transport: str, why: str) -> None:
        said.append((trio.current_time(), transport, why))

    async with attached_to(relay, kind) as attachment, trio.open_nursery() as nursery:
        keeper = CarrierKeeper(attachment, reach.as_reach(), pool_size=pool_size, announce=announce)
        nursery.start_soon(keeper.run)
        yield Keeping(attachment, keeper, reach, said)
        nursery.cancel_scope.cancel()


def refused() -> ConnectError:
    """Return the failure of a dial that a retry may mend."""
    return ConnectError("connection refused")


def have_visitors(kept: Keeping, count: int) -> None:
    """Let *count* visitors be served."""
    visits = kept.attachment.visits
    for name in tuple(visits.open):
        visits.leave(name)
    for number in range(count):
        visits.enter(str(number), Counter())
