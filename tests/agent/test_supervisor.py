"""The agent's loop towards one relay: it comes back after a loss, and knows when not to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, QUIC, FarRelay, ScriptedReach, endpoints, listen, refused
from tests.tunnels import Log, greet, house, until
from trunnel.agent.served import Served
from trunnel.agent.supervisor import Supervisor
from trunnel.errors import ConnectError, RejectCode, Rejected, RelayIdentityError, TrunnelError
from trunnel.events import Canary, Connected, Connecting, Disconnected, Notice, Ready, RejectedByRelay, Stopping
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.wire import control

KEY = IdentityKey.generate()
SERVER = ServerAddress("relay.example", 443)


@dataclass
class Pursuit:
    """A supervisor that runs, and what came of it."""

    supervisor: Supervisor
    reach: ScriptedReach
    log: Log
    served: Served
    ended: trio.Event = field(default_factory=trio.Event)
    failure: TrunnelError | None = None

    def kinds(self) -> list[str]:
        """Return the kinds of the events so far, in their order."""
        return [event.kind for event in self.log.events]


@asynccontextmanager
async def pursuit(
    relay: FarRelay, folder: Path, script: dict[str, object] | None = None, **options: object
) -> AsyncIterator[Pursuit]:
    """Run a supervisor; TLS is passed through, so that no key is made in a thread while time is virtual."""
    log = Log()
    options.setdefault("servers", (SERVER,))
    options.setdefault("tls_passthrough", True)
    settings = AgentSettings(state_dir=folder, **options)  # type: ignore[arg-type]
    served = Served(settings, LeafStore(folder / "leaf", KEY), origin=listen, on_event=log)
    reach = ScriptedReach(relay, **(script or {}))  # type: ignore[arg-type]
    supervisor = Supervisor(reach.as_reach(), settings, key_id=KEY.key_id, hello=HELLO, served=served)
    running = Pursuit(supervisor, reach, log, served)

    async def run() -> None:
        try:
            await supervisor.run()
        except TrunnelError as exc:
            running.failure = exc
        running.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield running
        nursery.cancel_scope.cancel()


# --- one session ------------------------------------------------------------------------------------


async def test_ready_follows_connected_follows_a_canary(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody is told that visitors can come before one could."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        assert running.kinds() == ["connecting", "canary", "connected", "ready"]
        connected = running.log.of(Connected)[0]
        assert (connected.relay, connected.session, connected.transport) == (str(SERVER), "s1", "h2")
        assert connected.why == "by script"
        assert running.log.of(Ready) == list(running.supervisor.ready_events)
        assert running.log.of(Ready)[0].relay == str(SERVER)


async def test_a_session_that_serves_nobody_is_never_called_connected(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.canary = "no carrier took it"
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(60)
        assert set(running.kinds()) == {"connecting", "canary", "disconnected"}
        assert not running.supervisor.ready.is_set()
        relay.canary = ""
        await trio.sleep(limits.BACKOFF_CAP + 1)
        assert running.kinds()[-4:] == ["connecting", "canary", "connected", "ready"]


@pytest.mark.parametrize("transport", [QUIC, H2])
async def test_a_transport_that_connects_and_serves_nobody_has_not_worked(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, transport: str
) -> None:
    """Else QUIC would be dialled first for ever."""
    relay.canary = "nothing came back"
    async with pursuit(relay, tmp_path, {"kind": transport}) as running:
        await running.log.wait(Disconnected)
        assert running.reach.noted == [(transport, False)]


async def test_what_worked_and_what_was_passed_over_is_remembered(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path, {"passed_over": QUIC}) as running:
        await running.supervisor.ready.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert running.reach.noted == [(QUIC, False), (H2, True)]


async def test_canaries_that_fail_later_replace_the_session(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        relay.canary = "black hole"
        lost = await running.log.wait(Disconnected)
        assert lost.reason == "visitors are not served: black hole"
        relay.canary = ""
        await running.log.wait(Connected, 2)
        assert [event.ok for event in running.log.of(Canary)] == [True, False, False, True]


async def test_a_session_without_addresses_is_no_session(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.names = ()
    async with pursuit(relay, tmp_path) as running:
        assert "no address" in (await running.log.wait(Disconnected)).reason


async def test_new_addresses_are_told_once_each(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        relay.tell(control.Endpoints(endpoints("new.localhost")))
        await running.log.wait(Ready, 2)
        relay.tell(control.Endpoints(endpoints("new.localhost")))
        await trio.sleep(10)
        assert [event.hostname for event in running.log.of(Ready)] == ["app.localhost", "new.localhost"]
        assert running.served.names == {Hostname("new.localhost")}


async def test_a_name_that_was_wanted_and_not_given_is_told(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path, name="blog") as running:
        notice = await running.log.wait(Notice)
        assert notice.code == "name-not-given"
        assert f"trunnel authorize {KEY.key_id} --name blog" in notice.text


async def test_a_change_of_transport_is_told_and_no_new_addresses(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path, {"kind": QUIC, "automatic": True}) as running:
        await running.supervisor.ready.wait()
        relay.open[0].fall_silent()
        await running.log.wait(Connected, 2)
        assert [event.transport for event in running.log.of(Connected)] == ["quic", "h2"]
        assert running.supervisor.ready_events[0].transport == "h2"
        await trio.sleep(10)
        assert len(running.log.of(Ready)) == 1


async def test_a_leaf_that_another_relay_changed_is_told(relay: FarRelay, tmp_path: Path) -> None:
    """The fingerprint that a person compares must be the one that visitors see."""
    async with pursuit(relay, tmp_path, tls_passthrough=False) as running:
        first = await running.log.wait(Ready)
        await running.served.prepare(ServerAddress("other.example", 443), [Hostname("b.example")])
        second = await running.log.wait(Ready, 2)
        assert first.hostname == second.hostname
        assert running.served.leaf is not None
        assert first.fingerprint != second.fingerprint == running.served.leaf.fingerprint


# --- again ------------------------------------------------------------------------------------------


async def test_the_first_retry_is_at_once_and_asks_for_the_session(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The relay keeps it for a while, and is told that no other carrier lives."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        await trio.sleep(limits.BACKOFF_RESET)
        lost = trio.current_time()
        relay.open[0].session.abort("cut")
        await running.log.wait(Connected, 2)
        assert trio.current_time() == lost
        hello = relay.carriers[-1].hello
        assert hello is not None
        assert (hello.session, hello.alone, hello.instance) == ("s1", True, HELLO.instance)
        assert running.log.of(Disconnected)[0] == Disconnected(reason="cut", retry_in=0.0, relay=str(SERVER))
        assert [event.attempt for event in running.log.of(Connecting)] == [1, 1]


async def test_the_end_is_noticed_at_once_even_right_after_new_addresses(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        await trio.sleep(limits.BACKOFF_RESET)
        relay.tell(control.Endpoints(endpoints("new.localhost")))
        await running.log.wait(Ready, 2)
        lost = trio.current_time()
        relay.open[0].session.abort("cut")
        await running.log.wait(Connected, 2)
        assert trio.current_time() == lost


async def test_a_relay_that_is_away_is_asked_ever_more_seldom(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(3_600)
        assert 60 <= len(relay.dials) <= 250
        assert running.log.of(Connecting)[-1].attempt == len(running.log.of(Connecting))
        del relay.failing[H2]
        await trio.sleep(limits.BACKOFF_CAP)
        assert running.supervisor.ready.is_set()


async def test_dials_that_take_long_are_no_stable_sessions(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Else a slow failure would start the count anew each time."""
    relay.failing[H2] = refused()
    relay.takes[H2] = 2 * limits.BACKOFF_RESET
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(20 * limits.BACKOFF_RESET)
        attempts = [event.attempt for event in running.log.of(Connecting)]
        assert attempts == list(range(1, len(attempts) + 1))


async def test_another_network_ends_the_waiting(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(600)
        del relay.failing[H2]
        dials = len(relay.dials)
        running.supervisor.network_changed()
        await trio.sleep(0.01)
        assert running.supervisor.ready.is_set()
        assert len(relay.dials) == dials + 1


async def test_another_network_ends_a_dial_that_began_on_the_old_one(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.takes[H2] = limits.CONNECT_TIMEOUT
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(1)
        relay.takes[H2] = 0.1
        running.supervisor.woke()
        await trio.sleep(0.2)
        assert running.supervisor.ready.is_set()
        assert len(relay.connections) == 1


async def test_news_that_come_just_before_the_waiting_are_not_lost(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The session dies of it, and only then the agent waits."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        for count in range(2, 8):  # short sessions: the ceiling grows
            running.supervisor.network_changed()
            relay.open[0].session.abort("cut")
            at = trio.current_time()
            await running.log.wait(Connected, count)
            assert trio.current_time() == at


async def test_news_do_not_shorten_what_the_relay_asks_for(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """CONS-02: two laptops with one key must not push each other out at each change of network."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        relay.tell(control.Rejected(RejectCode.REPLACED, "by another", limits.REPLACED_WAIT))
        told = await running.log.wait(RejectedByRelay)
        assert told.retry_in is not None
        assert told.retry_in >= limits.REPLACED_WAIT
        for _ in range(10):
            await trio.sleep(limits.REPLACED_WAIT / 11)
            running.supervisor.network_changed()
        assert len(running.log.of(Connecting)) == 1
        await trio.sleep(limits.REPLACED_WAIT / 11 + 0.1)
        assert len(running.log.of(Connecting)) == 2


@pytest.mark.parametrize(
    ("rejection", "waits"),
    [
        (control.Rejected(RejectCode.REPLACED, "r"), limits.REPLACED_WAIT),
        (control.Rejected(RejectCode.OVERLOADED, "r", 7.0), 7.0),
        (control.Rejected(RejectCode.DRAINING, "r", 1.0), 1.0),
    ],
)
async def test_a_refusal_that_may_change_is_waited_out(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, rejection: control.Rejected, waits: float
) -> None:
    relay.rejection = rejection
    async with pursuit(relay, tmp_path) as running:
        told = await running.log.wait(RejectedByRelay)
        assert told.retry_in is not None
        assert waits <= told.retry_in <= waits + limits.BACKOFF_BASE
        assert told.relay == str(SERVER)
        relay.rejection = None
        await running.supervisor.ready.wait()
        assert trio.current_time() >= waits


# --- for good ---------------------------------------------------------------------------------------


async def test_a_refusal_for_good_is_told_and_raised(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    async with pursuit(relay, tmp_path) as running:
        await running.ended.wait()
        assert isinstance(running.failure, Rejected)
        assert running.log.events[-1] == RejectedByRelay(
            code="unauthorized", reason="who are you", retry_in=None, relay=str(SERVER)
        )


async def test_an_impostor_is_told_and_raised(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    relay.failing[H2] = RelayIdentityError("another key")
    async with pursuit(relay, tmp_path) as running:
        await running.ended.wait()
        assert running.failure is relay.failing[H2]
        assert running.log.events[-1] == Disconnected(reason="another key", retry_in=None, relay=str(SERVER))
        assert len(relay.dials) == 1


async def test_without_a_named_relay_nobody_is_looked_for_longer_than_3_s(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path, servers=()) as running:
        await running.ended.wait()
        assert trio.current_time() == pytest.approx(limits.DEFAULT_RELAY_TIMEOUT)
        assert isinstance(running.failure, ConnectError)
        assert "start one here, in a second terminal: trunnel serve" in str(running.failure)


async def test_once_it_was_there_it_is_waited_for(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path, servers=()) as running:
        await running.supervisor.ready.wait()
        relay.failing[H2] = refused()
        relay.open[0].session.abort("restart")
        await trio.sleep(600)
        assert not running.ended.is_set()


# --- drain ------------------------------------------------------------------------------------------


async def test_a_drained_session_ends_the_loop(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path) as running, trio.open_nursery() as nursery:
        await running.supervisor.ready.wait()
        nursery.start_soon(running.supervisor.drain, 30.0, "stop")
        await trio.sleep(1)
        assert relay.drains == [control.Drain(30.0, "stop")]
        assert not running.ended.is_set()
        relay.open[0].session.abort("all is done")
        await running.ended.wait()
        assert running.failure is None
        assert "disconnected" not in running.kinds()


@pytest.mark.parametrize("moment", ["dialling", "backoff", "hint", "hello"])
async def test_a_drain_while_nobody_is_attached_ends_the_loop_at_once(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, moment: str
) -> None:
    """It must not attach any more, however long others take to drain."""
    if moment == "dialling":
        relay.takes[H2] = 10
    elif moment == "backoff":
        relay.failing[H2] = refused()
    elif moment == "hint":
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 500.0)
    async with pursuit(relay, tmp_path) as running:
        if moment == "hello":
            while not relay.carriers:
                await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(5)
        await running.supervisor.drain(30.0, "stop")
        with trio.fail_after(0.1):
            await running.ended.wait()
        assert running.failure is None
        assert relay.open == []
        await trio.sleep(100)
        assert "connected" not in running.kinds()


async def test_a_drain_before_the_start_is_one(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.drain(30.0, "stop")
        await running.ended.wait()
        assert relay.dials == []


async def test_a_drain_while_the_first_canary_is_out_is_no_failure_of_the_transport(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.canary = None
    async with pursuit(relay, tmp_path) as running, trio.open_nursery() as nursery:
        while not relay.probed:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(running.supervisor.drain, 30.0, "stop")
        await trio.sleep(1)
        relay.open[0].session.abort("all is done")
        await running.ended.wait()
        assert running.reach.noted == []
        assert running.kinds() == ["connecting"]


# --- with a real relay ------------------------------------------------------------------------------


async def test_a_lost_carrier_is_replaced_and_visitors_come_again(tmp_path: Path) -> None:
    """In the same session: the relay keeps it for a while."""
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet)
        attachment = agent.supervisors[0].attachment
        assert attachment is not None
        attachment.link.abort("cut")
        await log.wait(Ready, 2)
        assert "cut" in log.of(Disconnected)[0].reason
        assert log.of(Connected)[0].session == log.of(Connected)[1].session
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()


async def test_draining_is_reported_once_and_nothing_reconnects(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet)
        agent.drain("first")
        agent.drain("second")
        await until(lambda: agent.supervisors[0].attachment is None)
        assert [event.reason for event in log.of(Stopping)] == ["first"]
        assert len(log.of(Connected)) == 1
        assert log.of(Disconnected) == []
