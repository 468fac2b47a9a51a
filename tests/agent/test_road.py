"""Which road visitors' bytes take at one relay, why, and what of it outlives a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_lot import FarLot
from tests.agent.far_relay import FarRelay, listen
from tests.agent.scripted_reach import ScriptedReach
from tests.agent.stage import NAME
from trunnel.agent.attachment import Attachment
from trunnel.agent.choices import Outcome
from trunnel.agent.road import Road, wanted_of
from trunnel.agent.visit import Forwarding
from trunnel.errors import ConfigError, ConnectError, RejectCode, Rejected, SessionClosed
from trunnel.events import Canary, Event
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings, DataChoice, ProxyProtocolVersion
from trunnel.streams.sockets import abort_socket
from trunnel.wire import control

OFFER = control.Direct(secret="ab" * 32, parked=8)
LOST = SessionClosed("the carrier was lost")


@dataclass
class Session:
    """An attachment as far as a road looks at it."""

    road: FarLot
    session: str = "s1"
    direct: control.Direct | None = OFFER
    ended: SessionClosed | None = None

    def __post_init__(self) -> None:
        self.welcome = self
        self.limits = SimpleNamespace(streams=1_000)
        self.link = SimpleNamespace(peer=SimpleNamespace(key_id=KeyId.of_spki(b"relay")))

    async def probe(self, path: control.DataPath) -> str:
        assert path is control.DataPath.DIRECT
        return await self.road.send_canary(self.seen)

    @property
    def seen(self) -> Attachment:
        """Return itself as what it stands for."""
        return cast("Attachment", self)


@dataclass
class Travelled:
    """A road that runs."""

    road: Road
    lot: FarLot
    reach: ScriptedReach
    events: list[Event]
    said: list[tuple[str, str]] = field(default_factory=list)

    def attach(self, session: str = "s1", direct: control.Direct | None = OFFER) -> None:
        """Attach to *session*."""
        self.road.attach(Session(self.lot, session, direct).seen)


@asynccontextmanager
async def travelled(settings: AgentSettings, *, remembered: Outcome | None = None) -> AsyncIterator[Travelled]:
    """Run a road."""
    lot = FarLot()
    reach = ScriptedReach(cast("FarRelay", SimpleNamespace(dial_direct=lot.connect)), remembered=remembered)

    events: list[Event] = []

    def changed() -> None:
        play.said.append((play.road.path, play.road.why))

    road = Road(
        reach.as_reach(),
        settings,
        forwarding=lambda visits: Forwarding(endpoints={NAME}, origin=listen, terminator=None, visits=visits),
        on_event=events.append,
        changed=changed,
    )
    play = Travelled(road, lot, reach, events)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(road.run)
            yield play
            nursery.cancel_scope.cancel()
    finally:
        for stream in lot.streams:
            abort_socket(stream.socket)


@pytest.fixture
def settings(tmp_path: object) -> AgentSettings:
    return AgentSettings(state_dir=tmp_path)  # type: ignore[arg-type]


def with_data(settings: AgentSettings, choice: DataChoice) -> AgentSettings:
    return AgentSettings(state_dir=settings.state_dir, data=choice)


# --- which, and why -----------------------------------------------------------------------------------


async def test_data_connections_carry_once_a_canary_has_come(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach()
        assert (play.road.path, play.road.why) == ("session", "no data connection has answered yet")
        await play.road.settle()
        assert play.said[-1] == ("direct", "each visitor on a TCP connection of its own")
        (canary,) = play.events
        assert isinstance(canary, Canary)
        assert (canary.path, canary.ok, canary.relay) == ("direct", True, str(play.reach.server))


async def test_ready_waits_only_so_long(clock: MockClock, settings: AgentSettings) -> None:
    """A path that drops packets must not keep a person waiting; it is told when it is known."""
    async with travelled(settings) as play:
        play.lot.opened = trio.Event()
        play.attach()
        started = trio.current_time()
        await play.road.settle()
        assert trio.current_time() - started == pytest.approx(limits.DIRECT_READY_WAIT)
        assert play.road.path == "session"
        play.lot.opened.set()
        await trio.sleep(0.1)
        assert play.road.path == "direct"


async def test_a_failure_is_said_with_its_reason_and_its_end_too(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.lot.failing = ConnectError("connection refused (relay:443)")
        play.attach()
        await play.road.settle()
        assert play.said == [("session", "connection refused (relay:443)")]
        play.lot.failing = None
        await trio.sleep(2)
        assert [path for path, _ in play.said] == ["session", "direct"]


async def test_a_relay_without_data_connections_is_no_failure(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach(direct=None)
        await play.road.settle()
        assert (play.road.path, play.road.why) == ("session", "the relay takes no data connections")
        assert play.road.pool is None


async def test_who_asks_for_the_session_gets_it(clock: MockClock, settings: AgentSettings) -> None:
    """Even if a relay offers more."""
    async with travelled(with_data(settings, DataChoice.SESSION)) as play:
        play.attach()
        await play.road.settle()
        assert (play.road.path, play.road.why) == ("session", "as asked")
        assert play.lot.dials == []


async def test_visitors_addresses_are_told_over_the_session_only(clock: MockClock, settings: AgentSettings) -> None:
    told = AgentSettings(state_dir=settings.state_dir, proxy_protocol=ProxyProtocolVersion.V2)
    assert wanted_of(told) is DataChoice.SESSION
    async with travelled(told) as play:
        play.attach()
        await play.road.settle()
        assert play.road.path == "session"
        assert "--proxy-protocol" in play.road.why
        assert play.lot.dials == []


def test_visitors_addresses_over_data_connections_alone_are_a_contradiction(settings: AgentSettings) -> None:
    with pytest.raises(ConfigError, match="data: nothing vouches for visitors' addresses"):
        AgentSettings(state_dir=settings.state_dir, data=DataChoice.DIRECT, proxy_protocol=ProxyProtocolVersion.V1)


@pytest.mark.parametrize("offer", [OFFER, None], ids=["refused", "not offered"])
async def test_data_connections_alone_and_none_is_no_session(
    clock: MockClock, settings: AgentSettings, offer: control.Direct | None
) -> None:
    async with travelled(with_data(settings, DataChoice.DIRECT)) as play:
        play.lot.failing = ConnectError("connection refused")
        play.attach(direct=offer)
        with pytest.raises(SessionClosed, match="visitors would not be served: "):
            await play.road.settle()
        assert play.road.path == "none"


async def test_data_connections_alone_are_waited_for(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(with_data(settings, DataChoice.DIRECT)) as play:
        play.lot.canary = "late"
        play.attach()

        async def serve() -> None:
            await trio.sleep(1)
            play.lot.canary = ""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await play.road.settle()
        assert play.road.path == "direct"


# --- sessions -----------------------------------------------------------------------------------------


async def test_a_session_that_is_adopted_again_keeps_its_pool(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        pool = play.road.pool
        for _ in range(3):
            play.road.detach(LOST)
            await trio.sleep(limits.ADOPTION_TIMEOUT - 1)
            play.attach()
        assert play.road.pool is pool is not None
        assert not pool.ended
        assert [path for path, _ in play.said] == ["direct"]


@pytest.mark.parametrize(
    ("session", "offer"),
    [("s2", OFFER), ("s1", control.Direct(secret="cd" * 32, parked=8)), ("s1", None)],
    ids=["another session", "another secret", "no data connections"],
)
async def test_another_session_ends_the_pool_of_the_old_one(
    clock: MockClock, settings: AgentSettings, session: str, offer: control.Direct | None
) -> None:
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        old = play.road.pool
        play.road.detach(LOST)
        play.attach(session, offer)
        await trio.sleep(0.1)
        assert old is not None
        assert old.ended
        assert play.road.pool is not old
        assert (play.road.pool is None) == (offer is None)


async def test_a_session_that_came_back_too_late_begins_anew(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        old = play.road.pool
        play.road.detach(LOST)
        await trio.sleep(limits.ADOPTION_TIMEOUT + 1)
        play.attach()
        assert play.road.pool is not old
        await play.road.settle()
        assert play.road.path == "direct"


async def test_a_session_that_the_relay_ended_ends_its_pool_at_once(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        pool = play.road.pool
        play.road.detach(Rejected(RejectCode.REVOKED, "off the list"))
        assert pool is not None
        assert pool.ended
        assert play.road.pool is None


# --- memory -------------------------------------------------------------------------------------------


def remembered(seconds_ago: float, *, worked: bool = False, failures: int = 5) -> Outcome:
    return Outcome(
        server="relay.example:443",
        network="n",
        transport="direct",
        worked=worked,
        at=datetime.now(UTC) - timedelta(seconds=seconds_ago),
        failures=failures,
        reason="connection refused",
    )


async def test_what_did_not_work_here_a_moment_ago_is_not_waited_for(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings, remembered=remembered(4)) as play:
        play.attach()
        await trio.sleep(0.01)
        started = trio.current_time()
        await play.road.settle()
        assert trio.current_time() == started
        assert play.said == [("session", "data connections did not work on this network just now (connection refused)")]
        await trio.sleep(16)
        assert play.road.path == "direct"
        assert play.reach.noted_direct == [""]


async def test_what_did_not_work_here_long_ago_is_tried_at_once(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings, remembered=remembered(3600)) as play:
        play.attach()
        await trio.sleep(0.1)
        assert [path for path, _ in play.said] == ["session", "direct"]


async def test_each_change_is_remembered_once(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        play.lot.canary = "nothing came back"
        await trio.sleep(300)
        play.lot.canary = ""
        await trio.sleep(2 * limits.DIRECT_RETRY[1])
        assert play.reach.noted_direct == ["", "nothing came back", ""]


async def test_what_worked_is_not_noted_again(clock: MockClock, settings: AgentSettings) -> None:
    async with travelled(settings, remembered=remembered(4, worked=True, failures=0)) as play:
        play.attach()
        await play.road.settle()
        assert play.road.path == "direct"
        assert play.reach.noted_direct == []


async def test_failures_without_a_carrier_say_nothing_of_the_network(clock: MockClock, settings: AgentSettings) -> None:
    """The relay is perhaps being restarted."""
    async with travelled(settings) as play:
        play.attach()
        await play.road.settle()
        play.road.detach(LOST)
        play.lot.failing = ConnectError("connection refused")
        play.road.renew()
        await trio.sleep(1)
        assert play.road.path == "session"
        assert play.reach.noted_direct == [""]
