"""Through a proxy to the relay: real sockets all the way, each hop's failure told in words."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.agent.proxies import Serve, SmallProxy, listening, scripted
from tests.agent.scripted_network import Fate, scripted_network
from tests.agent.stage import closed_port, echo
from tests.streams.tls_pairs import ALPN, HOST, link_client, link_server
from trunnel.agent.resolve import Resolver
from trunnel.agent.via import connect_via
from trunnel.errors import ConnectError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import Credentials, ViaAddress, ViaKind
from trunnel.streams.tls import TlsRole, TlsStream

RELAY = ServerAddress("relay.example", 443)
ACCOUNT = ("ann", "s3cret")
REMOTE = pytest.mark.parametrize("kind", [ViaKind.HTTP, ViaKind.SOCKS5H])
"""The kinds that leave the name to the proxy."""
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Names:
    """A look-up by table, which notes what was asked."""

    def __init__(self, **table: list[str]) -> None:
        self.table = {name.replace("_", "."): addresses for name, addresses in table.items()}
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host not in self.table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.table[host]


@asynccontextmanager
async def via_of(serve: Serve, kind: ViaKind, who: tuple[str, str] | None = None) -> AsyncIterator[ViaAddress]:
    """Run a proxy and yield its address."""
    async with listening(serve) as place:
        yield ViaAddress(kind=kind, address=place, credentials=Credentials(*who) if who else None)


def door(proxy: SmallProxy, kind: ViaKind) -> Serve:
    return proxy.http if kind is ViaKind.HTTP else proxy.socks5


async def refusal(via: ViaAddress, *, server: ServerAddress = RELAY, names: Names | None = None) -> str:
    """Return why *via* does not lead to *server*."""
    with trio.fail_after(5), pytest.raises(ConnectError) as raised:
        await connect_via(via, server, resolver=Resolver(names or Names()))
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


@REMOTE
@pytest.mark.parametrize("account", [None, ACCOUNT])
async def test_the_proxy_gets_the_name_and_the_tunnel_is_whole(kind: ViaKind, account: tuple[str, str] | None) -> None:
    """Bytes that come in one piece with the proxy's answer belong to the tunnel, to the last."""
    names = Names()
    async with listening(echo) as origin:
        proxy = SmallProxy({str(RELAY): origin}, account=account, preamble=b"\r\n\r\nfirst")
        async with (
            via_of(door(proxy, kind), kind, account) as via,
            await connect_via(via, RELAY, resolver=Resolver(names)) as stream,
        ):
            await stream.send_all(b"hi")
            await stream.send_eof()
            assert b"".join([bytes(chunk) async for chunk in stream]) == b"\r\n\r\nfirsthi"
    assert proxy.asked == [str(RELAY)]
    assert names.asked == []


@pytest.mark.parametrize("kind", list(ViaKind))
async def test_tls_runs_inside(kind: ViaKind) -> None:
    """What the agent does next: its handshake with the relay."""

    async def relay(stream: trio.SocketStream) -> None:
        inner = await TlsStream.handshake(stream, link_server(), role=TlsRole.SERVER, timeout=5)
        async with inner:
            await inner.send_all(await inner.receive_some())

    async with listening(relay) as place:
        proxy = SmallProxy({str(RELAY): place, "192.0.2.1:443": place})
        async with via_of(door(proxy, kind), kind) as via:
            stream = await connect_via(via, RELAY, resolver=Resolver(Names(relay_example=["192.0.2.1"])))
            inner = await TlsStream.handshake(stream, link_client(), role=TlsRole.CLIENT, server_name=HOST, timeout=5)
            async with inner:
                assert inner.alpn == ALPN
                await inner.send_all(b"hi")
                assert await inner.receive_some() == b"hi"


async def test_with_socks5_names_are_looked_up_here_and_addresses_tried_in_turn() -> None:
    names = Names(relay_example=["2001:db8::1", "192.0.2.1", "192.0.2.2"])
    async with listening(echo) as origin:
        proxy = SmallProxy({"192.0.2.1:443": origin})
        async with via_of(proxy.socks5, ViaKind.SOCKS5) as via:
            await (await connect_via(via, RELAY, resolver=Resolver(names))).aclose()
    assert proxy.asked == ["[2001:db8::1]:443", "192.0.2.1:443"]
    assert names.asked == [RELAY.host]


async def test_a_proxy_that_will_not_is_not_asked_again() -> None:
    accepted: list[int] = []

    async def serve(stream: trio.SocketStream) -> None:
        accepted.append(1)
        await scripted(b"\x05\x00", b"\x05\x02")(stream)

    async with via_of(serve, ViaKind.SOCKS5) as via:
        text = await refusal(via, names=Names(relay_example=["192.0.2.1", "192.0.2.2"]))
    assert text == f"the proxy at {via.address} refused: its rules do not allow this connection"
    assert accepted == [1]


async def test_a_name_that_is_unknown_here_suggests_the_other_scheme() -> None:
    via = ViaAddress.parse("socks5://127.0.0.1:1")
    assert await refusal(via) == (
        "there is no address for the name relay.example (with socks5h:// the proxy looks names up)"
    )


async def test_an_address_is_asked_for_as_such() -> None:
    async with listening(echo) as origin:
        for kind in ViaKind:
            proxy = SmallProxy({"[2001:db8::1]:443": origin})
            async with via_of(door(proxy, kind), kind) as via:
                server = ServerAddress("2001:db8::1", 443)
                await (await connect_via(via, server, resolver=Resolver(Names()))).aclose()
            assert proxy.asked == ["[2001:db8::1]:443"]


async def test_the_proxy_itself_may_have_a_name_and_several_addresses() -> None:
    async with listening(echo) as origin:
        proxy = SmallProxy({str(RELAY): origin})
        async with listening(proxy.socks5) as place:
            via = ViaAddress(kind=ViaKind.SOCKS5H, address=ServerAddress("proxy.example", place.port))
            resolver = Resolver(Names(proxy_example=["127.0.0.2", "127.0.0.1"]))
            await (await connect_via(via, RELAY, resolver=resolver)).aclose()


@REMOTE
async def test_a_relay_that_the_proxy_cannot_reach_is_named(kind: ViaKind) -> None:
    async with via_of(door(SmallProxy(), kind), kind) as via:
        text = await refusal(via)
    assert text.startswith(f"the proxy at {via.address} could not reach relay.example:443: ")


@pytest.mark.parametrize(
    ("kind", "who", "reason"),
    [
        (
            ViaKind.HTTP,
            None,
            "407 Proxy Authentication Required (it wants a user and a password: http://USER:PASSWORD@HOST:PORT)",
        ),
        (ViaKind.HTTP, ("ann", "s3cret!"), "407 Proxy Authentication Required (user or password are wrong)"),
        (ViaKind.SOCKS5H, None, "it wants proof of who we are, such as user and password"),
        (ViaKind.SOCKS5H, ("ann", "s3cret!"), "user or password are wrong"),
    ],
)
async def test_a_proxy_that_does_not_let_us_in_says_why(
    kind: ViaKind, who: tuple[str, str] | None, reason: str
) -> None:
    async with via_of(door(SmallProxy(account=ACCOUNT), kind), kind, who) as via:
        assert await refusal(via) == f"the proxy at {via.address} refused: {reason}"


@pytest.mark.parametrize(
    ("kind", "answers", "reason"),
    [
        (
            ViaKind.SOCKS5H,
            [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            "cannot be used: it does not speak SOCKS 5 but answers",
        ),
        (ViaKind.HTTP, [b"\x05\xff"], "cannot be used: it does not speak HTTP/1"),
        (ViaKind.HTTP, [b"HTTP/1.1 2"], "hung up before it had connected us to relay.example:443"),
        (ViaKind.HTTP, [], "hung up before it had connected us to relay.example:443"),
        (ViaKind.SOCKS5H, [b"\x05\x00", b"\x05\x00\x00"], "hung up before it had connected us to relay.example:443"),
    ],
)
async def test_a_proxy_that_does_not_do_as_agreed_is_named(kind: ViaKind, answers: list[bytes], reason: str) -> None:
    async with via_of(scripted(*answers), kind) as via:
        assert (await refusal(via)).startswith(f"the proxy at {via.address} {reason}")


async def test_a_proxy_that_is_not_there_is_named() -> None:
    place = ServerAddress("127.0.0.1", await closed_port())
    via = ViaAddress(kind=ViaKind.HTTP, address=place)
    assert await refusal(via) == f"the proxy at {place} cannot be reached: connection refused ({place})"


async def test_a_proxy_whose_name_is_unknown_is_named() -> None:
    text = await refusal(ViaAddress.parse("http://proxy.example:1"))
    assert text == "the proxy at proxy.example:1 cannot be reached: there is no address for the name proxy.example"


class Silence:
    """A proxy that takes what comes, and never answers."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.left = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        self.asked.set()
        try:
            await stream.receive_some()
        finally:
            self.left.set()


@REMOTE
async def test_a_silent_proxy_costs_the_connect_timeout(kind: ViaKind, mock_clock: trio.testing.MockClock) -> None:
    silence = Silence()
    async with via_of(silence.serve, kind) as via, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(
                ConnectError, match=r"answered, but did not connect us to relay.example:443 within 10 s"
            ):
                await connect_via(via, RELAY, resolver=Resolver(Names()))

        nursery.start_soon(ask)
        await silence.asked.wait()
        mock_clock.jump(limits.CONNECT_TIMEOUT + 1)
        await silence.left.wait()


async def test_a_proxy_that_does_not_answer_at_all_costs_it_too(autojump_clock: trio.testing.MockClock) -> None:
    place = ("192.0.2.1", 3128)
    with scripted_network({place: Fate(math.inf)}) as network, pytest.raises(ConnectError) as raised:
        await connect_via(ViaAddress.parse("http://192.0.2.1:3128"), RELAY, resolver=Resolver(Names()))
    assert str(raised.value) == "the proxy at 192.0.2.1:3128 did not answer within 10 s"
    assert trio.current_time() - network.epoch == pytest.approx(limits.CONNECT_TIMEOUT)
    assert network.open_places() == []


@REMOTE
async def test_cancelled_it_hangs_up(kind: ViaKind) -> None:
    silence = Silence()
    async with via_of(silence.serve, kind) as via, trio.open_nursery() as nursery:
        nursery.start_soon(partial(connect_via, via, RELAY, resolver=Resolver(Names())))
        await silence.asked.wait()
        nursery.cancel_scope.cancel()
        with trio.fail_after(5, shield=True):
            await silence.left.wait()


@REMOTE
async def test_an_answer_in_single_bytes_is_an_answer(kind: ViaKind) -> None:
    """A slow proxy, or one behind a slow line."""

    async def serve(stream: trio.SocketStream) -> None:
        async def drip(wire: bytes) -> None:
            await stream.receive_some()
            for octet in wire:
                await stream.send_all(bytes([octet]))
                await trio.testing.wait_all_tasks_blocked()

        if kind is ViaKind.SOCKS5H:
            await drip(b"\x05\x00")
            await drip(b"\x05\x00\x00\x03\x01x\x00\x00")
        else:
            await drip(HEAD)
        await stream.send_all(b"tunnel")

    async with via_of(serve, kind) as via, await connect_via(via, RELAY, resolver=Resolver(Names())) as stream:
        assert await stream.receive_some() == b"tunnel"


class Recorder(trio.abc.SocketFactory):
    """Makes real sockets, and remembers those of happy eyeballs; the proxy has some of its own."""

    def __init__(self) -> None:
        self.made: list[trio.socket.SocketType] = []

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:  # noqa: A002 - trio's
        sock = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        if "eyeballs" in trio.lowlevel.current_task().name:
            self.made.append(sock)
        return sock


class Steps(trio.abc.Instrument):
    """Cancels *scope* before step *at* of the task that made it."""

    def __init__(self, at: int, scope: trio.CancelScope) -> None:
        self._at, self._scope = at, scope
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._at -= 1
            if self._at == 0:
                self._scope.cancel()


async def cancelled_at(step: int, via: ViaAddress) -> bool:
    """Dial and cancel at *step*; return whether that came in time. Nothing may stay open then."""
    recorder, resolver = Recorder(), Resolver(Names(relay_example=["192.0.2.1"]))
    stream: trio.SocketStream | None = None
    with trio.fail_after(5), trio.CancelScope() as scope:
        steps = Steps(step, scope)
        trio.socket.set_custom_socket_factory(recorder)
        trio.lowlevel.add_instrument(steps)
        try:
            stream = await connect_via(via, RELAY, resolver=resolver)
        finally:
            trio.lowlevel.remove_instrument(steps)
            trio.socket.set_custom_socket_factory(None)
    if stream is not None:
        stream.socket.close()
    assert recorder.made or stream is None
    assert all(sock.fileno() < 0 for sock in recorder.made)
    return stream is None


@pytest.mark.parametrize("kind", list(ViaKind))
async def test_cancelled_at_any_step_it_leaves_nothing_open(kind: ViaKind) -> None:
    async with listening(echo) as origin:
        proxy = SmallProxy({str(RELAY): origin, "192.0.2.1:443": origin}, account=ACCOUNT)
        async with via_of(door(proxy, kind), kind, ACCOUNT) as via:
            step = 1
            while await cancelled_at(step, via):
                step += 1
    assert step > 5
