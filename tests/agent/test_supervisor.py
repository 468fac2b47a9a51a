"""The agent's loop towards one relay: it comes back after a loss, and knows when not to."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, QUIC, FarRelay, endpoints
from tests.agent.pursuit import KEY, SERVER, pursuit
from tests.tunnels import greet, house, until
from trunnel.events import Canary, Connected, Disconnected, Notice, Ready, Stopping
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.wire import control

# --- one session ------------------------------------------------------------------------------------


async def test_ready_follows_connected_follows_a_canary(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody is told that visitors can come before one could."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        assert running.kinds() == ["connecting", "canary", "connected", "data_path", "ready"]
        connected = running.log.of(Connected)[0]
        assert (connected.relay, connected.session, connected.transport) == (str(SERVER), "s1", "h2")
        assert connected.why == "by script"
        assert running.log.of(Ready) == list(running.supervisor.ready_events)
        assert running.log.of(Ready)[0].relay == str(SERVER)


async def test_the_first_canary_tells_the_round_trip(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The next dial's head start follows it: a canary is asked for, and goes there and back."""
    relay.probe_takes = 0.8
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        assert running.reach.round_trip == pytest.approx(0.4)


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
        kinds = running.kinds()
        assert kinds[kinds.index("connected") - 1 :][:4] == ["canary", "connected", "data_path", "ready"]


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
        await trio.sleep(limits.CANARY_INTERVAL + limits.CANARY_RETRY - 0.1)
        assert running.log.of(Disconnected) == []
        with trio.fail_after(0.2):
            await running.log.wait(Disconnected)
        relay.canary = ""
        await running.log.wait(Connected, 2)
        assert running.log.of(Disconnected)[0].reason == "visitors are not served: black hole"
        assert [event.ok for event in running.log.of(Canary)][:4] == [True, False, False, True]


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
