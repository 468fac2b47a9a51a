"""A running agent and its relays: one that is dead, or refuses, disturbs no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trunnel
from tests.agent.far_relay import H2, FarRelay, listen, refused
from tests.agent.scripted_reach import ScriptedReach
from tests.agent.stage import closed_port
from tests.tunnels import PATIENCE, Log, greet, house, visit
from trunnel.agent.agent import Agent
from trunnel.agent.wake import Jump, JumpKind
from trunnel.errors import ConnectError, RejectCode, Rejected, RelayIdentityError, TrunnelError
from trunnel.events import Canary, Connected, Connecting, Disconnected, Ready, RejectedByRelay
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.wire import control

KEY = IdentityKey.generate()
NEAR, FAR = ServerAddress("near.example", 443), ServerAddress("far.example", 443)


@dataclass
class Running:
    """An agent that runs, and what came of it."""

    agent: Agent
    log: Log
    ended: trio.Event = field(default_factory=trio.Event)
    failure: TrunnelError | None = None

    def states(self, relay: ServerAddress) -> list[str]:
        """Return the kinds of the events about *relay*, without canaries: of those there is one a while."""
        about = [event for event in self.log.events if getattr(event, "relay", None) == str(relay)]
        return [event.kind for event in about if not isinstance(event, Canary)]


class Ways:
    """Two relays by script; they share the sessions in memory, so each carrier is found by its own list."""

    def __init__(self, near: FarRelay, far: FarRelay) -> None:
        self.near, self.far = near, far


@pytest.fixture
async def ways(relay: FarRelay, monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Give two relays, each with its carriers."""
    far = FarRelay(relay.nursery, names=("b.far.example",))

    def open_carrier(carrier: object, *, window_max: int) -> object:
        owner = far if carrier.connection in far.connections else relay  # type: ignore[attr-defined]
        return owner.open_carrier(carrier, window_max=window_max)  # type: ignore[arg-type]

    monkeypatch.setattr("trunnel.agent.attachment.open_carrier", open_carrier)
    reaches = [ScriptedReach(relay, server=NEAR), ScriptedReach(far, server=FAR)]
    monkeypatch.setattr("trunnel.agent.agent._reaches", lambda *_: reaches)
    return Ways(relay, far)


@asynccontextmanager
async def running_agent(folder: Path, **options: object) -> AsyncIterator[Running]:
    """Run an agent; TLS is passed through, so that no key is made in a thread while time is virtual."""
    log = Log()
    options = {"servers": (NEAR, FAR), "tls_passthrough": True, **options}
    settings = AgentSettings(state_dir=folder, **options)  # type: ignore[arg-type]
    running = Running(Agent(listen, settings, KEY, on_event=log), log)

    async def run() -> None:
        try:
            await running.agent.run()
        except TrunnelError as exc:
            running.failure = exc
        running.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield running
        nursery.cancel_scope.cancel()


# --- two relays, by script --------------------------------------------------------------------------


async def test_each_relay_gives_addresses(ways: Ways, tmp_path: Path, autojump_clock: MockClock) -> None:
    """Shown in the order in which the relays were named, whichever came first."""
    ways.near.takes[H2] = 1
    async with running_agent(tmp_path) as running:
        await running.agent.ready.wait()
        assert [event.relay for event in running.agent.ready_events] == [str(FAR)]
        await trio.sleep(2)
        assert [(event.relay, event.hostname) for event in running.agent.ready_events] == [
            (str(NEAR), "app.localhost"),
            (str(FAR), "b.far.example"),
        ]


async def test_each_relay_knows_another_instance(ways: Ways, tmp_path: Path, autojump_clock: MockClock) -> None:
    """So that relays that talk with each other cannot mistake one session for the other."""
    async with running_agent(tmp_path):
        await trio.sleep(1)
        hellos = [ways.near.carriers[0].hello, ways.far.carriers[0].hello]
        assert len({hello.instance for hello in hellos if hello is not None}) == 2


async def test_a_dead_relay_disturbs_nothing_and_its_return_is_noticed(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ways.far.failing[H2] = refused()
    async with running_agent(tmp_path) as running:
        await trio.sleep(900)
        assert running.states(NEAR) == ["connecting", "connected", "data_path", "ready"]
        assert set(running.states(FAR)) == {"connecting", "disconnected"}
        del ways.far.failing[H2]
        await trio.sleep(limits.BACKOFF_CAP + 1)
        assert running.states(FAR)[-3:] == ["connected", "data_path", "ready"]
        assert len(ways.near.dials) == 1


async def test_canaries_say_whose_they_are(ways: Ways, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first of each relay and the later ones: one serves, the other does not."""
    async with running_agent(tmp_path) as running:
        await running.agent.ready.wait()
        ways.far.canary = "black hole"
        await trio.sleep(limits.CANARY_INTERVAL + 1)
        seen = [(event.relay, event.ok) for event in running.log.of(Canary)]
        assert sorted(seen) == sorted([(str(NEAR), True), (str(FAR), True), (str(NEAR), True), (str(FAR), False)])


async def test_a_relay_that_goes_and_comes_disturbs_nothing(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_agent(tmp_path) as running:
        await running.agent.ready.wait()
        for _ in range(20):
            await trio.sleep(60)
            ways.far.open[0].session.abort("restart")
        await trio.sleep(1)
        assert running.states(NEAR) == ["connecting", "connected", "data_path", "ready"]
        assert running.states(FAR)[-1] == "ready"


@pytest.mark.parametrize("answer", ["rejected", "impostor"])
async def test_a_final_no_of_one_of_two_does_not_end_the_agent(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock, answer: str
) -> None:
    if answer == "rejected":
        ways.far.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    else:
        ways.far.failing[H2] = RelayIdentityError("another key")
    async with running_agent(tmp_path) as running:
        await trio.sleep(900)
        assert running.states(FAR) == ["connecting", "rejected" if answer == "rejected" else "disconnected"]
        assert running.states(NEAR) == ["connecting", "connected", "data_path", "ready"]
        assert len(ways.far.dials) == 1


async def test_the_final_no_of_all_ends_the_agent_with_the_first(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ways.far.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    async with running_agent(tmp_path) as running:
        await running.agent.ready.wait()
        ways.near.tell(control.Rejected(RejectCode.REVOKED, "off the list"))
        await running.ended.wait()
        assert isinstance(running.failure, Rejected)
        assert running.failure.code is RejectCode.UNAUTHORIZED
        assert [event.code for event in running.log.of(RejectedByRelay)] == ["unauthorized", "revoked"]


# --- drain ------------------------------------------------------------------------------------------


async def test_draining_waits_for_the_relays_that_are_there_and_for_no_other(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One is in backoff, and its relay comes back meanwhile: too late."""
    ways.far.failing[H2] = refused()
    async with running_agent(tmp_path, drain_grace=200.0) as running:
        await trio.sleep(100)
        running.agent.drain("SIGTERM")
        running.agent.drain("SIGTERM again")
        del ways.far.failing[H2]
        await trio.sleep(100)
        assert ways.far.connections == []
        assert not running.ended.is_set()
        ways.near.open[0].session.abort("all is done")
        with trio.fail_after(0.1):
            await running.ended.wait()
        assert running.failure is None
        assert ways.near.drains == [control.Drain(200.0, "SIGTERM")]


async def test_draining_with_every_relay_away_ends_at_once(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ways.near.failing[H2] = ways.far.failing[H2] = refused()
    async with running_agent(tmp_path) as running:
        await trio.sleep(100)
        running.agent.drain("SIGTERM")
        with trio.fail_after(0.1):
            await running.ended.wait()
        assert running.failure is None


async def test_draining_has_its_grace_and_no_more(ways: Ways, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_agent(tmp_path, drain_grace=7.0) as running:
        await running.agent.ready.wait()
        started = trio.current_time()
        running.agent.drain("SIGTERM")
        await running.ended.wait()
        assert trio.current_time() - started <= 7 + 2 * limits.CLOSE_TIMEOUT


async def test_a_refusal_before_a_drain_is_not_the_drains_failure(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ways.far.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    async with running_agent(tmp_path, drain_grace=1.0) as running:
        await running.agent.ready.wait()
        running.agent.drain("SIGTERM")
        await running.ended.wait()
        assert running.failure is None


# --- news of the machine ----------------------------------------------------------------------------


async def test_waking_up_is_told_to_every_relays_supervisor(
    ways: Ways, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ways.near.failing[H2] = ways.far.failing[H2] = refused()
    async with running_agent(tmp_path) as running:
        await trio.sleep(600)
        ways.near.failing.clear()
        ways.far.failing.clear()
        running.agent._woke(Jump(kind=JumpKind.SLEPT, seconds=300.0))
        await trio.sleep(0.01)
        assert {event.relay for event in running.log.of(Ready)} == {str(NEAR), str(FAR)}


# --- with real relays -------------------------------------------------------------------------------


async def test_visitors_come_by_either_relay_and_see_one_certificate(tmp_path: Path) -> None:
    async with house(tmp_path / "a") as near, house(tmp_path / "b", domain_suffixes=(Hostname("b.localhost"),)) as far:
        servers = tuple(trunnel.ServerAddress("127.0.0.1", home.relay.agents_port) for home in (near, far))
        agent, log = await near.expose(greet, servers=servers, state_dir=tmp_path / "agent")
        with trio.fail_after(PATIENCE):
            while len({event.relay for event in agent.ready_events}) < 2:
                await log.wait(Ready, len(log.of(Ready)) + 1)
        for home, event in zip((near, far), agent.ready_events, strict=True):
            assert await home.ask(event.hostname) == event.hostname.encode()
        seen = []
        for home, event in zip((near, far), agent.ready_events, strict=True):
            visitor = await visit(home.relay.visitors_port, event.hostname)
            seen.append(visitor.peer_certificates[0])
            visitor.abort()
        assert seen[0] == seen[1]
        assert len({event.fingerprint for event in agent.ready_events}) == 1


async def test_a_relay_on_which_nobody_listens_leaves_the_other_alone(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        dead = trunnel.ServerAddress("127.0.0.1", await closed_port())
        alive = trunnel.ServerAddress("127.0.0.1", home.relay.agents_port)
        agent, log = await home.expose(greet, servers=(dead, alive))
        assert [event.relay for event in agent.ready_events] == [str(alive)]
        hostname = agent.ready_events[0].hostname
        assert await home.ask(hostname) == hostname.encode()
        assert [event.relay for event in log.of(Connected)] == [str(alive)]


async def test_without_a_named_relay_and_nobody_there_the_agent_ends(
    relay: FarRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    relay.failing[H2] = refused()
    reach = ScriptedReach(relay)
    monkeypatch.setattr("trunnel.agent.agent._reaches", lambda *_: [reach])
    async with running_agent(tmp_path, servers=()) as running:
        await running.ended.wait()
        assert isinstance(running.failure, ConnectError)
        assert running.log.of(Disconnected)[-1].retry_in is None
        assert len(running.log.of(Connecting)) == 1
