"""From an address to a relay that is who it should be, over each transport; failures have plain reasons."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import trio

from tests.agent.proxies import SmallProxy, listening
from tests.agent.stage import closed_port
from tests.tunnels import PATIENCE, house
from trunnel import capabilities
from trunnel.agent.choices import Choices
from trunnel.agent.dial import Dialler, open_carrier
from trunnel.agent.reach import Reach
from trunnel.agent.resolve import Resolver
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, RelayIdentityError
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustPolicy
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import TransportChoice
from trunnel.settings.via import ViaAddress, ViaKind
from trunnel.transports.selection import TransportKind

H2, QUIC = TransportKind.H2, TransportKind.QUIC
EVERY = list(TransportKind)


def dialler(folder: Path, port: int, pin: KeyId | None = None, *, via: ViaAddress | None = None) -> Dialler:
    key = IdentityKey.generate()
    return Dialler(
        ServerAddress("127.0.0.1", port),
        key=key,
        certificate=link_certificate(key, now=utc_now()),
        policy=TrustPolicy(pin=pin, ca=None, tofu=False, strict=False),
        known=KnownRelays(folder / "known_relays"),
        resolver=Resolver(),
        via=via,
    )


@pytest.mark.parametrize("kind", EVERY)
async def test_a_relay_that_is_trusted_gives_a_carrier(tmp_path: Path, kind: TransportKind) -> None:
    async with house(tmp_path) as home:
        dialling = dialler(tmp_path, home.relay.agents_port)
        carrier = await dialling.dial(kind)
        assert carrier.transport is kind
        assert carrier.trust.relay_id == home.relay.relay_id
        assert carrier.address == home.relay.agents[0]
        assert dialling.last_address == "127.0.0.1"
        carrier.abort()


@pytest.mark.parametrize("kind", EVERY)
async def test_a_carrier_is_opened_as_a_session_of_its_transport(tmp_path: Path, kind: TransportKind) -> None:
    async with house(tmp_path) as home:
        carrier = await dialler(tmp_path, home.relay.agents_port).dial(kind)
        async with open_carrier(carrier, window_max=limits.STREAM_WINDOW_MAX) as session:
            assert session.transport == kind.value
            assert session.peer.key_id == home.relay.relay_id
            with trio.fail_after(PATIENCE):
                await session.accept_stream()  # the relay's control stream
            carrier.abort()  # as `CarrierKeeper` does with one that did not join
        assert session.closed is not None


@pytest.mark.parametrize("kind", EVERY)
async def test_another_key_than_the_pinned_one_is_no_relay(tmp_path: Path, kind: TransportKind) -> None:
    async with house(tmp_path) as home:
        dialling = dialler(tmp_path, home.relay.agents_port, IdentityKey.generate().key_id)
        with pytest.raises(RelayIdentityError):
            await dialling.dial(kind)
        assert dialling.last_address is None


@pytest.mark.parametrize(("beside_tcp", "seconds"), [(True, "0.1"), (False, "0.2")])
async def test_silent_udp_is_waited_for_less_where_tcp_may_be_used_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str, *, beside_tcp: bool
) -> None:
    """A relay that is down says so over TCP at once and over UDP never: the retry waits for the slower of the two."""
    assert limits.QUIC_DIAL_TIMEOUT < limits.HANDSHAKE_TIMEOUT
    monkeypatch.setattr(limits, "QUIC_DIAL_TIMEOUT", 0.1)
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 0.2)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        dialling = dialler(tmp_path, silent.getsockname()[1])
        with pytest.raises(ConnectError, match=rf"no answer within {seconds} s"):
            await dialling.dial(QUIC, beside_tcp=beside_tcp)


async def test_nobody_there_is_worth_a_retry(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="refused") as raised:
        await dialler(tmp_path, await closed_port()).dial(H2)
    assert raised.value.retryable


async def test_the_visitors_port_is_no_relay(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        with trio.fail_after(PATIENCE), pytest.raises(ConnectError):
            await dialler(tmp_path, home.relay.visitors_port).dial(H2)


async def test_through_a_proxy_the_relays_address_is_the_proxys_affair(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        relay = ServerAddress("127.0.0.1", home.relay.agents_port)
        async with listening(SmallProxy({str(relay): relay}).http) as place:
            via = ViaAddress(kind=ViaKind.HTTP, address=place)
            dialling = dialler(tmp_path, relay.port, home.relay.relay_id, via=via)
            carrier = await dialling.dial(H2)
            assert carrier.trust.relay_id == home.relay.relay_id
            assert carrier.address == str(relay)
            assert dialling.last_address is None
            carrier.abort()


@pytest.mark.parametrize("kind", EVERY)
async def test_a_dial_that_is_cancelled_leaves_no_carrier(tmp_path: Path, kind: TransportKind) -> None:
    """At whatever step: a socket that stays open is an error (ResourceWarning)."""
    cancelled = 0
    async with house(tmp_path) as home:
        for steps in (0, 1, 2, 4, 8, 16, 32, 64, 128):
            with trio.CancelScope() as scope:

                async def dial(steps: int = steps, scope: trio.CancelScope = scope) -> None:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_after, steps, scope)
                        carrier = await dialler(tmp_path, home.relay.agents_port).dial(kind)
                        carrier.abort()

                await dial()
            cancelled += scope.cancelled_caught
        gc.collect()
    assert cancelled > 3


async def _cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


# --- without aioquic -----------------------------------------------------------------------------------


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an installation without aioquic."""
    for name in [name for name in sys.modules if name.startswith(("aioquic", "trunnel.transports.quic"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aioquic", None)  # importing it fails


async def test_without_aioquic_quic_is_a_dial_that_failed(tmp_path: Path, lean: None) -> None:
    with pytest.raises(ConnectError, match="QUIC is not installed here") as raised:
        await dialler(tmp_path, await closed_port()).dial(QUIC)
    assert isinstance(raised.value.__cause__, ImportError)


async def test_without_aioquic_tcp_takes_over_at_once_and_says_why(tmp_path: Path, lean: None) -> None:
    async with house(tmp_path, quic=False) as home:
        dialling = dialler(tmp_path, home.relay.agents_port)
        chosen = await Reach(dialling, TransportChoice.AUTO, Choices(tmp_path / "choices")).first()
        assert chosen.transport is H2
        assert chosen.why.startswith("HTTP/2 over TLS on TCP: UDP failed (QUIC is not installed here")
        chosen.value.abort()


@pytest.mark.skipif(not capabilities.HAS_TCP_MAXSEG, reason="segments cannot be bounded here")
async def test_silence_behind_a_connection_narrows_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that loses full-size packets without a word looks like this (NET-12); a second silence undoes it."""
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 0.05)
    sizes: list[int] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialling = dialler(tmp_path, listener.socket.getsockname()[1])
        for _ in range(3):
            with pytest.raises(ConnectError, match="longer than"):
                await dialling.dial(H2)
            async with await listener.accept() as silent:  # the kernel had connected it; nobody spoke
                sizes.append(silent.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG))
    assert [size <= limits.SEGMENT_NARROW for size in sizes] == [False, True, False]


@pytest.mark.skipif(not capabilities.HAS_TCP_MAXSEG, reason="segments cannot be bounded here")
async def test_a_relay_that_loses_patience_just_before_us_narrows_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time for the same handshake began a moment earlier, and its FIN is a small packet, which comes through."""
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 1.0)
    sizes: list[int] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def lose_patience(stream: trio.SocketStream) -> None:
        sizes.append(stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG))
        with trio.move_on_after(0.6):
            while await stream.receive_some():
                pass
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, lose_patience, [listener])
        dialling = dialler(tmp_path, listener.socket.getsockname()[1])
        for _ in range(2):
            with pytest.raises(ConnectError):
                await dialling.dial(H2)
        nursery.cancel_scope.cancel()
    assert [size <= limits.SEGMENT_NARROW for size in sizes] == [False, True]


@pytest.mark.skipif(not capabilities.HAS_TCP_MAXSEG, reason="segments cannot be bounded here")
async def test_an_answer_that_is_no_relays_narrows_nothing(tmp_path: Path) -> None:
    """Packets came through; that the handshake failed has another reason."""
    sizes: list[int] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def answer(stream: trio.SocketStream) -> None:
        sizes.append(stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG))
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        dialling = dialler(tmp_path, listener.socket.getsockname()[1])
        for _ in range(2):
            with pytest.raises(ConnectError):
                await dialling.dial(H2)
        nursery.cancel_scope.cancel()
    assert [size <= limits.SEGMENT_NARROW for size in sizes] == [False, False]
