"""Taking a running relay's place: from asking to being the one that serves, and every way in which it goes on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.places import bound_relay, is_open, laid, settings_for
from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.doorstep import Doorstep
from trunnel.relay.handover import Accepting, Ask, Channel, Message, Offer, Socket, Withdrawn, Yielded
from trunnel.relay.takeover import Predecessor, discard, find_predecessor
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")


@contextmanager
def door(folder: Path) -> Iterator[Doorstep]:
    """Have a doorstep that somebody listens at, who is no relay: the test says what it says."""
    doorstep = laid(folder)
    doorstep.open()
    try:
        yield doorstep
    finally:
        doorstep.remove()


def descriptors_of(sock: socket.socket) -> list[int]:
    """Return every descriptor of this process that is for the same socket."""
    inode = os.fstat(sock.fileno()).st_ino
    found = []
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # the one of the listing itself has gone
            if os.fstat(descriptor).st_ino == inode:
                found.append(descriptor)
    return found


async def found(settings: RelaySettings, answers: list[Message], descriptors: list[int]) -> Predecessor | None:
    """Ask somebody who gives these answers, the first with *descriptors*, and keeps the line open."""
    result: Predecessor | ConfigError | None = None
    with door(settings.state_dir) as doorstep:
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                with closing(await doorstep.accept()) as channel:
                    assert await channel.receive() == (Ask(version=1), [])
                    for number, message in enumerate(answers):
                        channel.send(message, () if number else descriptors)
                    await trio.sleep_forever()

            nursery.start_soon(answer)
            try:
                result = await find_predecessor(settings)
            except ConfigError as exc:
                result = exc
            nursery.cancel_scope.cancel()
    if isinstance(result, ConfigError):
        raise result
    return result


@contextmanager
def offered(settings: RelaySettings) -> Iterator[tuple[Predecessor, Channel]]:
    """Yield a predecessor that has offered what *settings* ask for, and its own end of the conversation."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with bound_relay(settings) as bound, closing(Channel(theirs)) as other:
        names = [entrance.name for entrance in bound.entrances]
        received = [socket.socket(fileno=os.dup(entrance.listener.fileno())) for entrance in bound.entrances]
        received.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        offer = Offer(sockets=[Socket(name=name) for name in names], outlets=[])
        predecessor = Predecessor(Channel(ours), offer, received, settings.state_dir)
        yield predecessor, other
        discard(predecessor)


# --- asking --------------------------------------------------------------------------------------


async def test_where_no_relay_runs_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    assert await find_predecessor(settings_for(tmp_path)) is None


async def test_one_that_stops_before_it_answers_is_none(tmp_path: Path) -> None:
    with door(tmp_path) as doorstep:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                (await doorstep.accept()).close()

            nursery.start_soon(stop)
            assert await find_predecessor(settings_for(tmp_path)) is None


async def test_one_that_withdraws_goes_on_and_its_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"process {os.getpid()}\) goes on: it is stopping"):
        await found(settings_for(tmp_path), [Withdrawn(reason="it is stopping")], [])


async def test_one_that_does_not_answer_is_waited_for_and_then_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """As long as it may be busy with another that asked before."""
    began = trio.current_time()
    with pytest.raises(ConfigError, match="did not offer its sockets"):
        await found(settings_for(tmp_path), [], [])
    assert trio.current_time() >= began + limits.TAKEOVER_READY


@pytest.mark.parametrize("count", [0, 1, 4])
async def test_an_offer_without_exactly_its_sockets_is_none_and_they_are_closed(tmp_path: Path, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        offer = Offer(sockets=[Socket(name="port"), Socket(name="")], outlets=[])
        with pytest.raises(ConfigError, match="did not offer its sockets"):
            await found(settings_for(tmp_path), [offer], [listening.fileno()] * count)
        assert descriptors_of(listening) == [listening.fileno()]


async def test_one_of_another_user_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write to the folder could wait there for a relay to come."""
    monkeypatch.setattr("trunnel.relay.handover.os.geteuid", lambda: os.getuid() + 1)
    with door(tmp_path), pytest.raises(ConfigError, match="another user's"):
        await find_predecessor(settings_for(tmp_path))


async def test_without_the_system_s_help_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_SOCKET_PASSING", False)
    with pytest.raises(ConfigError, match="stop the relay and start it again"):
        await find_predecessor(settings_for(tmp_path))


# --- becoming the one that serves ----------------------------------------------------------------


async def test_it_serves_once_the_other_has_yielded(tmp_path: Path) -> None:
    with offered(settings_for(tmp_path)) as (predecessor, other):
        other.send(Yielded())
        await predecessor.accepting(quic=True)
        assert await other.receive() == (Accepting(quic=True), [])


@pytest.mark.parametrize("told", [True, False])
async def test_it_serves_if_the_other_is_gone(tmp_path: Path, told: bool) -> None:
    """Killed before or after it was told: somebody has to, and has the sockets."""
    with offered(settings_for(tmp_path)) as (predecessor, other):
        async with trio.open_nursery() as nursery:
            if told:
                nursery.start_soon(partial(predecessor.accepting, quic=False))
                assert await other.receive() == (Accepting(quic=False), [])
            other.close()
            if not told:
                await predecessor.accepting(quic=False)


async def test_it_does_not_serve_if_the_other_goes_on(tmp_path: Path) -> None:
    with offered(settings_for(tmp_path)) as (predecessor, other):
        other.send(Withdrawn(reason="it took too long"))
        with pytest.raises(ConfigError, match="goes on: it took too long"):
            await predecessor.accepting(quic=True)


async def test_the_other_s_last_word_counts_although_it_has_gone_without_hearing_ours(tmp_path: Path) -> None:
    """Else two relays would take each other for dead: a reset must not swallow what was said before it."""
    with offered(settings_for(tmp_path)) as (predecessor, other):
        predecessor._channel.send(Ask(version=1))  # is never read: the close is a reset
        other.send(Withdrawn(reason="it took too long"))
        other.close()
        with pytest.raises(ConfigError, match="goes on: it took too long"):
            await predecessor.accepting(quic=True)


async def test_it_does_not_serve_if_the_other_says_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with offered(settings_for(tmp_path)) as (predecessor, _), pytest.raises(ConfigError, match="did not yield"):
        await predecessor.accepting(quic=True)


async def test_what_is_discarded_is_closed_and_the_other_s_stays_open(tmp_path: Path) -> None:
    with offered(settings_for(tmp_path)) as (predecessor, other):
        ours = [one.sock.fileno() for one in predecessor.given]
        places = [one.sock.getsockname() for one in predecessor.given]
        predecessor.withdraw("it cannot start")
        discard(predecessor)
        discard(predecessor)
        assert not any(map(is_open, ours))
        assert await other.receive() == (Withdrawn(reason="it cannot start"), [])
        for place in places:
            await (await trio.open_tcp_stream(*place)).aclose()
