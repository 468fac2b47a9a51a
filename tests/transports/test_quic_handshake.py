"""Dialling a relay over QUIC: what fails, how it is said, and that nothing stays open."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.transports.conformance import RELAY, open_pair
from tests.transports.quic_pairs import credentials_of, quic_relay
from trunnel.errors import ConnectError
from trunnel.settings import limits
from trunnel.streams.udp import UdpSocket
from trunnel.transports import quic_configuration
from trunnel.transports.quic import open_quic_session
from trunnel.transports.quic_handshake import dial_quic


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[UdpSocket]:
    """Every socket that an agent opens."""
    opened: list[UdpSocket] = []
    real = UdpSocket.towards

    def towards(address: tuple[str, int]) -> UdpSocket:
        opened.append(real(address))
        return opened[-1]

    monkeypatch.setattr(UdpSocket, "towards", towards)
    return opened


async def test_a_relay_that_does_not_answer_is_given_up(
    sockets: list[UdpSocket], autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01
    with UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))._sock as silent:
        began = trio.current_time()
        with pytest.raises(ConnectError, match=r"no answer over UDP within 10 s"):
            await dial_quic(silent.getsockname(), credentials_of("agent"), server_name=None)
        assert trio.current_time() - began == pytest.approx(limits.HANDSHAKE_TIMEOUT, abs=0.1)
    assert [udp.closed for udp in sockets] == [True]


async def test_cancelling_a_dial_closes_its_socket(sockets: list[UdpSocket]) -> None:
    with UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))._sock as silent:
        with trio.move_on_after(0.05) as scope:
            await dial_quic(silent.getsockname(), credentials_of("agent"), server_name=None)
    assert scope.cancelled_caught
    assert [udp.closed for udp in sockets] == [True]


async def test_no_socket_is_a_connect_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: tuple[str, int]) -> UdpSocket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(UdpSocket, "towards", refuse)
    with pytest.raises(ConnectError, match="no UDP socket: Too many open files"):
        await dial_quic(("127.0.0.1", 9), credentials_of("agent"), server_name=None)


async def test_a_server_of_another_protocol_says_so(monkeypatch: pytest.MonkeyPatch, sockets: list[UdpSocket]) -> None:
    async with quic_relay() as relay:
        monkeypatch.setattr(quic_configuration, "LINK_ALPN_QUIC", b"h3")
        with pytest.raises(ConnectError, match="TLS alert 120"):
            await dial_quic(relay.address, credentials_of("agent"), server_name=None)
    assert [udp.closed for udp in sockets] == [True]


async def test_a_carrier_that_nobody_opens_is_closed_at_both_ends(sockets: list[UdpSocket]) -> None:
    async with quic_relay() as relay:
        for close in ("abort", "aclose"):
            carrier = await dial_quic(relay.address, credentials_of("agent"), server_name=None)
            assert carrier.address == relay.address
            session = await relay.session()
            if close == "abort":
                carrier.abort("the relay is not who it should be")
                carrier.abort()
            else:
                await carrier.aclose()
            assert "said goodbye" in (await session.wait_closed()).reason
            assert not carrier.migrate()
    assert all(udp.closed for udp in sockets)


async def test_what_came_before_the_session_was_opened_is_not_lost() -> None:
    """The relay opens the control stream at once; an agent still judges the relay's certificate then."""
    async with quic_relay() as relay:
        carrier = await dial_quic(relay.address, credentials_of("agent"), server_name=None)
        session = await relay.session()
        near = await session.open_stream()
        await near.send_all(b"early")
        await trio.sleep(0.05)
        async with open_quic_session(carrier, RELAY) as agent:
            far = await agent.accept_stream()
            assert await far.receive_some() == b"early"


async def test_a_body_that_fails_is_heard_bare_and_closes_all(sockets: list[UdpSocket]) -> None:
    async with quic_relay() as relay:
        carrier = await dial_quic(relay.address, credentials_of("agent"), server_name=None)
        with pytest.raises(KeyError):
            async with open_quic_session(carrier, RELAY) as agent:
                await open_pair(await relay.session(), agent)
                raise KeyError("the body's own")
    assert [udp.closed for udp in sockets] == [True]


async def test_a_lost_socket_cannot_be_replaced_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no new socket is to be had, `migrate` says so and the old one stays."""
    async with quic_relay() as relay:
        carrier = await dial_quic(relay.address, credentials_of("agent"), server_name=None)
        async with open_quic_session(carrier, RELAY) as agent:

            def refuse(address: tuple[str, int]) -> UdpSocket:
                raise OSError(errno.ENETUNREACH, "no network")

            with monkeypatch.context() as patch:
                patch.setattr(UdpSocket, "towards", refuse)
                assert not await agent.migrate()
            near, far = await open_pair(await relay.session(), agent)
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"


def test_credentials_can_be_made_for_larger_datagrams() -> None:
    assert replace(credentials_of("agent"), datagram=1_400).datagram == 1_400
