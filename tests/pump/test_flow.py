"""One direction: what goes through user space, what through a pipe, what is kept, and where that stops."""

from __future__ import annotations

import errno
import os
import select
import socket

import pytest

from tests.pump.handmade import Handmade, drain, fill, handmade
from tests.pump.stage import needs_workers, pattern
from trunnel.pump.flow import SMALL, TURNS
from trunnel.pump.orders import Finish
from trunnel.pump.pipes import PIPE_SIZE

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]
REAL_SPLICE = os.splice


class Splices:
    """Counts the splices, and lets some fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: int = 0) -> None:
        self.calls = 0
        self._failure = failure
        monkeypatch.setattr(os, "splice", self)

    def __call__(self, source: int, sink: int, count: int, flags: int = 0) -> int:
        self.calls += 1
        if self._failure:
            raise OSError(self._failure, os.strerror(self._failure))
        return REAL_SPLICE(source, sink, count, flags=flags)


def carry(made: Handmade, payload: bytes) -> bytes:
    """Send *payload* from visitor to origin, who reads all the time; return what arrived."""
    received, sent = bytearray(), 0
    while len(received) < len(payload):
        sent += fill(made.visitor, payload[sent:])
        made.serve()
        chunk, after = drain(made.origin)
        assert chunk, "it stands still"
        assert after == "more"
        received += chunk
    return bytes(received)


@pytest.mark.parametrize("size", [1, SMALL - 1])
def test_little_is_copied(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    splices = Splices(monkeypatch)
    with handmade() as made:
        assert carry(made, pattern(1, size)) == pattern(1, size)
        assert splices.calls == 0
        assert made.up.count == size


@pytest.mark.parametrize("size", [SMALL, SMALL + 1, 2 * SMALL, PIPE_SIZE, PIPE_SIZE + SMALL + 1, 3_000_000])
def test_bulk_is_spliced_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    splices = Splices(monkeypatch)
    with handmade() as made:
        assert carry(made, pattern(1, size)) == pattern(1, size)
        assert splices.calls > 0
        assert made.up.count == size
        assert not made.up.stuck


def test_after_bulk_little_is_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with handmade() as made:
        carry(made, bytes(300_000))
        splices = Splices(monkeypatch)
        carry(made, b"a")
        assert splices.calls <= 2, "the first one, into the pipe and out of it"
        before = splices.calls
        carry(made, b"b")
        assert splices.calls == before


@pytest.mark.parametrize("pipes", [0, 4])
def test_a_stalled_sink_holds_one_chunk_and_the_source_is_not_read(pipes: int) -> None:
    """At the budget of pipes it is a small one, in memory; the rest is held by the peer's flow control."""
    payload = pattern(1, 8_000_000)
    with handmade(pipes=pipes, narrow=True) as made:
        sent = fill(made.visitor, payload)
        while made.serve():  # acknowledgements that are late let a little more go
            sent += fill(made.visitor, payload[sent:])
        count = made.up.count
        assert made.up.stuck
        assert made.left.interest() == 0
        assert count < sent
        assert made.up.pull() is False
        assert made.up.count == count
        received = bytearray()
        while len(received) < sent:
            chunk, _ = drain(made.origin)
            received += chunk
            made.serve()
        assert received == payload[:sent]


def test_at_the_budget_of_pipes_a_stream_still_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pipes are full of somebody else's bytes; when one is free it is used again."""
    with handmade(pipes=1) as made:
        splices = Splices(monkeypatch)
        lent = made.pipes.borrow()
        assert lent is not None
        assert carry(made, pattern(1, 500_000)) == pattern(1, 500_000)
        assert splices.calls == 0
        made.pipes.give_back(lent, left_in=0)
        assert carry(made, pattern(2, 500_000)) == pattern(2, 500_000)
        assert splices.calls > 0


def test_a_system_without_pipes_for_us_is_copied_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    with handmade() as made:
        splices = Splices(monkeypatch)
        made.pipes.scarce = True
        assert carry(made, pattern(1, 500_000)) == pattern(1, 500_000)
        made.pipes.scarce = False
        assert carry(made, pattern(1, 500_000)) == pattern(1, 500_000)
        assert splices.calls == 0


def test_a_socket_that_cannot_be_spliced_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL, once."""
    splices = Splices(monkeypatch, errno.EINVAL)
    with handmade() as made:
        assert carry(made, pattern(1, 500_000)) == pattern(1, 500_000)
        assert splices.calls == 1


def test_where_splice_finds_nothing_recv_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Urgent data stops the one for ever, and not the other."""
    splices = Splices(monkeypatch, errno.EAGAIN)
    with handmade() as made:
        assert carry(made, pattern(1, 500_000)) == pattern(1, 500_000)
        assert splices.calls > 1


def test_splice_that_breaks_is_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    Splices(monkeypatch, errno.ECONNRESET)
    with handmade() as made:
        fill(made.visitor, bytes(300_000))
        made.serve()
        assert made.left.end is Finish.RESET
        assert made.stream.is_over


def test_others_have_their_turn_after_so_many_chunks() -> None:
    """One `pull` moves a bounded amount, and says that there may be more."""
    chunks = [bytes(SMALL)] * (TURNS + 2)
    with handmade(pipes=0) as made:
        made.left.receive = lambda _: chunks.pop()
        made.right.send = len
        assert made.up.pull()
        assert TURNS // 2 * SMALL <= made.up.count <= TURNS * SMALL
        assert chunks


def test_a_pipe_with_bytes_in_it_is_closed_with_its_stream() -> None:
    """Not lent again: what was stuck in it is another tenant's."""
    with handmade(pipes=1, narrow=True) as made:
        fill(made.visitor, bytes(8_000_000))
        made.serve()
        assert made.left.interest() == 0
        assert made.pipes.borrow() is None
        made.up.discard()
        assert made.left.interest() == made.right.interest() & ~select.EPOLLIN == 0
        pipe = made.pipes.borrow()
        assert pipe is not None
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
        made.pipes.give_back(pipe, left_in=0)


def test_the_end_comes_after_all_bytes_also_in_bulk() -> None:
    payload = pattern(1, SMALL + PIPE_SIZE)
    with handmade() as made:
        assert fill(made.visitor, payload) == len(payload)
        made.visitor.shutdown(socket.SHUT_WR)
        made.serve()
        assert made.left.end is Finish.FIN
        assert drain(made.origin) == (payload, "fin")


def test_an_end_behind_urgent_data_is_not_taken_for_the_end_of_the_bytes() -> None:
    """There `splice` returns 0 as at an end of file, although bytes wait: `recv` has the last word."""
    before, after = pattern(1, 3 * SMALL), pattern(2, 3 * SMALL)
    with handmade() as made:
        made.visitor.sendall(before)
        made.visitor.send(b"!", socket.MSG_OOB)
        made.visitor.sendall(after)
        made.visitor.shutdown(socket.SHUT_WR)
        made.serve()
        assert made.left.end is Finish.FIN
        assert drain(made.origin) == (before + after, "fin")
