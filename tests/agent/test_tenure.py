"""One session from its first carrier to its end, whoever comes before and after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, FarRelay, endpoints, listen, visit
from tests.agent.pursuit import KEY, SERVER
from tests.agent.scripted_reach import ScriptedReach
from tests.tunnels import Log
from trunnel.agent.announce import Announcer
from trunnel.agent.road import Road
from trunnel.agent.served import Served
from trunnel.agent.tenure import Surroundings, Tenure
from trunnel.errors import ConfigError, ConnectError, RejectCode, Rejected, SessionClosed, TrunnelError
from trunnel.events import Connected, Ready, StreamClosed, StreamOpened
from trunnel.identity.certstore import LeafStore
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.wire import control

GRACE = 20.0


@dataclass
class Term:
    """A tenure that runs, and what is around it."""

    tenure: Tenure
    reach: ScriptedReach
    log: Log
    nursery: trio.Nursery
    relieved: list[tuple[Tenure, list[str]]]
    """Who asked for that, and what had been told until then."""
    started: trio.Event = field(default_factory=trio.Event)
    failure: TrunnelError | None = None

    async def run(self) -> None:
        """Run it to its end."""
        try:
            await self.nursery.start(self.tenure.run)
        except TrunnelError as exc:
            self.failure = exc
        self.started.set()


@asynccontextmanager
async def term(relay: FarRelay, folder: Path, **options: object) -> AsyncIterator[Term]:
    """Begin a tenure at *relay*."""
    log, relieved = Log(), list[tuple[Tenure, list[str]]]()
    settings = AgentSettings(state_dir=folder, servers=(SERVER,), tls_passthrough=True, **options)  # type: ignore[arg-type]
    served = Served(settings, LeafStore(folder / "leaf", KEY), origin=listen, on_event=log)
    reach = ScriptedReach(relay)
    around = Surroundings(
        reach=reach.as_reach(),
        settings=settings,
        served=served,
        announcer=Announcer(str(SERVER), settings, key_id=KEY.key_id, served=served),
        relieve=lambda who: relieved.append((who, [event.kind for event in log.events])),
    )
    road = Road(reach.as_reach(), settings, forwarding=served.forwarding, on_event=log, changed=lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(road.run)
        tenure = Tenure(await reach.first(), HELLO, road=road, around=around)
        running = Term(tenure, reach, log, nursery, relieved)
        nursery.start_soon(running.run)
        yield running
        nursery.cancel_scope.cancel()


# --- before it serves -------------------------------------------------------------------------------


async def test_it_is_started_once_visitors_can_come_and_people_know(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The one before it is silent before anything is told of this one."""
    async with term(relay, tmp_path) as running:
        assert (running.tenure.attachment, running.tenure.serving_since) == (None, None)
        await running.started.wait()
        assert running.tenure.attachment is not None
        assert running.tenure.serving_since == trio.current_time()
        assert running.tenure.session == "s1"
        assert [event.kind for event in running.log.events] == ["canary", "connected", "data_path", "ready"]
        assert running.relieved == [(running.tenure, ["canary"])]
        await trio.testing.wait_all_tasks_blocked()
        assert running.reach.noted == [(H2, True)]


@pytest.mark.parametrize("how", ["rejected", "no address", "no canary"])
async def test_what_fails_before_is_raised_and_nothing_is_told(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    match how:
        case "rejected":
            relay.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
        case "no address":
            relay.names = ()
        case _:
            relay.canary = "no visitor could be served"
    async with term(relay, tmp_path) as running:
        await running.started.wait()
        assert isinstance(running.failure, Rejected if how == "rejected" else SessionClosed)
        assert running.tenure.is_over
        assert running.tenure.ended is None
        assert running.relieved == []
        assert running.log.of(Connected) + running.log.of(Ready) == []
        assert relay.open == []


async def test_a_transport_that_connects_and_serves_nobody_has_not_worked(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """That is remembered; a refusal says nothing about the transport."""
    relay.canary = "no visitor could be served"
    async with term(relay, tmp_path / "a") as running:
        await running.started.wait()
        assert running.reach.noted == [(H2, False)]
    relay.rejection = control.Rejected(RejectCode.OVERLOADED, "later")
    async with term(relay, tmp_path / "b") as running:
        await running.started.wait()
        assert running.reach.noted == []


# --- its end ----------------------------------------------------------------------------------------


async def test_a_loss_is_its_end_and_says_why(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with term(relay, tmp_path) as running:
        await running.started.wait()
        relay.open[0].session.abort("cut")
        await running.tenure.wait_over()
        assert isinstance(running.tenure.ended, SessionClosed)
        assert "cut" in str(running.tenure.ended)
        assert running.tenure.attachment is None
        assert not running.tenure.relay_drains


async def test_a_file_that_fails_later_is_no_reason_to_give_up(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have room again: the end is one that a retry may mend."""

    async def fail(*_: object) -> None:
        raise ConfigError("", "no space left on device")

    async with term(relay, tmp_path) as running:
        await running.started.wait()
        monkeypatch.setattr(Served, "prepare", fail)
        relay.tell(control.Endpoints(endpoints("app.localhost", "other.localhost")))
        await running.tenure.wait_over()
        assert isinstance(running.tenure.ended, ConnectError)
        assert running.tenure.ended.retryable


async def test_when_the_relay_drains_it_is_leaving_and_goes_on(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Until the relay ends it, or has had its time, whether anybody takes over or not."""
    async with term(relay, tmp_path) as running:
        await running.started.wait()
        await visit(relay.open[0].session)
        relay.tell(control.Drain(GRACE))
        started = trio.current_time()
        await running.tenure.wait_leaving()
        assert running.tenure.relay_drains
        assert trio.current_time() == started
        await trio.sleep(GRACE)
        assert not running.tenure.is_over
        await running.tenure.wait_over()
        assert trio.current_time() - started <= GRACE + 3 * limits.ABORT_FLUSH_TIMEOUT
        assert isinstance(running.tenure.ended, SessionClosed)


async def test_a_drain_that_comes_before_it_serves_counts(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It serves whom the relay sends, and whoever follows it is not kept waiting."""
    relay.probe_takes = 1.0
    async with term(relay, tmp_path) as running:
        await trio.sleep(0.5)
        assert relay.probed
        relay.tell(control.Drain(GRACE))
        await running.started.wait()
        await running.tenure.wait_leaving()
        assert running.tenure.relay_drains
        assert not running.tenure.is_over


async def test_once_relieved_it_is_silent_and_serves_those_whom_it_has(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with term(relay, tmp_path) as running:
        await running.started.wait()
        staying = await visit(relay.open[0].session)
        running.tenure.relieved()
        told = len(running.log.events)
        relay.tell(control.Endpoints(endpoints("app.localhost", "other.localhost")))
        await trio.sleep(3 * limits.CANARY_INTERVAL)
        kinds = [event.kind for event in running.log.events[told:]]
        assert kinds in ([], ["stream_opened"])
        assert len(relay.probed) == 1, "no canary for visitors who do not come"
        await staying.send_all(b"still here")
        assert running.log.of(StreamClosed) == []
        assert not running.tenure.is_over


async def test_it_can_be_cut_with_its_visitors(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with term(relay, tmp_path) as running:
        running.tenure.cut("too early: nothing happens")
        await running.started.wait()
        await visit(relay.open[0].session)
        await running.log.wait(StreamOpened)
        started = trio.current_time()
        running.tenure.cut("newer sessions have taken its place")
        await running.tenure.wait_over()
        assert len(running.log.of(StreamClosed)) == 1
        assert trio.current_time() - started <= 2 * limits.ABORT_FLUSH_TIMEOUT


async def test_a_drain_of_ours_lets_visitors_finish(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with term(relay, tmp_path) as running:
        await running.tenure.drain(GRACE, "too early: nothing happens")
        await running.started.wait()
        await visit(relay.open[0].session)
        started = trio.current_time()
        running.nursery.start_soon(partial(running.tenure.drain, GRACE, "stop"))
        await trio.sleep(1.0)
        assert relay.drains == [control.Drain(GRACE, "stop")]
        assert not running.tenure.is_over
        for far in relay.open:
            far.session.abort("all is done")
        await running.tenure.wait_over()
        assert trio.current_time() - started <= 1.0 + limits.ABORT_FLUSH_TIMEOUT
