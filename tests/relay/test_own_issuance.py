"""The relay's certificate from an authority that really validates: the first, renewals, and agents that judge it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from cryptography import x509

import trunnel
from tests.acme.pebble import Pebble, pebble
from tests.relay.ownhouse import own_house, shown_on_quic, shown_on_tcp, visit_own
from tests.tunnels import House, greet, read_to_end
from trunnel.acme.challenge import ACME_TLS_ALPN
from trunnel.agent import resolve
from trunnel.agent.runner import run_agent
from trunnel.errors import ConnectError
from trunnel.events import Alarm, Certificate, Connected
from trunnel.names import Hostname
from trunnel.relay.certificate import load_certificate
from trunnel.relay.credentials import Source
from trunnel.relay.own import Own
from trunnel.settings.agent import TransportChoice

NAMES = (Hostname("relay.example"), Hostname("www.relay.example"))
PATIENCE = 30
"""Seconds until a test gives up."""
LIFE = 15
"""Seconds that a certificate lasts in the test of renewals: due after ten, with time for a slow machine."""


def free_port() -> int:
    """Return a port that is free at this moment: the authority is told of it before the relay listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _here(_: str) -> list[str]:
    """Look a name up: every one is on this machine."""
    return ["127.0.0.1"]


@asynccontextmanager
async def certified(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, challenges: int, **options: object
) -> AsyncIterator[tuple[House, Own, Pebble]]:
    """Run an authority, and a relay that gets its certificate there by challenges to the port *challenges*."""
    validity = options.pop("validity", None)
    assert validity is None or isinstance(validity, int)
    monkeypatch.setattr(resolve.Resolver.__init__, "__defaults__", (_here,))
    async with pebble(challenge_port=challenges, validity=validity, sleep=validity is None) as authority:
        mine = {"acme_domains": NAMES, "acme_directory": authority.directory, "acme_ca": authority.ca}
        async with own_house(folder, monkeypatch, **mine, **options) as (home, own):
            await reported(home, "issued")
            yield home, own, authority


async def reported(home: House, state: str) -> Certificate:
    """Wait for the first certificate of a state."""
    with trio.fail_after(PATIENCE):
        while not (found := [event for event in home.log.of(Certificate) if event.state == state]):
            with suppress(trio.TooSlowError):  # it is patient for less than an authority may take
                await home.log.wait(Certificate, len(home.log.of(Certificate)) + 1)
    return found[0]


async def root_of(authority: Pebble, folder: Path) -> Path:
    path = folder / "root.pem"
    path.write_bytes(await authority.root())
    return path


async def test_the_first_certificate_comes_through_the_single_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every name, with the relay's own key; all listeners show it; agents and browsers accept it."""
    port = free_port()
    async with certified(tmp_path, monkeypatch, challenges=port, port=port) as (home, own, authority):
        event = await reported(home, "issued")
        assert event.hostnames == tuple(map(str, NAMES))
        assert own.certificate.identity is not None
        assert own.certificate.current.relay_id == own.certificate.identity.key_id == home.relay.relay_id
        leaf = own.certificate.current.leaf
        assert await shown_on_tcp(port) == await shown_on_quic(port) == leaf.chain[0]
        root = await root_of(authority, tmp_path)
        for name in map(str, NAMES):
            visitor = await visit_own(port, name, root=x509.load_pem_x509_certificate(root.read_bytes()))
            await visitor.send_all(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await read_to_end(visitor)).endswith(b"ok\n")
            with pytest.raises(ConnectError, match="application protocol"):
                await visit_own(port, name, alpn=ACME_TLS_ALPN)
        servers = (trunnel.ServerAddress(NAMES[0].value, port),)
        agent, log = await home.expose(greet, servers=servers, relay_ca=root)
        assert log.of(Connected)[0].relay_id == home.relay.relay_id.value
        hostname = agent.ready_events[0].hostname
        assert await home.ask(hostname) == hostname.encode()
        with pytest.raises(trunnel.RelayIdentityError):
            wrong = (trunnel.ServerAddress("other.example", port),)
            await run_agent(greet, home.agent_settings("other", servers=wrong, relay_ca=root))
        stored = await trio.to_thread.run_sync(load_certificate, home.settings)
        assert stored.current.source is Source.ACME, "the next start shows it at once"
        assert stored.current.leaf.chain == leaf.chain


async def test_it_comes_through_a_port_for_challenges_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with certified(tmp_path, monkeypatch, challenges=port, alpn_port=port) as (home, own, _):
        assert home.relay.agents_port != port
        assert await shown_on_tcp(home.relay.agents_port) == own.certificate.current.leaf.chain[0]
        assert own.certificate.current.source is Source.ACME


async def test_renewals_under_agents_that_come_and_go_fail_no_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOST-07, for the relay: over each transport, and for visitors of its own name."""
    port = free_port()
    done = trio.Event()
    async with certified(tmp_path, monkeypatch, challenges=port, port=port, validity=LIFE) as (home, own, authority):
        root = await root_of(authority, tmp_path)
        trusted = x509.load_pem_x509_certificate(root.read_bytes())
        servers = (trunnel.ServerAddress(NAMES[0].value, port),)
        comings: dict[str, int] = {}

        async def come_and_go(transport: TransportChoice) -> None:
            options = {"servers": servers, "relay_ca": root, "transport": transport}
            while not done.is_set():
                async with trio.open_nursery() as nursery:
                    place = replace(home, nursery=nursery)
                    _, log = await place.expose(greet, transport.value, **options)
                    assert [event.transport for event in log.of(Connected)] == [transport.value]
                    nursery.cancel_scope.cancel()
                comings[transport.value] = comings.get(transport.value, 0) + 1

        async def visit() -> None:
            while not done.is_set():
                visitor = await visit_own(port, NAMES[1].value, root=trusted)
                await visitor.send_all(b"GET / HTTP/1.1\r\n\r\n")
                assert b"trunnel relay" in await read_to_end(visitor)
                comings["visitors"] = comings.get("visitors", 0) + 1

        async def renewals() -> None:
            await reported(home, "renewed")
            done.set()

        async with trio.open_nursery() as nursery:
            for transport in (TransportChoice.H2, TransportChoice.YAMUX, TransportChoice.QUIC):
                nursery.start_soon(come_and_go, transport)
            nursery.start_soon(visit)
            nursery.start_soon(renewals)
        assert all(comings[each] >= 3 for each in ("h2", "yamux", "quic", "visitors")), comings
        for transport in (TransportChoice.H2, TransportChoice.YAMUX, TransportChoice.QUIC):
            await home.expose(greet, transport.value, servers=servers, relay_ca=root, transport=transport)
        assert await shown_on_tcp(port) == await shown_on_quic(port) == own.certificate.current.leaf.chain[0]
        assert own.certificate.current.source is Source.ACME
        assert home.log.of(Alarm) == []
