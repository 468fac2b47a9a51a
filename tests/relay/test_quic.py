"""Agents on QUIC at a running relay: served, counted, turned away, and let go."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import trunnel
from tests.tunnels import PATIENCE, greet, house, until
from trunnel.clock import utc_now
from trunnel.errors import ConnectError
from trunnel.events import Connected, Draining, SessionOpened
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.relay.agents import AgentDoor
from trunnel.settings.agent import TransportChoice
from trunnel.transports.quic_configuration import QuicCredentials
from trunnel.transports.quic_handshake import QuicCarrier, dial_quic


def credentials() -> QuicCredentials:
    key = IdentityKey.generate()
    return QuicCredentials(private_key=key.private_key, chain=(link_certificate(key, now=utc_now()),))


async def dial(home_port: int) -> QuicCarrier:
    return await dial_quic(("127.0.0.1", home_port), credentials(), server_name=None, timeout=PATIENCE)


async def test_an_agent_on_quic_serves_visitors(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet, transport=TransportChoice.QUIC)
        host = agent.ready_events[0].hostname
        assert await home.ask(host) == host.encode()
        assert log.of(Connected)[0].transport == "quic"
        assert home.log.of(SessionOpened)[0].transport == "quic"


async def test_a_relay_without_quic_is_reached_over_tcp(tmp_path: Path) -> None:
    async with house(tmp_path, quic=False) as home:
        _, log = await home.expose(greet, transport=TransportChoice.AUTO)
        connected = log.of(Connected)[0]
        assert connected.transport == "h2"
        assert "UDP" in connected.why


async def test_beyond_the_half_open_cap_a_carrier_is_turned_away(tmp_path: Path) -> None:
    """Handshakes that say no hello hold places; another agent's carrier ends at once."""
    async with house(tmp_path, half_open_per_address=1) as home:
        silent = await dial(home.relay.agents_port)
        try:
            async with silent.driven(), trio.open_nursery() as nursery:
                turned_away = trio.Event()

                async def knock() -> None:
                    late = await dial(home.relay.agents_port)
                    async with late.driven():
                        await until(lambda: late.link.connection.ending is not None)
                    turned_away.set()

                nursery.start_soon(knock)  # the first one's place is taken by the time that its handshake is done
                with trio.fail_after(PATIENCE):
                    await turned_away.wait()
        finally:
            silent.abort()


async def test_a_bug_in_one_carrier_ends_that_carrier_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path) as home:
        broken = AgentDoor.greet

        async def greet_badly(self: AgentDoor, link: object, slot: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(AgentDoor, "greet", greet_badly)
        carrier = await dial(home.relay.agents_port)
        with caplog.at_level(logging.ERROR):
            async with carrier.driven():
                with trio.fail_after(PATIENCE):
                    await until(lambda: carrier.link.connection.ending is not None)
        assert "connection_failed" in caplog.text
        monkeypatch.setattr(AgentDoor, "greet", broken)
        await home.expose(greet, transport=TransportChoice.QUIC)


async def test_a_certificate_that_cannot_be_read_ends_its_carrier_only(tmp_path: Path) -> None:
    """Anybody can make one, and sign for it."""
    key = IdentityKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    malformed = x509.UnrecognizedExtension(x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\xff\xff\xff")
    certificate = (
        x509.CertificateBuilder(name, name, key.private_key.public_key(), 1, utc_now(), utc_now() + timedelta(days=1))
        .add_extension(malformed, critical=False)
        .sign(key.private_key, hashes.SHA256())
    )
    async with house(tmp_path) as home:
        unreadable = QuicCredentials(private_key=key.private_key, chain=(certificate,))
        address = ("127.0.0.1", home.relay.agents_port)
        carrier = await dial_quic(address, unreadable, server_name=None, timeout=PATIENCE)
        async with carrier.driven():
            with trio.fail_after(PATIENCE):
                await until(lambda: carrier.link.connection.ending is not None)
        await home.expose(greet, transport=TransportChoice.QUIC)


async def test_a_draining_relay_takes_no_new_agents_on_quic(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        entered, leave = trio.Event(), trio.Event()

        async def slow(stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
            entered.set()
            await leave.wait()

        agent, _ = await home.expose(slow, transport=TransportChoice.QUIC)
        visitor = await home.visit(agent.ready_events[0].hostname)
        await visitor.send_all(b"hi")
        await entered.wait()
        home.relay.drain("test")
        await home.log.wait(Draining)
        with pytest.raises(ConnectError):
            await dial_quic(("127.0.0.1", home.relay.agents_port), credentials(), server_name=None, timeout=0.5)
        leave.set()
        await visitor.aclose()
