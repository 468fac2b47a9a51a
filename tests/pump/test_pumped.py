"""What the ends of a pumped stream mean, and its deadlines, on a clock of our own."""

from __future__ import annotations

import errno
import math
import os
import socket

import pytest

from tests.pump.handmade import PATIENT, Handmade, drain, fill, handmade
from tests.pump.stage import needs_workers
from tests.pump.test_sides import LINGER_0
from trunnel.pump.orders import LEFT_ANSWERS, Finish, News
from trunnel.pump.pumped import FLUSH_TIMEOUT
from trunnel.settings import limits

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    sock.close()


def is_over(made: Handmade) -> bool:
    return made.stream.is_over


def part(made: Handmade) -> tuple[Finish, Finish]:
    """Let the stream part with its sides; returns how they ended."""
    made.stream.finish()
    for _ in range(100):  # acknowledgements are late, by up to 40 ms
        if made.stream.settle():
            break
        made.epoll.poll(0.01)
    report = made.stream.report()
    assert (report.news, report.stream) == (News.DONE, PATIENT.stream)
    assert [report.left_bytes, report.right_bytes] == made.counts[2 * PATIENT.slot : 2 * PATIENT.slot + 2].tolist()
    return report.left, report.right


# --- ends -------------------------------------------------------------------------------------


def test_two_ends_make_an_end() -> None:
    with handmade() as made:
        made.visitor.send(b"question")
        made.visitor.shutdown(socket.SHUT_WR)
        made.serve()
        assert not is_over(made)
        assert drain(made.origin) == (b"question", "fin")
        made.origin.send(b"answer")
        made.origin.close()
        made.serve()
        assert is_over(made)
        assert part(made) == (Finish.FIN, Finish.FIN)
        assert drain(made.visitor) == (b"answer", "fin")


def test_counts_can_be_read_while_bytes_flow() -> None:
    with handmade() as made:
        made.visitor.send(b"abc")
        made.origin.send(b"defgh")
        made.serve()
        assert made.counts.tolist()[2 * PATIENT.slot :][:2] == [3, 5]


def test_a_reset_waits_for_the_acknowledgement_of_what_came_before() -> None:
    """Neither longer than `FLUSH_TIMEOUT`, nor with a FIN."""
    with handmade(narrow=True) as made:
        sent = fill(made.left.sock, bytes(4_000_000))  # the way to the visitor is full
        reset(made.origin)
        made.serve()
        made.stream.finish()
        assert made.right.gone
        assert not made.stream.settle()
        made.now += FLUSH_TIMEOUT - 0.1
        assert not made.stream.settle()
        received = bytearray()
        while len(received) < sent:
            received += drain(made.visitor)[0]
        assert made.stream.settle()
        assert drain(made.visitor) == (b"", "reset")


def test_a_reader_that_never_reads_delays_it_for_a_bounded_time() -> None:
    with handmade(narrow=True) as made:
        fill(made.left.sock, bytes(4_000_000))
        reset(made.origin)
        made.serve()
        made.stream.finish()
        made.now += FLUSH_TIMEOUT
        assert made.stream.due() <= made.now
        assert made.stream.settle()


def test_the_flush_is_as_long_as_in_the_copy() -> None:
    """Workers do not import the settings."""
    assert FLUSH_TIMEOUT == limits.ABORT_FLUSH_TIMEOUT


@pytest.mark.parametrize(("code", "end"), [(errno.ECONNRESET, Finish.RESET), (errno.EPIPE, Finish.FIN)])
def test_after_a_write_error_an_end_of_file_counts_only_after_epipe(code: int, end: Finish) -> None:
    """EPIPE: the kernel had the FIN before. Any other was the only report of a reset, and went to the writer."""
    with handmade() as made:

        def fail(_: bytes) -> int:
            raise OSError(code, os.strerror(code))

        made.right.send = fail
        made.visitor.send(b"x")
        made.serve()
        assert made.right.deaf
        assert not is_over(made), "it may have answered before"
        made.origin.send(b"the answer")
        made.origin.close()
        made.serve()
        assert is_over(made)
        assert part(made) == (Finish.CANCELLED, end)
        assert drain(made.visitor) == (b"the answer", "fin" if end is Finish.FIN else "reset")


def test_a_writers_error_after_the_end_is_not_suspect() -> None:
    """The side has said everything already."""
    with handmade() as made:
        made.origin.shutdown(socket.SHUT_WR)
        made.serve()
        reset(made.origin)
        made.visitor.send(b"x")
        made.serve()
        assert made.right.deaf
        assert not made.right.suspect
        assert part(made) == (Finish.CANCELLED, Finish.FIN)


def test_cancelling_resets_at_once() -> None:
    with handmade(narrow=True) as made:
        fill(made.origin, bytes(4_000_000))
        made.serve()
        made.stream.cancel()
        assert part(made) == (Finish.CANCELLED, Finish.CANCELLED)
        assert drain(made.visitor)[1] == "reset"
        assert drain(made.origin)[1] == "reset"


# --- deadlines --------------------------------------------------------------------------------


def test_the_first_byte_then_idle() -> None:
    with handmade(PATIENT._replace(first_byte=30.0, idle=5.0)) as made:
        assert made.stream.due() == made.now + 30
        made.now += 10
        made.visitor.send(b"question")
        made.serve()
        assert made.stream.due() == made.now + 30, "bytes put it off, the answer is still awaited"
        made.stream.unsettled = False
        made.origin.send(b"a")
        made.serve()
        assert made.stream.due() == made.now + 5
        assert made.stream.unsettled, "it is nearer than the loop believes"


def test_the_left_side_can_be_the_one_that_answers() -> None:
    with handmade(PATIENT._replace(flags=LEFT_ANSWERS)) as made:
        made.origin.send(b"a")
        made.serve()
        assert made.stream.due() == made.now + PATIENT.first_byte
        made.visitor.send(b"a")
        made.serve()
        assert made.stream.due() == made.now + PATIENT.idle


def test_a_slow_reader_is_not_an_idle_one() -> None:
    """What it takes puts the deadline off, although nothing new is read for it."""
    with handmade(PATIENT._replace(idle=5.0), narrow=True) as made:
        fill(made.origin, bytes(4_000_000))
        made.serve()
        for _ in range(3):
            made.now += 4
            drain(made.visitor)
            made.serve()
            assert made.stream.due() == made.now + 5


def test_half_closed_silence_and_total() -> None:
    with handmade(PATIENT._replace(first_byte=100.0, half_closed=9.0, total=20.0)) as made:
        assert made.stream.due() == made.now + 20
        made.visitor.shutdown(socket.SHUT_WR)
        made.stream.unsettled = False
        made.serve()
        assert made.stream.unsettled
        assert made.stream.due() == made.now + 9
        made.now += 15
        made.origin.send(b"a")
        made.serve()
        assert made.stream.due() == made.now + 5, "the total holds whatever moves"


def test_a_deadline_resets_all_but_whom_an_end_was_promised() -> None:
    with handmade() as made:
        made.origin.send(b"answer")
        made.origin.shutdown(socket.SHUT_WR)
        made.serve()
        made.stream.expire()
        assert part(made) == (Finish.DEADLINE, Finish.FIN)
        assert drain(made.visitor) == (b"answer", "fin")
        assert drain(made.origin) == (b"", "reset")


def test_a_suspect_has_a_short_time_and_counts_as_reset() -> None:
    with handmade() as made:

        def fail(_: bytes) -> int:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

        made.right.send = fail
        made.visitor.send(b"x")
        made.serve()
        assert made.stream.due() == made.now + FLUSH_TIMEOUT
        made.stream.expire()
        assert part(made) == (Finish.CANCELLED, Finish.RESET)


def test_no_deadline_is_no_deadline() -> None:
    forever = PATIENT._replace(first_byte=math.inf, idle=math.inf, half_closed=math.inf)
    with handmade(forever) as made:
        assert made.stream.due() == math.inf
