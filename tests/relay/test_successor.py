"""A relay that is asked for its place: it gives everything or nothing, and until then serves as if nobody had asked."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.places import ask, bound_relay, laid, settings_for
from trunnel import capabilities
from trunnel.relay.bound import BoundRelay
from trunnel.relay.doorstep import NAME, knock
from trunnel.relay.handover import Accepting, Ask, Channel, Message, Offer, Withdrawn, Yielded
from trunnel.relay.successor import await_successor
from trunnel.settings import limits
from trunnel.streams.passage import MESSAGE_MAX, Outlet, unpacked

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")


@dataclass
class Old:
    """A relay that can be taken over."""

    bound: BoundRelay
    folder: Path

    async def serves(self) -> bool:
        """Whether it is what it was: it listens, has its UDP sockets, and can be asked again."""
        for entrance in self.bound.entrances:
            async with await trio.open_tcp_stream(*entrance.listener.address):
                await entrance.listener.wait_readable()
                accepted = entrance.listener.accept_nowait()
                assert accepted is not None
                accepted[0].close()
        again = await ask(self.folder)
        again.close()
        await trio.testing.wait_all_tasks_blocked()
        return not (self.bound.is_draining or self.bound.successor or any(udp.closed for udp in self.bound.udp))


@asynccontextmanager
async def old_relay(folder: Path, **options: object) -> AsyncIterator[Old]:
    with bound_relay(settings_for(folder, **options)) as bound:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(await_successor, bound, laid(folder))
            await trio.testing.wait_all_tasks_blocked()
            yield Old(bound, folder)
            nursery.cancel_scope.cancel()


async def answers(channel: Channel) -> Message | None:
    with trio.fail_after(500):
        message, descriptors = await channel.receive()
    assert not descriptors
    return message


async def test_it_offers_every_socket_and_goes_on(tmp_path: Path) -> None:
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        assert [described.name for described in new.offer.sockets] == ["api-port", "pub-port", ""]
        assert new.offer.outlets == [2]
        given = [sock.getsockname() for sock in new.sockets[:3]]
        assert given == [*(entrance.listener.address for entrance in old.bound.entrances), old.bound.udp[0].address]
        assert new.sockets[3].getsockname().endswith(NAME)
        new.close()
        assert await old.serves()


async def test_once_the_new_one_accepts_it_yields_everything_in_one_step(tmp_path: Path) -> None:
    """Who waits in the kernel's queue is accepted by the new one; datagrams come through the passage."""
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        async with await trio.open_tcp_stream(*new.sockets[1].getsockname()) as queued:
            new.channel.send(Accepting(quic=True))
            assert await new.hear() == Yielded()
            await old.bound.wait_drain()
            assert old.bound.successor == os.getpid()
            assert all(entrance.listener.closed for entrance in old.bound.entrances)
            new.sockets[1].setblocking(False)
            accepted, peer = new.sockets[1].accept()
            accepted.close()
            assert peer == queued.socket.getsockname()
        Outlet(new.sockets[4]).send(b"for the old one", ("192.0.2.1", 5))
        await old.bound.udp[0].wait_readable()
        assert old.bound.udp[0].receive_batch() == [(b"for the old one", ("192.0.2.1", 5))]
        assert (tmp_path / NAME).exists(), "the doorstep is the new one's"
        new.close()


async def test_datagrams_stay_its_own_if_the_new_one_does_without(tmp_path: Path) -> None:
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        new.channel.send(Accepting(quic=False))
        assert await new.hear() == Yielded()
        await old.bound.wait_drain()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
            agent.sendto(b"still here", old.bound.udp[0].address)
            await old.bound.udp[0].wait_readable()
            [(content, _)] = old.bound.udp[0].receive_batch()
            assert content == b"still here"
        new.close()


async def test_the_outlets_of_those_before_it_go_with_it(tmp_path: Path) -> None:
    """Three processes: the newest passes on to both."""
    async with old_relay(tmp_path) as old:
        first = await ask(tmp_path)
        inlet, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        old.bound.udp[0].pass_on_to(Outlet(end))
        first.close()
        new = await ask(tmp_path)
        assert new.offer.outlets == [2, 2]
        new.channel.send(Accepting(quic=True))
        assert await new.hear() == Yielded()
        Outlet(new.sockets[-1]).send(b"for the oldest", ("192.0.2.1", 5))
        with inlet:
            assert unpacked(inlet.recv(MESSAGE_MAX))[0] == b"for the oldest"
        new.close()


# --- nothing comes of it -------------------------------------------------------------------------


async def test_one_that_dies_after_the_offer_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with old_relay(tmp_path) as old:
        (await ask(tmp_path)).close()
        assert await old.serves()
    assert "the new relay ended before it accepted" in [record.__dict__.get("reason") for record in caplog.records]


async def test_one_that_withdraws_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        new.channel.send(Withdrawn(reason="other ports"))
        new.close()
        assert await old.serves()
    assert "other ports" in [record.__dict__.get("reason") for record in caplog.records]


async def test_one_that_dies_right_after_it_has_accepted_changes_nothing(tmp_path: Path) -> None:
    """Its message is there, and nobody to yield to."""
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        new.channel.send(Accepting(quic=True))
        new.close()
        assert await old.serves()


@pytest.mark.parametrize("packet", [b"", b"{", b"GET / HTTP/1.1", b'{"kind":"offer","sockets":[],"outlets":[]}'])
async def test_one_that_says_something_else_gets_nothing(tmp_path: Path, packet: bytes) -> None:
    async with old_relay(tmp_path) as old:
        channel = knock(tmp_path)
        assert channel is not None
        channel._sock.send(packet)
        assert not isinstance(await answers(channel), Offer)
        channel.close()
        assert await old.serves()


@pytest.mark.parametrize("packet", [b"{", b'{"kind":"yielded"}'])
async def test_one_that_answers_the_offer_with_something_else_changes_nothing(tmp_path: Path, packet: bytes) -> None:
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        new.channel._sock.send(packet)
        assert isinstance(await new.hear(), Withdrawn)
        new.close()
        assert await old.serves()


async def test_one_of_another_version_is_told_so(tmp_path: Path) -> None:
    async with old_relay(tmp_path) as old:
        channel = knock(tmp_path)
        assert channel is not None
        channel.send(Ask(version=2))
        answer = await answers(channel)
        assert isinstance(answer, Withdrawn)
        assert "version 2 of the takeover, this one 1" in answer.reason
        channel.close()
        assert await old.serves()


async def test_another_user_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the modes of folder and socket: the kernel's word counts.  And it is told why."""
    async with old_relay(tmp_path) as old:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("trunnel.relay.handover.os.geteuid", lambda: os.getuid() + 1)
            channel = knock(tmp_path)
            assert channel is not None
            channel.send(Ask(version=1))
            answer = await answers(channel)
        assert answer == Withdrawn(reason="another user asks for the sockets")
        channel.close()
        assert await old.serves()
    assert [record.message for record in caplog.records].count("takeover_failed") >= 1


async def test_one_that_never_asks_is_not_waited_for(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with old_relay(tmp_path) as old:
        channel = knock(tmp_path)
        assert channel is not None
        began = trio.current_time()
        assert await answers(channel) is None
        assert trio.current_time() == began + limits.TAKEOVER_ASK
        channel.close()
        assert await old.serves()


async def test_one_that_never_accepts_is_told_that_it_is_too_late(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        began = trio.current_time()
        assert isinstance(await new.hear(), Withdrawn)
        assert trio.current_time() == began + limits.TAKEOVER_READY
        new.close()
        assert await old.serves()


async def test_one_that_has_asked_a_relay_that_is_stopped_then_is_the_relay(tmp_path: Path) -> None:
    """It has the sockets, and finds the other one gone; the place at the door is its own."""
    async with old_relay(tmp_path) as old:
        new = await ask(tmp_path)
        old.bound.drain("SIGTERM")
        assert await new.hear() is None
        new.close()
    assert (tmp_path / NAME).exists()


# --- one after the other -------------------------------------------------------------------------


async def test_a_second_one_waits_until_nothing_came_of_the_first(tmp_path: Path) -> None:
    async with old_relay(tmp_path):
        first = await ask(tmp_path)
        second = knock(tmp_path)
        assert second is not None
        second.send(Ask(version=1))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0) as at_once:
            await second.receive()
        assert at_once.cancelled_caught
        first.close()
        message, received = await second.receive()
        assert isinstance(message, Offer)
        for descriptor in received:
            os.close(descriptor)
        second.close()


async def test_nobody_is_offered_anything_before_the_relay_has_settled(tmp_path: Path) -> None:
    """Visitors wait here for agents, who would go to the next relay."""
    settled = trio.Event()
    with bound_relay(settings_for(tmp_path)) as bound:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(await_successor, bound, laid(tmp_path), settled.wait)
            await trio.testing.wait_all_tasks_blocked()
            channel = knock(tmp_path)
            assert channel is not None
            channel.send(Ask(version=1))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0) as at_once:
                await channel.receive()
            assert at_once.cancelled_caught
            settled.set()
            message, received = await channel.receive()
            assert isinstance(message, Offer)
            for descriptor in received:
                os.close(descriptor)
            channel.close()
            nursery.cancel_scope.cancel()
