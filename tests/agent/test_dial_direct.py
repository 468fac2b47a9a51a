"""Data connections are dialled where the carrier went, through the same proxy, and fail with plain reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.agent.proxies import SmallProxy, listening
from tests.agent.stage import closed_port
from tests.agent.test_dial import dialler
from tests.transports.direct_pairs import relay_admits
from trunnel.agent.dial import Dialler
from trunnel.errors import ConnectError
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import ViaAddress, ViaKind
from trunnel.transports.direct import DirectRefused, DirectTerms, read_preface, refuse
from trunnel.wire.direct import Refusal

TERMS = DirectTerms(bytes(range(32)), KeyId.of_spki(b"relay"), "s-1")


async def parks(stream: trio.SocketStream) -> None:
    """Be a relay that parks what it gets."""
    await relay_admits(stream, TERMS)
    await trio.sleep_forever()


def at(folder: Path, relay: ServerAddress) -> Dialler:
    """Return a dialler whose last carrier went to *relay*."""
    dialling = dialler(folder, relay.port)
    dialling.last_address = relay.host
    return dialling


async def test_a_data_connection_is_dialled_and_proved(tmp_path: Path) -> None:
    async with listening(parks) as relay:
        link = await at(tmp_path, relay).dial_direct(TERMS)
        assert link.stream.socket.getpeername() == (relay.host, relay.port)
        link.abort()


async def test_nothing_is_dialled_before_it_is_known_where_the_relay_is(tmp_path: Path) -> None:
    """The name may lead to several relays; the session is at one of them."""
    with pytest.raises(ConnectError, match="not known yet where the relay is"):
        await dialler(tmp_path, 1).dial_direct(TERMS)


async def test_a_port_that_is_closed_is_told(tmp_path: Path) -> None:
    port = await closed_port()
    dialling = dialler(tmp_path, port)
    dialling.last_address = "127.0.0.1"
    with pytest.raises(ConnectError, match=rf"^connection refused \(127\.0\.0\.1:{port}\)$"):
        await dialling.dial_direct(TERMS)


async def test_a_path_that_swallows_everything_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def hang(place: object, *, narrow: bool) -> trio.SocketStream:
        await trio.sleep_forever()
        raise AssertionError(place, narrow)

    monkeypatch.setattr("trunnel.agent.dial.connect_one", hang)
    dialling = dialler(tmp_path, 1)
    dialling.last_address = "192.0.2.1"
    started = trio.current_time()
    with pytest.raises(ConnectError, match="no answer within 5 s"):
        await dialling.dial_direct(TERMS)
    assert trio.current_time() - started == pytest.approx(limits.DIRECT_DIAL_TIMEOUT)


async def test_a_relay_that_says_nothing_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIRECT_PROOF_TIMEOUT", 0.05)

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as relay:
        dialling = at(tmp_path, relay)
        with pytest.raises(ConnectError, match=r"did not answer the data connection within 0\.05 s"):
            await dialling.dial_direct(TERMS)


async def test_another_relay_at_the_address_is_told(tmp_path: Path) -> None:
    """A balancer in front: no retry finds the right one, but the session serves."""

    async def another(stream: trio.SocketStream) -> None:
        await read_preface(stream)
        await refuse(stream, Refusal.WRONG_RELAY)

    async with listening(another) as relay:
        dialling = at(tmp_path, relay)
        with pytest.raises(DirectRefused, match="leads to another relay"):
            await dialling.dial_direct(TERMS)


async def test_where_the_relay_is_behind_a_proxy_data_connections_are_too(tmp_path: Path) -> None:
    async with listening(parks) as relay, listening(SmallProxy({str(relay): relay}).http) as place:
        via = ViaAddress(kind=ViaKind.HTTP, address=place)
        link = await dialler(tmp_path, relay.port, via=via).dial_direct(TERMS)
        assert link.stream.socket.getpeername() == (place.host, place.port)
        link.abort()
