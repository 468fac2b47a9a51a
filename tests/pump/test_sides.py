"""A socket in a worker's hands: in epoll only while something is wanted, and how it is parted with."""

from __future__ import annotations

import select
import socket
import struct

import pytest

from tests.pump.handmade import Handmade, drain, fill, handmade
from tests.pump.stage import needs_workers
from trunnel.pump.orders import Finish
from trunnel.pump.sides import Side

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]
LINGER_0 = struct.pack("ii", 1, 0)


def linger(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)


def is_watched(made: Handmade, side: Side) -> bool:
    """Whether *side* is in epoll; asked in a way that changes nothing."""
    try:
        made.epoll.register(side.fd, 0)
    except FileExistsError:
        return True
    made.epoll.unregister(side.fd)
    return False


def test_a_socket_resets_should_the_worker_die() -> None:
    """SO_LINGER 0 from the first moment: whoever closes it without a word, the kernel included, sends RST."""
    with handmade() as made:
        assert linger(made.left.sock) == linger(made.right.sock) == LINGER_0
        made.left.sock.close()
        assert drain(made.visitor) == (b"", "reset")


def test_a_socket_is_watched_for_what_its_flows_want() -> None:
    with handmade(narrow=True) as made:
        assert made.left.interest() == made.right.interest() == select.EPOLLIN
        fill(made.origin, bytes(4_000_000))
        made.serve()
        assert made.down.stuck
        assert made.left.interest() == select.EPOLLIN | select.EPOLLOUT
        assert made.right.interest() == 0
        drain(made.visitor)
        made.serve()


def test_a_socket_with_nothing_to_wait_for_is_not_in_epoll() -> None:
    """HUP and ERR are reported even with an empty mask."""
    with handmade() as made:
        made.visitor.shutdown(socket.SHUT_WR)
        made.serve()
        assert made.left.end is Finish.FIN
        assert not is_watched(made, made.left)
        assert is_watched(made, made.right)
        made.visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        made.visitor.close()
        assert made.serve() == 0


def test_a_socket_comes_back_when_it_is_wanted_again() -> None:
    with handmade(narrow=True) as made:
        fill(made.origin, bytes(4_000_000))
        made.serve()
        assert not is_watched(made, made.right)
        drain(made.visitor)
        made.serve()
        made.right.watch()
        assert is_watched(made, made.right) is made.down.hungry
        made.right.ignore()
        made.right.ignore()
        assert not is_watched(made, made.right)


def test_an_orderly_close_ends_with_fin_and_leaves_what_is_on_the_way() -> None:
    with handmade(narrow=True) as made:
        sent = fill(made.left.sock, bytes(4_000_000))
        made.left.seal()
        assert made.left.sealed
        made.left.close()
        assert made.left.gone
        received = bytearray()
        made.visitor.settimeout(5)
        while chunk := made.visitor.recv(1 << 20):
            received += chunk
        assert len(received) == sent


def test_an_abort_sends_rst_and_may_come_twice() -> None:
    with handmade() as made:
        made.left.watch()
        made.left.abort()
        assert made.left.gone
        assert drain(made.visitor) == (b"", "reset")
        made.left.abort()
        made.left.close()
        made.left.watch()


def test_a_seal_that_fails_is_no_seal() -> None:
    """It was reset meanwhile: reading it will tell."""
    with handmade() as made:
        made.visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        made.visitor.close()
        made.left.seal()
        assert not made.left.sealed


def test_delivered_is_what_the_peer_has_acknowledged() -> None:
    with handmade(narrow=True) as made:
        assert made.left.is_delivered()
        fill(made.left.sock, bytes(4_000_000))
        assert not made.left.is_delivered()
        made.visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        made.visitor.close()
        assert made.left.is_delivered(), "nobody will acknowledge it any more"
        made.left.sock.close()
        assert made.left.is_delivered()


def test_on_a_unix_socket_delivered_means_read() -> None:
    ours, theirs = socket.socketpair()
    with select.epoll() as epoll, ours, theirs:
        side = Side(ours, epoll)
        side.bound()
        ours.send(b"abc")
        assert not side.is_delivered()
        assert theirs.recv(10) == b"abc"
        assert side.is_delivered()


def test_only_tls_can_tell_that_a_peer_was_cut_off() -> None:
    with handmade() as made:
        assert not made.left.is_truncation(ConnectionResetError())
