"""An agent's certificates from a real authority, through a real relay: issuance, renewal under traffic, restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509

from tests.acme.pebble import Pebble, pebble
from tests.tunnels import PATIENCE, House, Log, greet, house
from trunnel.agent.exposure import Exposure
from trunnel.agent.runner import run_agent
from trunnel.events import Alarm, Certificate, Ready, Verified
from trunnel.identity.leaf import fingerprint_of, is_self_signed
from trunnel.names import Hostname

pytestmark = pytest.mark.timeout(120)
SUFFIX = "t.example.com"
SHORT = 12
"""Seconds of a certificate's life that is to be seen from one end to the other."""


@asynccontextmanager
async def issued(folder: Path, **options: object) -> AsyncIterator[tuple[House, Pebble]]:
    """A relay under a public suffix, and an authority that validates through it."""
    async with (
        house(folder, domain_suffixes=(Hostname(SUFFIX),)) as home,
        pebble(challenge_port=home.relay.visitors_port, **options) as authority,  # type: ignore[arg-type]
    ):
        yield home, authority


@asynccontextmanager
async def exposed(home: House, authority: Pebble) -> AsyncIterator[tuple[Exposure, Log]]:
    """Run an agent that asks the authority, until the body's end; then it has ended, and its key is free."""
    log = Log()
    settings = home.agent_settings(
        acme_directory=authority.directory, acme_ca=authority.ca, acme_email="ada@example.com"
    )
    async with trio.open_nursery() as nursery:
        agent: Exposure = await nursery.start(partial(run_agent, greet, settings, on_event=log))
        with trio.fail_after(PATIENCE):
            await agent.ready.wait()
        yield agent, log
        agent.drain("the end of a test")


async def certificate_seen(home: House, hostname: str) -> x509.Certificate:
    """Return what a visitor of *hostname* is shown."""
    visitor = await home.visit(hostname)
    async with visitor:
        return visitor.peer_certificates[0]


async def wait_state(log: Log, state: str) -> Certificate:
    """Wait for a certificate event of one state."""
    with trio.fail_after(60):
        while not (found := [event for event in log.of(Certificate) if event.state == state]):
            await log.wait(Certificate, len(log.of(Certificate)) + 1)
    return found[0]


async def test_visitors_are_served_before_it_and_see_it_afterwards(tmp_path: Path) -> None:
    """And the origin and the connections that are open notice nothing."""
    async with issued(tmp_path) as (home, authority), exposed(home, authority) as (agent, log):
        name = agent.ready_events[0].hostname
        before = await certificate_seen(home, name)
        assert is_self_signed(before)
        held = await home.visit(name)
        event = await wait_state(log, "issued")
        after = await certificate_seen(home, name)
        assert not is_self_signed(after)
        assert event.hostnames == (name,)
        san = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.DNSName) == [name]
        async with held:
            await held.send_all(b"hi")
            await held.send_eof()
            assert await held.receive_some() == name.encode()
        ready = log.of(Ready)[-1]
        assert ready.fingerprint == fingerprint_of(after)


async def test_renewal_under_traffic_fails_no_handshake(tmp_path: Path) -> None:
    """A certificate of seconds: renewed at two thirds of them, never shown after its end (HOST-07)."""
    shown: dict[int, x509.Certificate] = {}
    async with (
        issued(tmp_path, validity=SHORT, sleep=False) as (home, authority),
        exposed(home, authority) as (
            agent,
            log,
        ),
    ):
        name = agent.ready_events[0].hostname
        first = await wait_state(log, "issued")

        async def visit_on_and_on() -> None:
            while True:
                certificate = await certificate_seen(home, name)
                shown[certificate.serial_number] = certificate

        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit_on_and_on)
            second = await wait_state(log, "renewed")
            while len(shown) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    old, new = shown.values()
    assert not any(map(is_self_signed, shown.values()))
    assert (first.not_after, second.not_after) == tuple(
        each.not_valid_after_utc.isoformat(timespec="seconds") for each in (old, new)
    )
    life = old.not_valid_after_utc - old.not_valid_before_utc
    assert old.not_valid_before_utc + life / 2 < new.not_valid_before_utc < old.not_valid_after_utc
    assert not log.of(Alarm)
    assert all(event.ok is not False for event in log.of(Verified))


async def test_a_restart_shows_what_is_stored_at_once(tmp_path: Path) -> None:
    async with issued(tmp_path, sleep=False) as (home, authority):
        async with exposed(home, authority) as (agent, log):
            name = agent.ready_events[0].hostname
            await wait_state(log, "issued")
            first = await certificate_seen(home, name)
        async with exposed(home, authority) as (agent, log):
            await wait_state(log, "loaded")
            assert await certificate_seen(home, name) == first
        assert not [event for event in log.of(Certificate) if event.state == "issued"]
