"""Dialling the origin: both loopback families, causes that people understand, and nowhere else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
import trio.testing

from trunnel import capabilities
from trunnel.agent.origin import Origin
from trunnel.errors import ConnectError
from trunnel.events import Event, OriginState
from trunnel.names import Target
from trunnel.settings import limits

V4, V6 = "127.0.0.1", "::1"


async def listen(host: str, port: int = 0) -> trio.SocketListener:
    """Listen on one loopback address; the test ends with a skip if the machine has no such family."""
    try:
        (listener,) = await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    return listener


def port_of(listener: trio.SocketListener) -> int:
    """Return the bound port."""
    return int(listener.socket.getsockname()[1])


async def closed_port() -> int:
    """Return a port on which nobody listens."""
    async with await listen(V4) as listener:
        return port_of(listener)


def trio_socket_type() -> type[trio.socket.SocketType]:
    """Return the class behind trio's abstract socket type."""
    with trio.socket.socket() as sock:
        return type(sock)


class Dialled:
    """Remembers every address that is dialled, and dials it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[tuple[str, int]] = []
        sock_type = trio_socket_type()
        original = sock_type.connect

        async def connect(sock: trio.socket.SocketType, address: tuple[str, int]) -> None:
            self.addresses.append(address[:2])
            await original(sock, address)

        monkeypatch.setattr(sock_type, "connect", connect)


@pytest.mark.parametrize("host", [V4, V6])
async def test_a_bare_port_reaches_either_family_and_remembers_it(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family that answered is tried first the next time, and the other not at all."""
    dialled = Dialled(monkeypatch)
    async with await listen(host) as listener:
        origin = Origin(Target(port=port_of(listener)))
        for _ in range(2):
            dialled.addresses.clear()
            async with await origin.connect() as stream:
                assert stream.socket.getpeername()[0] == host
        assert dialled.addresses == [(host, port_of(listener))]


async def test_a_family_that_refuses_costs_no_time() -> None:
    """No 250 ms for the first visitor of an origin that listens on ::1 only."""
    async with await listen(V6) as listener:
        origin = Origin(Target(port=port_of(listener)))
        started = trio.current_time()
        await (await origin.connect()).aclose()
        assert trio.current_time() - started < limits.HAPPY_EYEBALLS_DELAY / 2


async def test_an_origin_that_moved_to_the_other_family_is_found() -> None:
    """What is remembered is an order, not a choice."""
    async with await listen(V6) as listener:
        port = port_of(listener)
        origin = Origin(Target(port=port))
        await (await origin.connect()).aclose()
    async with await listen(V4, port), await origin.connect() as stream:
        assert stream.socket.getpeername()[0] == V4


async def test_a_refusal_is_told_in_plain_words_and_recovers_without_restart() -> None:
    """Each visitor dials anew; events come once a change."""
    events: list[Event] = []
    port = await closed_port()
    origin = Origin(Target(port=port), events=events.append)
    for _ in range(3):
        with pytest.raises(ConnectError, match=rf"nothing listens on localhost:{port} \(connection refused\)"):
            await origin.connect()
    async with await listen(V4, port):
        for _ in range(2):
            await (await origin.connect()).aclose()
    with pytest.raises(ConnectError):
        await origin.connect()
    down = OriginState(state="down", cause=f"nothing listens on localhost:{port} (connection refused)")
    assert events == [down, OriginState(state="up", cause=""), down]


async def full_listener() -> tuple[trio.socket.SocketType, list[trio.socket.SocketType]]:
    """Return a listener whose queue is full, so that connecting hangs, and what fills it."""
    sock = trio.socket.socket()
    await sock.bind((V4, 0))
    sock.listen(0)
    fillers: list[trio.socket.SocketType] = []
    for _ in range(8):
        filler = trio.socket.socket()
        fillers.append(filler)
        with trio.move_on_after(0.05) as scope:
            await filler.connect(sock.getsockname())
        if scope.cancelled_caught:
            return sock, fillers
    pytest.skip("this system does not let a queue of connections fill up")


@pytest.mark.parametrize("named", [True, False])
async def test_an_origin_that_hangs_in_accept_is_given_up_in_time(*, named: bool) -> None:
    """HOST-11: the connect timeout bounds all addresses together."""
    sock, fillers = await full_listener()
    origin = Origin(Target(host=V4 if named else None, port=sock.getsockname()[1]), connect_timeout=0.4)
    started = trio.current_time()
    try:
        with pytest.raises(ConnectError, match=r"timed out after 0\.4 s"):
            await origin.connect()
        assert trio.current_time() - started < 0.5
    finally:
        for each in (sock, *fillers):
            each.close()


async def test_a_family_that_hangs_does_not_hide_the_other() -> None:
    """The other one follows after `HAPPY_EYEBALLS_DELAY`."""
    sock, fillers = await full_listener()
    try:
        async with await listen(V6, sock.getsockname()[1]):
            started = trio.current_time()
            async with await Origin(Target(port=sock.getsockname()[1])).connect() as stream:
                assert stream.socket.getpeername()[0] == V6
            assert trio.current_time() - started < 2 * limits.HAPPY_EYEBALLS_DELAY
    finally:
        for each in (sock, *fillers):
            each.close()


async def test_a_connection_to_ourselves_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simultaneous open: the kernel may pick the port that we dial as our own."""
    sock_type = trio_socket_type()
    original = sock_type.connect
    port = await closed_port()

    async def connect_from_the_same_port(sock: trio.socket.SocketType, address: tuple[str, int]) -> None:
        if address[0] == V4:
            await sock.bind((V4, port))
        await original(sock, address)

    monkeypatch.setattr(sock_type, "connect", connect_from_the_same_port)
    with pytest.raises(ConnectError, match="nothing listens"):
        await Origin(Target(port=port)).connect()
    with pytest.raises(ConnectError, match="nothing listens"):
        await Origin(Target(host=V4, port=port)).connect()


async def test_an_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name look-up errors name the name."""
    import socket

    class Nobody(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Nobody())
    with pytest.raises(ConnectError, match=r"the name app\.internal is not known \(Name or service not known\)"):
        await Origin(Target(host="app.internal", port=80)).connect()


async def test_a_name_with_several_dead_addresses_reports_the_refusal() -> None:
    """The library hides the attempts behind one error; the person sees the cause."""
    port = await closed_port()

    class Twice(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            stream, tcp = trio.socket.SOCK_STREAM, trio.socket.IPPROTO_TCP
            return [(trio.socket.AF_INET, stream, tcp, "", (host, port)) for host in (V4, "127.0.0.2")]

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Twice())
    with pytest.raises(ConnectError, match=rf"nothing listens on app\.internal:{port}"):
        await Origin(Target(host="app.internal", port=port)).connect()


@pytest.mark.skipif(not capabilities.HAS_UNIX_SOCKETS, reason="this system has no unix sockets")
async def test_a_unix_socket_is_dialled_and_its_failures_told(tmp_path: Path) -> None:
    """Absent, a file without a listener, and one with."""
    path = tmp_path / "app.sock"
    origin = Origin(Target(path=str(path)))
    with pytest.raises(ConnectError, match="does not exist"):
        await origin.connect()
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    with sock:
        await sock.bind(str(path))
        with pytest.raises(ConnectError, match="nothing listens on unix:"):
            await origin.connect()
        sock.listen()
        await (await origin.connect()).aclose()


async def test_without_unix_sockets_the_target_is_told_to_be_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by capability, not by the name of the system."""
    monkeypatch.setattr(capabilities, "HAS_UNIX_SOCKETS", False)
    with pytest.raises(ConnectError, match="this system has no unix sockets"):
        await Origin(Target(path="/run/app.sock")).connect()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EHOSTUNREACH, "there is no route to"),
        (errno.EACCES, "permission denied"),
        (errno.EMFILE, "cannot connect to localhost:1"),
    ],
)
async def test_other_failures_are_told(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    """Whatever the system says becomes a ConnectError with a sentence."""

    async def connect(sock: trio.socket.SocketType, address: tuple[str, int]) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(number, "as the system says")

    monkeypatch.setattr(trio_socket_type(), "connect", connect)
    with pytest.raises(ConnectError, match=text):
        await Origin(Target(port=1)).connect()


async def test_cancelled_while_dialling_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of attempts under way are closed (a leak is a ResourceWarning, an error here)."""
    opened: list[trio.socket.SocketType] = []

    async def connect(sock: trio.socket.SocketType, address: tuple[str, int]) -> None:
        opened.append(sock)
        await trio.sleep_forever()

    monkeypatch.setattr(trio_socket_type(), "connect", connect)
    with trio.move_on_after(2 * limits.HAPPY_EYEBALLS_DELAY):
        await Origin(Target(port=1)).connect()
    assert [sock.family for sock in opened] == [trio.socket.AF_INET, trio.socket.AF_INET6]
    assert [sock.fileno() for sock in opened] == [-1, -1]


async def test_only_the_configured_target_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-10: however often, up or down."""
    dialled = Dialled(monkeypatch)
    port = await closed_port()
    origin = Origin(Target(port=port))
    for _ in range(3):
        with pytest.raises(ConnectError):
            await origin.connect()
    assert set(dialled.addresses) == {(V4, port), (V6, port)}
