"""Looking after the relay's certificate: a person's files are followed, and its end is never a surprise."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trunnel
from tests.relay.ownhouse import QUICK_POLL, own_house, shown_on_quic, shown_on_tcp
from tests.relay.papers import Authority, Pair, put_pair, settings
from tests.tunnels import Gate, Log, greet, read_to_end, until
from trunnel.agent.runner import run_agent
from trunnel.clock import utc_now
from trunnel.events import Alarm, Certificate, Disconnected
from trunnel.identity.keys import IdentityKey
from trunnel.identity.leaf import leaf_of
from trunnel.relay import certificate_watch
from trunnel.relay.certificate import RelayCertificate, load_certificate
from trunnel.relay.certificate_watch import due_at, watch_files, watch_period
from trunnel.relay.credentials import Source, self_signed
from trunnel.settings import limits
from trunnel.settings.agent import TransportChoice
from trunnel.settings.relay import RelaySettings

DAY = timedelta(days=1)


# --- files ------------------------------------------------------------------------------------


@dataclass
class Desk:
    """The files of a person, and a relay's certificate that follows them."""

    folder: Path
    certificate: RelayCertificate
    authority: Authority
    log: Log = field(default_factory=Log)

    def put(self, pair: Pair) -> None:
        put_pair(self.folder, pair)

    def states(self) -> list[str]:
        return [event.state for event in self.log.of(Certificate)]

    @property
    def shown(self) -> tuple[object, ...]:
        return self.certificate.current.leaf.chain


@asynccontextmanager
async def desk(folder: Path, first: Pair | None = None) -> AsyncIterator[Desk]:
    """Follow the files in *folder*."""
    authority = Authority()
    wanted = settings(folder, **put_pair(folder, first or authority.issue("relay.example")))
    made = Desk(folder, load_certificate(wanted), authority)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_files, made.certificate, wanted, made.log, QUICK_POLL)
        await made.log.wait(Certificate)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_renewed_pair_is_shown(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        key = at.certificate.current.leaf.private_key
        renewed = at.authority.issue("relay.example", "www.relay.example", key=key)  # type: ignore[arg-type]
        at.put(renewed)
        event = await at.log.wait(Certificate, 2)
        assert event.state == "loaded"
        assert event.hostnames == ("relay.example", "www.relay.example")
        assert at.shown == renewed.chain
        assert at.log.of(Alarm) == []


async def test_bad_content_keeps_the_old_and_is_said_once_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with desk(tmp_path) as at:
        before = at.shown
        (tmp_path / "cert.pem").write_bytes(b"nonsense")
        event = await at.log.wait(Certificate, 2)
        assert (event.state, "holds no certificate" in event.reason) == ("failed", True)
        assert event.not_after == at.certificate.current.leaf.not_after.isoformat(timespec="seconds")
        (tmp_path / "cert.pem").unlink()
        await at.log.wait(Certificate, 3)
        assert at.shown == before
        assert [record.message for record in caplog.records] == ["relay_certificate_kept"] * 2


async def test_a_certificate_without_its_key_yet_waits_for_it(tmp_path: Path) -> None:
    """Two files are not exchanged in one step."""
    async with desk(tmp_path) as at:
        before, renewed = at.shown, at.authority.issue("relay.example")
        (tmp_path / "cert.pem").write_bytes(renewed.chain_pem)
        await at.log.wait(Certificate, 2)
        assert at.shown == before
        (tmp_path / "key.pem").write_bytes(renewed.key_pem)
        await until(lambda: at.shown == renewed.chain)
        assert at.states() == ["loaded", "failed", "loaded"]


async def test_one_that_has_ended_does_not_take_the_place_of_one_that_holds(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        before = at.shown
        at.put(at.authority.issue("relay.example", start=-90 * DAY, end=-DAY))
        event = await at.log.wait(Certificate, 2)
        assert (event.state, "ended" in event.reason) == ("failed", True)
        assert at.shown == before


async def test_one_that_has_ended_gives_way_to_anything(tmp_path: Path) -> None:
    ended = Authority().issue("relay.example", start=-90 * DAY, end=-DAY)
    async with desk(tmp_path, ended) as at:
        fresh = at.authority.issue("relay.example")
        at.put(fresh)
        await until(lambda: at.shown == fresh.chain)


async def test_another_key_is_shown_and_an_alarm(tmp_path: Path) -> None:
    """Whoever pinned the old one refuses this relay from now on."""
    async with desk(tmp_path) as at:
        old = at.certificate.current.relay_id
        at.put(at.authority.issue("relay.example"))
        alarm = await at.log.wait(Alarm)
        assert alarm.code == "relay-key-changed"
        assert str(old) in alarm.text
        assert str(at.certificate.current.relay_id) in alarm.text


async def test_exchanged_links_are_a_change(tmp_path: Path) -> None:
    """So certbot and orchestrators publish a new pair."""
    authority = Authority()
    pairs = [authority.issue("relay.example") for _ in range(2)]
    for number, pair in enumerate(pairs):
        (tmp_path / str(number)).mkdir()
        put_pair(tmp_path / str(number), pair)
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "0")
    wanted = settings(tmp_path, tls_cert=current / "cert.pem", tls_key=current / "key.pem")
    certificate, log = load_certificate(wanted), Log()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_files, certificate, wanted, log, QUICK_POLL)
        await log.wait(Certificate)
        (tmp_path / "next").symlink_to(tmp_path / "1")
        (tmp_path / "next").replace(current)
        await until(lambda: certificate.current.leaf.chain == pairs[1].chain)
        nursery.cancel_scope.cancel()


async def test_a_running_relay_shows_new_files_to_everybody_and_drops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, gate = Authority(), Gate()
    first = authority.issue("localhost")
    root = authority.put_root(tmp_path)
    async with own_house(tmp_path, monkeypatch, **put_pair(tmp_path, first)) as (home, _):
        agent, log = await home.expose(gate.serve, relay_ca=root)
        visitor = await home.visit(agent.ready_events[0].hostname)
        await gate.entered.wait()
        renewed = authority.issue("localhost", key=first.key)
        put_pair(tmp_path, renewed)
        await home.log.wait(Certificate, 2)
        assert await shown_on_tcp(home.relay.agents_port) == renewed.chain[0]
        assert await shown_on_quic(home.relay.agents_port) == renewed.chain[0]
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"
        assert log.of(Disconnected) == []
        await home.expose(greet, "later", relay_ca=root)


@pytest.mark.parametrize("transport", [TransportChoice.H2, TransportChoice.QUIC])
async def test_after_a_change_of_key_agents_that_judge_by_a_ca_attach_and_those_that_pinned_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: TransportChoice
) -> None:
    authority = Authority()
    root = authority.put_root(tmp_path)
    async with own_house(tmp_path, monkeypatch, **put_pair(tmp_path, authority.issue("localhost"))) as (home, _):
        pin = home.relay.relay_id
        put_pair(tmp_path, authority.issue("localhost"))
        await until(lambda: home.relay.relay_id != pin)
        agent, _ = await home.expose(greet, relay_ca=root, transport=transport)
        hostname = agent.ready_events[0].hostname
        assert await home.ask(hostname) == hostname.encode()
        pinned = home.agent_settings("pinned", relay_pin=pin, transport=transport)
        with pytest.raises(trunnel.RelayIdentityError):
            await run_agent(greet, pinned)


async def test_names_in_new_files_are_the_relays_own_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that had one of them is told that it has it no more."""
    authority = Authority()
    first = authority.issue("localhost")
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key").key_id
    (tmp_path / "agents").write_text(f"{key} app\n")
    options = {"authorized_agents": tmp_path / "agents", **put_pair(tmp_path, first)}
    async with own_house(tmp_path, monkeypatch, **options) as (home, _):
        await home.expose(greet)
        assert await home.ask("app.localhost") == b"app.localhost"
        put_pair(tmp_path, authority.issue("localhost", "app.localhost", key=first.key))
        await home.log.wait(Certificate, 2)
        visitor = await home.visit("app.localhost")
        assert visitor.peer_certificates[0].issuer == authority.root.subject
        visitor.abort()
        assert await home.ask(f"{key}.localhost") == f"{key}.localhost".encode()


# --- the end ----------------------------------------------------------------------------------


@dataclass
class Calendar:
    """The time of day of a test: it goes with trio's clock, and can be set."""

    start: datetime

    def now(self) -> datetime:
        return self.start + timedelta(seconds=trio.current_time())


@asynccontextmanager
async def watched(
    certificate: RelayCertificate, wanted: RelaySettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Log, Calendar]]:
    """Watch the period of *certificate* on a calendar of the test's."""
    log, calendar = Log(), Calendar(utc_now() - timedelta(seconds=trio.current_time()))
    monkeypatch.setattr(certificate_watch, "utc_now", calendar.now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_period, certificate, wanted, log)
        await trio.testing.wait_all_tasks_blocked()
        yield log, calendar
        nursery.cancel_scope.cancel()


async def pass_time(clock: MockClock, until_then: datetime, calendar: Calendar) -> None:
    """Let time pass, and the watcher look."""
    clock.jump((until_then - calendar.now()).total_seconds())
    await trio.testing.wait_all_tasks_blocked()


async def test_a_self_signed_one_is_remade_before_its_end(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = load_certificate(settings(tmp_path))
    first = certificate.current
    async with watched(certificate, settings(tmp_path), monkeypatch) as (log, calendar):
        await pass_time(mock_clock, due_at(first) - DAY, calendar)
        assert certificate.current is first
        await pass_time(mock_clock, due_at(first), calendar)
        assert certificate.current.leaf.not_after > first.leaf.not_after
        assert certificate.current.relay_id == first.relay_id
        assert log.events == []


async def test_files_with_less_than_a_third_of_their_life_left_are_an_alarm_once(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Authority().issue("relay.example", start=-DAY, end=89 * DAY)
    wanted = settings(tmp_path, **put_pair(tmp_path, pair))
    certificate = load_certificate(wanted)
    end = certificate.current.leaf.not_after
    async with watched(certificate, wanted, monkeypatch) as (log, calendar):
        await pass_time(mock_clock, end - 31 * DAY, calendar)
        assert log.events == []
        await pass_time(mock_clock, end - 28 * DAY, calendar)
        (alarm,) = log.of(Alarm)
        assert (alarm.code, alarm.hostname) == ("certificate-expiring", "relay.example")
        assert f"{end:%Y-%m-%d %H:%M} UTC" in alarm.text
        await pass_time(mock_clock, end + DAY, calendar)
        assert len(log.events) == 1
        assert certificate.current.source is Source.FILES, "there is nothing else that these agents would accept"


async def test_an_issued_one_that_ends_all_the_same_gives_way_to_a_self_signed_one(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = load_certificate(settings(tmp_path))
    assert certificate.identity is not None
    key = certificate.identity.private_key
    certificate.show_issued(leaf_of(key, Authority().issue("relay.example", key=key).chain, tmp_path))
    end = certificate.current.leaf.not_after
    async with watched(certificate, settings(tmp_path), monkeypatch) as (_, calendar):
        await pass_time(mock_clock, end - timedelta(seconds=1), calendar)
        assert certificate.current.leaf.not_after == end
        await pass_time(mock_clock, end, calendar)
        assert certificate.current.source is Source.SELF_SIGNED
        assert certificate.current.leaf.not_after > end


async def test_one_that_is_shown_later_has_a_time_of_its_own(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher does not sleep over a certificate of an hour that comes while it waits."""
    certificate = load_certificate(settings(tmp_path))
    identity = certificate.identity
    assert identity is not None
    async with watched(certificate, settings(tmp_path), monkeypatch) as (_, calendar):
        short = Authority().issue("relay.example", key=identity.private_key, end=timedelta(minutes=5))
        certificate.show_issued(leaf_of(identity.private_key, short.chain, tmp_path))
        await trio.testing.wait_all_tasks_blocked()
        await pass_time(mock_clock, certificate.current.leaf.not_after, calendar)
        assert certificate.current.source is Source.SELF_SIGNED


async def test_a_clock_that_is_set_back_makes_a_self_signed_one_that_has_begun(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = IdentityKey.generate()
    wanted = settings(tmp_path)
    certificate = RelayCertificate(self_signed(wanted, identity, now=utc_now()), identity)
    async with watched(certificate, wanted, monkeypatch) as (_, calendar):
        calendar.start -= 400 * DAY
        mock_clock.jump(limits.CERTIFICATE_LOOK)
        await trio.testing.wait_all_tasks_blocked()
        assert certificate.current.leaf.period_problem(calendar.now()) == ""
