"""An agent's certificates from a real authority, through a real relay: issuance, renewal under traffic, restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509

from tests.acme.pebble import Pebble, pebble
from tests.tunnels import PATIENCE, House, Log, greet, house
from trunnel.agent.agent import Agent
from trunnel.errors import AuthError
from trunnel.events import Alarm, Certificate, Ready, Verified
from trunnel.identity.leaf import fingerprint_of, is_self_signed
from trunnel.identity.locking import lock_key
from trunnel.names import Hostname

pytestmark = pytest.mark.timeout(120)
SUFFIX = "t.example.com"


@asynccontextmanager
async def issued(folder: Path, **options: object) -> AsyncIterator[tuple[House, Pebble]]:
    """A relay under a public suffix, and an authority that validates through it."""
    async with (
        house(folder, domain_suffixes=(Hostname(SUFFIX),)) as home,
        pebble(challenge_port=home.relay.visitors_port, **options) as authority,  # type: ignore[arg-type]
    ):
        yield home, authority


async def exposed(home: House, authority: Pebble) -> tuple[Agent, Log]:
    """Run an agent that asks the authority."""
    return await home.expose(
        greet, acme_directory=authority.directory, acme_ca=authority.ca, acme_email="ada@example.com"
    )


async def certificate_seen(home: House, hostname: str) -> x509.Certificate:
    """Return what a visitor of *hostname* is shown."""
    visitor = await home.visit(hostname)
    async with visitor:
        return visitor.peer_certificates[0]


async def wait_state(log: Log, state: str, count: int = 1) -> Certificate:
    """Wait for the *count*-th certificate event of one state."""
    with trio.fail_after(60):
        while len(found := [event for event in log.of(Certificate) if event.state == state]) < count:
            await log.wait(Certificate, len(log.of(Certificate)) + 1)
    return found[count - 1]


async def wait_unlocked(key: Path) -> None:
    """Wait until no agent runs with *key*."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                with lock_key(key, purpose="looking"):
                    return
            except AuthError:
                await trio.sleep(0.05)


async def test_visitors_are_served_before_it_and_see_it_afterwards(tmp_path: Path) -> None:
    """And the origin and the connections that are open notice nothing."""
    async with issued(tmp_path) as (home, authority):
        agent, log = await exposed(home, authority)
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
        await held.send_all(b"hi")
        await held.send_eof()
        assert await held.receive_some() == name.encode()
        ready = log.of(Ready)[-1]
        assert ready.fingerprint == fingerprint_of(after)


async def test_renewal_under_traffic_fails_no_handshake_and_a_restart_uses_what_is_stored(tmp_path: Path) -> None:
    """Certificates of 12 seconds: renewed at two thirds, never shown after their end (HOST-07)."""
    failures: list[str] = []
    enough: list[bool] = []
    shown: set[int] = set()

    async with issued(tmp_path, validity=12, sleep=False) as (home, authority):
        agent, log = await exposed(home, authority)
        name = agent.ready_events[0].hostname
        await wait_state(log, "issued")

        async def visit_on_and_on() -> None:
            while not enough:
                certificate = await certificate_seen(home, name)
                shown.add(certificate.serial_number)
                if is_self_signed(certificate):
                    failures.append("self-signed")
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit_on_and_on)
            await wait_state(log, "renewed", 2)
            enough.append(True)
        assert not failures
        assert len(shown) >= 2
        assert not log.of(Alarm)
        assert all(event.ok is not False for event in log.of(Verified))


async def test_a_restart_shows_what_is_stored_at_once(tmp_path: Path) -> None:
    async with issued(tmp_path, sleep=False) as (home, authority):
        agent, log = await exposed(home, authority)
        name = agent.ready_events[0].hostname
        await wait_state(log, "issued")
        first = await certificate_seen(home, name)
        agent.drain("restart")
        await wait_unlocked(home.agent_settings().key_path)
        agent, log = await exposed(home, authority)
        await wait_state(log, "loaded")
        assert await certificate_seen(home, name) == first
        assert not [event for event in log.of(Certificate) if event.state == "issued"]
