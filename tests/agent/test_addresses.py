"""Changes of the network are reported once each, if they matter on the way to the relay."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trunnel import capabilities
from trunnel.agent import addresses
from trunnel.agent.addresses import NetworkChange, difference, watch_addresses
from trunnel.agent.network import NO_NETWORK, NetworkView
from trunnel.settings import limits

RELAY, OTHER = "198.51.100.7", "198.51.100.8"
HOME = NetworkView(fingerprint="home", towards=RELAY, source="192.168.1.2")
CAFE = NetworkView(fingerprint="cafe", towards=RELAY, source="10.0.0.2")
NOWHERE = NetworkView(fingerprint=NO_NETWORK, towards=RELAY, source=None)


def view(like: NetworkView, *, towards: str | None = RELAY, source: str | None = "192.168.1.2") -> NetworkView:
    """Return a view of the same network as *like*."""
    return NetworkView(fingerprint=like.fingerprint, towards=towards, source=source)


# --- the comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "reported", "moved", "online"),
    [
        (HOME, HOME, False, False, True),
        (HOME, CAFE, True, True, True),
        (HOME, view(HOME, source="192.168.1.3"), True, True, True),
        (HOME, view(CAFE), True, False, True),
        (HOME, NOWHERE, True, True, False),
        (NOWHERE, HOME, True, True, True),
        (HOME, view(HOME, source=None), True, True, True),
        (HOME, view(HOME, towards=OTHER, source="10.8.0.2"), False, False, True),
        (view(HOME, towards=None, source=None), HOME, False, False, True),
        (HOME, view(CAFE, towards=OTHER, source="10.0.0.2"), True, False, True),
    ],
)
def test_what_counts_as_a_change(
    before: NetworkView, after: NetworkView, reported: bool, moved: bool, online: bool
) -> None:
    """Another relay address has another source: that says nothing of the network."""
    assert (difference(before, after) is not None) == reported
    change = NetworkChange(before=before, after=after)
    assert (change.moved, change.online) == (moved, online)


# --- the watch, without the kernel's messages ----------------------------------------------------


class Network:
    """A network that changes when a test says so."""

    def __init__(self) -> None:
        self.now = HOME
        self.looks = 0
        self.changes: list[tuple[float, NetworkChange]] = []

    def look(self, towards: str | None) -> NetworkView:
        assert towards == RELAY
        self.looks += 1
        return self.now

    def note(self, change: NetworkChange) -> None:
        self.changes.append((trio.current_time(), change))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: watch_addresses(lambda: RELAY, self.note, look=self.look))
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


async def test_without_netlink_the_network_is_looked_at_every_2_s(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(capabilities, "HAS_NETLINK", False)
    network = Network()
    async with network.watched():
        await trio.sleep(61)
        assert network.looks == 31
        assert network.changes == []
        changed = trio.current_time()
        network.now = CAFE
        await trio.sleep(60)
    ((noticed, change),) = network.changes
    assert change == NetworkChange(before=HOME, after=CAFE)
    assert noticed - changed <= limits.NETWORK_POLL


@pytest.mark.parametrize("call", ["socket", "bind"])
async def test_where_netlink_is_forbidden_the_network_is_looked_at_too(
    call: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Some sandboxes refuse the socket, others the subscription."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "not here")

    async def refuse_later(*_: object) -> None:
        refuse()

    with trio.socket.socket() as sock:
        sock_type = type(sock)
    if call == "socket":
        monkeypatch.setattr(trio.socket, "socket", refuse)
    else:
        monkeypatch.setattr(sock_type, "bind", refuse_later)
    network = Network()
    async with network.watched():
        network.now = CAFE
        await trio.sleep(limits.NETWORK_POLL + 1)
    assert [change.after for _, change in network.changes] == [CAFE]


# --- the watch, with messages --------------------------------------------------------------------


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Stand in for the kernel's end of the netlink socket; call it to send a message."""
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)

    async def open_netlink() -> trio.socket.SocketType:
        return trio.socket.from_stdlib_socket(theirs)

    monkeypatch.setattr(addresses, "_open_netlink", open_netlink)

    def send() -> None:
        ours.send(b"some message that nobody reads")

    with ours, theirs:
        yield send


async def test_a_message_leads_to_a_look_when_its_burst_is_over(
    kernel: Callable[[], None], mock_clock: trio.testing.MockClock
) -> None:
    """The old address goes before the new one comes: what is between is not reported."""
    network = Network()
    async with network.watched():
        network.now = NOWHERE
        kernel()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(limits.NETWORK_SETTLE / 2)
        network.now = CAFE
        kernel()
        await trio.testing.wait_all_tasks_blocked()
        assert network.looks == 1
        mock_clock.jump(limits.NETWORK_SETTLE / 2)
        await trio.testing.wait_all_tasks_blocked()
        assert network.looks == 2
    assert [change for _, change in network.changes] == [NetworkChange(before=HOME, after=CAFE)]


async def test_a_flood_of_messages_costs_five_looks_a_second(
    kernel: Callable[[], None], mock_clock: trio.testing.MockClock
) -> None:
    """And does not put the look off for ever."""
    network = Network()
    async with network.watched():
        for _ in range(100):
            kernel()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 + 4 <= network.looks <= 1 + 5
    assert network.changes == []


async def test_each_change_is_reported_once(kernel: Callable[[], None], autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with network.watched():
        for now in (CAFE, CAFE, NOWHERE, NOWHERE, HOME):
            network.now = now
            kernel()
            await trio.sleep(1)
    assert [change.after for _, change in network.changes] == [CAFE, NOWHERE, HOME]


class Failing:
    """A netlink socket whose first read fails; then it is silent."""

    def __init__(self, code: int) -> None:
        self.error: OSError | None = OSError(code, "no")

    async def recv(self, _: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.error is None:
            await trio.sleep_forever()
        error, self.error = self.error, None
        assert error is not None
        raise error


@pytest.mark.parametrize(
    ("code", "seconds"),
    [(errno.ENOBUFS, limits.NETWORK_SETTLE), (errno.ENOMEM, limits.NETWORK_POLL + limits.NETWORK_SETTLE)],
)
async def test_a_read_that_fails_is_a_reason_to_look(
    code: int, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """At once if it says that messages were lost; else after a pause, lest a broken socket burn the processor."""
    began = trio.current_time()
    await addresses._Netlink(Failing(code)).next_event()  # type: ignore[arg-type]
    assert trio.current_time() - began == pytest.approx(seconds)


@pytest.mark.may_skip("only where the kernel has netlink")
@pytest.mark.skipif(not capabilities.HAS_NETLINK, reason="no netlink here")
async def test_the_kernel_accepts_the_subscription() -> None:
    sock = await addresses._open_netlink()
    assert sock is not None
    with sock:
        assert sock.getsockname()[1] == addresses._GROUPS
