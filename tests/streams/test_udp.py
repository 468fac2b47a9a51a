"""UDP sockets: batches, full buffers, and errors that are somebody else's."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from trunnel.errors import ConfigError
from trunnel.settings import limits
from trunnel.streams.udp import UdpSocket, open_udp_sockets


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    """Two sockets on loopback."""
    (left,) = open_udp_sockets(["127.0.0.1"], 0)
    (right,) = open_udp_sockets(["127.0.0.1"], 0)
    yield left, right
    left.close()
    right.close()
    right.close()


class Broken:
    """A kernel socket that refuses, for as long as *errors* last."""

    def __init__(self, sock: socket.socket, errors: list[int]) -> None:
        self._sock = sock
        self.errors = errors

    def _trip(self) -> None:
        if self.errors:
            raise OSError(self.errors.pop(0), "tripped")

    def sendto(self, octets: bytes, address: tuple[str, int]) -> int:
        self._trip()
        return self._sock.sendto(octets, address)

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        self._trip()
        return self._sock.recvfrom(size)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def break_socket(udp: UdpSocket, *errors: int) -> Broken:
    """Have the next operations of *udp* fail."""
    broken = Broken(udp._sock, list(errors))
    udp._sock = broken  # type: ignore[assignment]
    return broken


async def test_datagrams_come_in_batches(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    assert right.receive_batch() == []
    sent = [(bytes([n]) * 100, right.address) for n in range(limits.DATAGRAM_BATCH + 10)]
    assert left.send(sent) == 0
    await right.wait_readable()
    first, second = right.receive_batch(), right.receive_batch()
    assert len(first) == limits.DATAGRAM_BATCH
    assert [octets for octets, _ in first + second] == [octets for octets, _ in sent]
    assert {source for _, source in first} == {left.address}


def test_a_free_port_is_the_same_on_both_families() -> None:
    sockets = open_udp_sockets(["127.0.0.1", "::1"], 0)
    assert len({udp.address[1] for udp in sockets}) == 1
    for udp in sockets:
        udp.close()


def test_errors_of_binding_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = open_udp_sockets(["127.0.0.1"], 0)
    with pytest.raises(ConfigError, match=re.escape(f"another program has UDP 127.0.0.1:{taken.address[1]}")):
        open_udp_sockets(["127.0.0.1"], taken.address[1])
    taken.close()
    with pytest.raises(ConfigError, match="not an address of this machine"):
        open_udp_sockets(["192.0.2.1"], 0, key="relay.bind_addr")
    for code, words in ((errno.EACCES, "not allowed to bind UDP"), (errno.EIO, "cannot bind UDP")):

        def refuse(*_: object, code: int = code) -> UdpSocket:
            raise OSError(code, "no")

        monkeypatch.setattr(UdpSocket, "bind", refuse)
        with pytest.raises(ConfigError, match=words):
            open_udp_sockets(["127.0.0.1"], 443)


def test_a_host_without_ipv6_still_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    real = UdpSocket.bind

    def without_ipv6(family: socket.AddressFamily, address: tuple[str, int]) -> UdpSocket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6 here")
        return real(family, address)

    monkeypatch.setattr(UdpSocket, "bind", without_ipv6)
    (udp,) = open_udp_sockets(["127.0.0.1", "::1"], 0)
    udp.close()
    with pytest.raises(ConfigError, match="no IPv6"):
        open_udp_sockets(["::1"], 0)


async def test_ipv6_addresses_are_a_host_and_a_port() -> None:
    (left,) = open_udp_sockets(["::1"], 0)
    right = UdpSocket.towards(left.address)
    right.send([(b"x", left.address)])
    await left.wait_readable()
    ((octets, source),) = left.receive_batch()
    assert (octets, source) == (b"x", ("::1", right.address[1]))
    left.close()
    right.close()


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EMSGSIZE, errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH])
async def test_an_error_costs_one_datagram(pair: tuple[UdpSocket, UdpSocket], code: int) -> None:
    left, right = pair
    break_socket(left, code)
    assert left.send([(b"lost", right.address), (b"carried", right.address)]) == 1
    assert left.lost == 1
    await right.wait_readable()
    break_socket(right, code)
    assert [octets for octets, _ in right.receive_batch()] == [b"carried"]


async def test_a_full_buffer_delays_in_order(pair: tuple[UdpSocket, UdpSocket]) -> None:
    """What the kernel does not take waits, and later datagrams wait behind it."""
    left, right = pair
    broken = break_socket(left, errno.EAGAIN, errno.EAGAIN)
    broken.errors[:] = [errno.EAGAIN]
    assert left.send([(b"1", right.address), (b"2", right.address)]) == 0
    assert left.clogged
    left.send([(b"3", right.address)])
    assert right.receive_batch() == []
    broken.errors.append(errno.EAGAIN)  # still full at the first attempt
    with trio.fail_after(2):
        await left.drain()
    await right.wait_readable()
    assert [octets for octets, _ in right.receive_batch()] == [b"1", b"2", b"3"]
    left.send([(b"4", right.address)])
    await right.wait_readable()


def test_the_backlog_is_bounded(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    break_socket(left, errno.EAGAIN)
    assert left.send([(b"x", right.address)] * (limits.DATAGRAM_BACKLOG + 7)) == 7
    assert left.lost == 7


async def test_closing_wakes_who_waits(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, _ = pair
    caught: list[type[BaseException]] = []

    async def wait(operation: Callable[[], Awaitable[None]]) -> None:
        with pytest.raises(trio.ClosedResourceError) as error:
            await operation()
        caught.append(error.type)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, left.wait_readable)
        nursery.start_soon(wait, left.drain)
        await trio.testing.wait_all_tasks_blocked()
        left.close()
    assert caught == [trio.ClosedResourceError] * 2
    assert left.closed
    with pytest.raises(trio.ClosedResourceError):
        await left.wait_readable()
    assert left.receive_batch() == []
