"""Datagrams passed on between processes that share a UDP socket: whole, with their source, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import trio
import trio.testing

from trunnel import capabilities
from trunnel.settings import limits
from trunnel.streams.passage import DISMISSAL, MESSAGE_MAX, Outlet, passage, unpacked
from trunnel.streams.udp import UdpSocket

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

PATIENCE = 5
SOURCES = (("192.0.2.7", 443), ("2001:db8:1234:5678:9abc:def0:1234:5678", 65_535))


@contextmanager
def ends() -> Iterator[tuple[socket.socket, Outlet]]:
    inlet, outlet = passage()
    with inlet, closing(Outlet(outlet)) as wrapped:
        yield inlet, wrapped


async def datagrams(sock: UdpSocket, count: int = 1) -> list[tuple[bytes, tuple[str, int]]]:
    """Return the next *count* datagrams or more."""
    found: list[tuple[bytes, tuple[str, int]]] = []
    with trio.fail_after(PATIENCE):
        while len(found) < count:
            await sock.wait_readable()
            found += sock.receive_batch()
    return found


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [0, 1, 1_200, limits.DATAGRAM_MAX])
def test_a_datagram_arrives_as_it_was(source: tuple[str, int], size: int) -> None:
    with ends() as (inlet, outlet):
        outlet.send(b"x" * size, source)
        assert unpacked(inlet.recv(MESSAGE_MAX)) == (b"x" * size, source)


def test_borders_are_kept() -> None:
    with ends() as (inlet, outlet):
        for content in (b"one", b"", b"three"):
            outlet.send(content, SOURCES[0])
        assert [unpacked(inlet.recv(MESSAGE_MAX))[0] for _ in range(3)] == [b"one", b"", b"three"]


def test_what_finds_the_passage_full_is_dropped_and_the_rest_arrives() -> None:
    """A process that does not read costs a bounded amount of memory, and never a wait."""
    with ends() as (inlet, outlet):
        sent = 10_000
        for _ in range(sent):
            outlet.send(b"x" * 1_200, SOURCES[0])
        assert not outlet.over
        arrived = 0
        with pytest.raises(BlockingIOError):
            while inlet.recv(MESSAGE_MAX):
                arrived += 1
        assert 0 < arrived < sent


def test_the_end_of_the_other_process_is_noticed() -> None:
    with ends() as (inlet, outlet):
        inlet.close()
        assert not outlet.over
        outlet.send(b"lost", SOURCES[0])
        assert outlet.over


async def test_the_older_process_reads_what_the_newer_passes_on_and_answers_on_the_socket() -> None:
    """Both have one UDP socket: what belongs to nobody in the newer reaches the older, with its source."""
    old = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    new = UdpSocket.adopt(socket.socket(fileno=socket.dup(old.fileno())), key="k")
    inlet, outlet = passage()
    with (
        closing(old),
        closing(new),
        closing(UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))) as agent,
    ):
        old.divert(inlet)
        new.pass_on_to(Outlet(outlet))
        agent.send([(b"for the old one", old.address)])
        [(content, source)] = await datagrams(new)
        new.pass_on(content, source)
        assert await datagrams(old) == [(b"for the old one", agent.address)]
        old.send([(b"from the old one", source)])
        assert await datagrams(agent) == [(b"from the old one", old.address)]


async def test_whoever_waits_for_datagrams_is_woken_by_what_is_passed_on() -> None:
    """The socket is diverted under a task that waits for it."""
    old = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    inlet, end = passage()
    with closing(old), closing(Outlet(end)) as outlet:
        async with trio.open_nursery() as nursery:
            found: list[tuple[bytes, tuple[str, int]]] = []

            async def read() -> None:
                found.extend(await datagrams(old))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            old.divert(inlet)
            outlet.send(b"passed on", SOURCES[0])
        assert found == [(b"passed on", SOURCES[0])]


async def test_if_the_newer_process_ends_the_older_reads_the_socket_again() -> None:
    old = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    inlet, end = passage()
    with closing(old), closing(UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))) as agent:
        old.divert(inlet)
        end.close()
        agent.send([(b"directly", old.address)])
        assert await datagrams(old) == [(b"directly", agent.address)]


async def test_a_diverted_socket_passes_nothing_on() -> None:
    """The newest process has every outlet: the oldest would get each datagram twice."""
    middle = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    oldest_inlet, oldest_outlet = passage()
    inlet, outlet = passage()
    with closing(middle), oldest_inlet, outlet:
        middle.pass_on_to(Outlet(oldest_outlet))
        middle.pass_on(b"once", SOURCES[0])
        middle.divert(inlet)
        middle.pass_on(b"twice", SOURCES[0])
        assert unpacked(oldest_inlet.recv(MESSAGE_MAX)) == (b"once", SOURCES[0])
        with pytest.raises(BlockingIOError):
            oldest_inlet.recv(MESSAGE_MAX)


async def test_only_so_many_older_processes_get_datagrams_and_one_that_is_gone_is_forgotten() -> None:
    newest = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    inlets = []
    with closing(newest):
        for _ in range(limits.PREDECESSORS_MAX + 1):
            inlet, outlet = passage()
            newest.pass_on_to(Outlet(outlet))
            inlets.append(inlet)
        oldest, gone, *living = inlets
        gone.close()
        newest.pass_on(b"x", SOURCES[0])
        assert oldest.recv(MESSAGE_MAX) == DISMISSAL
        assert oldest.recv(MESSAGE_MAX) == b""
        assert len(newest.outlets) == len(living) == limits.PREDECESSORS_MAX - 1
        for inlet in living:
            assert unpacked(inlet.recv(MESSAGE_MAX)) == (b"x", SOURCES[0])
        for inlet in inlets:
            inlet.close()


async def test_who_is_dismissed_reads_nothing_any_more(autojump_clock: trio.testing.MockClock) -> None:
    """It has the socket still, and what it would read there is a newer one's."""
    oldest = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    inlet, outlet = passage()
    with closing(oldest), closing(UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))) as agent:
        oldest.divert(inlet)
        Outlet(outlet).dismiss()
        agent.send([(b"another's", oldest.address)])
        with pytest.raises(trio.TooSlowError):
            await datagrams(oldest)
        oldest.send([(b"still its own", agent.address)])
        assert [content for content, _ in agent.receive_batch()] == [b"still its own"]


async def test_whoever_is_diverted_dismisses_those_that_the_next_one_does_not_take() -> None:
    middle = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
    older = [passage() for _ in range(limits.PREDECESSORS_MAX)]
    inlet, end = passage()
    with closing(middle), end:
        for _, outlet in older:
            middle.pass_on_to(Outlet(outlet))
        middle.divert(inlet)
        assert older[0][0].recv(MESSAGE_MAX) == DISMISSAL
        for kept, _ in older[1:]:
            with pytest.raises(BlockingIOError):
                kept.recv(MESSAGE_MAX)
        for old, _ in older:
            old.close()
