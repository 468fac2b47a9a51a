"""Messages between two relays: whole, of the same user, with the sockets that come with them, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
import trio

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.handover import Accepting, Ask, Channel, Message, Offer, Socket, Withdrawn, Yielded
from trunnel.settings import limits

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

MESSAGES = (
    Ask(version=7),
    Offer(sockets=[Socket(name="port", supervised=True), Socket(name="")], outlets=[1, 1]),
    Accepting(quic=True),
    Yielded(),
    Withdrawn(reason='it said "no" — ä'),
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(Channel(ours)) as channel, theirs:
        yield channel, theirs


def say(theirs: socket.socket, message: Message, *descriptors: int) -> None:
    """Send as the other relay does."""
    with closing(Channel(theirs.dup())) as channel:
        channel.send(message, descriptors)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_a_message_arrives_as_it_was(pair: tuple[Channel, socket.socket], message: Message) -> None:
    channel, theirs = pair
    say(theirs, message)
    assert await channel.receive() == (message, [])


async def test_sockets_arrive_as_others_of_the_same_socket_and_are_not_inherited(
    pair: tuple[Channel, socket.socket],
) -> None:
    channel, theirs = pair
    with socket.create_server(("127.0.0.1", 0)) as server:
        say(theirs, Yielded(), server.fileno())
        _, [descriptor] = await channel.receive()
        with socket.socket(fileno=descriptor) as adopted:
            assert descriptor != server.fileno()
            assert not os.get_inheritable(descriptor)
            assert adopted.getsockname() == server.getsockname()


async def test_the_end_of_the_other_is_no_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.close()
    assert await channel.receive() == (None, [])


@pytest.mark.parametrize(
    "packet",
    [b"{", b"[]", b'{"kind":"ask"}', b'{"kind":"ask","version":"1"}', b'{"kind":"other"}', b"\xff\xfe", b'{"kind":"of'],
)
async def test_what_makes_no_sense_is_an_error_and_its_sockets_are_closed(
    pair: tuple[Channel, socket.socket], packet: bytes
) -> None:
    """Half a message, too: packets are whole or they are nothing."""
    channel, theirs = pair
    inlet, outlet = socket.socketpair()
    with inlet:
        socket.send_fds(theirs, [packet], [outlet.fileno()])
        outlet.close()
        with pytest.raises(ConfigError, match="speaks another language"):
            await channel.receive()
        inlet.settimeout(5)
        assert inlet.recv(1) == b"", "nobody has the other end any more"


async def test_a_message_that_is_too_long_is_none(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.send(b'{"kind":"withdrawn","reason":"%s"}' % (b"x" * limits.TAKEOVER_MESSAGE_MAX))
    with pytest.raises(ConfigError, match="speaks another language"):
        await channel.receive()


async def test_fields_that_are_not_known_are_ignored(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.send(b'{"kind":"accepting","quic":false,"later":[1]}')
    assert await channel.receive() == (Accepting(quic=False), [])


async def test_waiting_for_a_message_can_be_given_up(
    pair: tuple[Channel, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    channel, theirs = pair
    with trio.move_on_after(1) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    theirs.send(b'{"kind":"yielded"}')
    assert await channel.receive() == (Yielded(), [])


def test_the_kernel_says_who_the_other_is(pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process, and whether it is of our user: nothing that it could say itself."""
    channel, _ = pair
    assert channel.pid == os.getpid()
    assert channel.is_own
    monkeypatch.setattr("trunnel.relay.handover.os.geteuid", lambda: os.getuid() + 1)
    assert not channel.is_own


def test_to_withdraw_from_somebody_who_is_gone_is_no_error(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.close()
    channel.withdraw("too late")
    with pytest.raises(OSError, match="Broken pipe"):
        channel.send(Yielded())
