"""The lab: what its wire, its name server and its pattern do, and one scenario from end to end.

The scenario needs root, and the programs of `scripts.lab.hosts`; elsewhere it
is skipped with the reason that the lab itself prints.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts.lab import dns
from scripts.lab.__main__ import expected, unable
from scripts.lab.hosts import NAMESPACES, PREFIX
from scripts.lab.pattern import PERIOD, Checker, block
from scripts.lab.roads import H2
from scripts.lab.scenarios_life import share_besides
from scripts.lab.table import Case, Load, Outcome, Row
from scripts.lab.wire import Behaviour, Direction
from tests.peers import absent
from tests.rules.sources import ROOT

Sink = tuple[int, int]
"""The reading and the writing end of something that keeps packets apart."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        yield near.fileno(), far.fileno()


def arrived(sink: Sink) -> list[bytes]:
    found: list[bytes] = []
    while True:
        try:
            found.append(os.read(sink[0], 65_536))
        except BlockingIOError:
            return found


def packets(count: int) -> list[bytes]:
    header = bytes([0x45, *bytes(8), 6, *bytes(10)])
    return [header + bytes([number]) * 64 for number in range(count)]


def test_the_wire_holds_packets_for_the_delay_and_keeps_their_order(sink: Sink) -> None:
    direction = Direction(sink[1], seed=1)
    direction.behaviour = Behaviour(delay=1.0, jitter=0.5)
    sent = packets(50)
    for number, packet in enumerate(sent):
        direction.admit(packet, number / 10)
    direction.release(0.49)
    assert arrived(sink) == []
    direction.release(7.0)
    assert arrived(sink) == sent


def test_the_wire_sends_no_faster_than_its_rate_and_drops_what_its_queue_cannot_hold(sink: Sink) -> None:
    direction = Direction(sink[1], seed=1)
    direction.behaviour = Behaviour(rate=8 * 84, queue=4 * 84)
    for packet in packets(10):
        direction.admit(packet, 0.0)
    direction.release(2.5)
    assert len(arrived(sink)) == 2
    direction.release(60.0)
    assert len(arrived(sink)) == 3
    assert direction.counts["dropped"] == 5


def test_the_wire_doubles_reorders_and_changes_as_often_as_it_counts(sink: Sink) -> None:
    direction = Direction(sink[1], seed=7)
    direction.behaviour = Behaviour(delay=0.004, duplicate=0.2, reorder=0.2, corrupt=0.2)
    sent = packets(200)
    found: list[bytes] = []
    for number, packet in enumerate(sent):
        direction.admit(packet, number / 1000)
        direction.release(number / 1000)
        found += arrived(sink)
    direction.release(10.0)
    found += arrived(sink)
    assert len(found) - len(sent) == direction.counts["duplicated"] > 0
    assert len({*found} - {*sent}) == direction.counts["corrupted"] > 0
    assert found != sorted(found)
    assert direction.counts["reordered"] > 0


def test_a_changed_datagram_has_no_checksum_so_that_the_program_sees_it(sink: Sink) -> None:
    header = bytes([0x45, *bytes(8), 17, *bytes(10)])
    packet = header + b"\x11\x22\x33\x44\x00\x10\xab\xcd" + bytes(8)
    direction = Direction(sink[1], seed=1)
    direction.behaviour = Behaviour(corrupt=1.0)
    direction.admit(packet, 0.0)
    direction.release(0.0)
    (found,) = arrived(sink)
    assert found[20:28] == b"\x11\x22\x33\x44\x00\x10\x00\x00"
    assert sum(octet.bit_count() for octet in found[28:]) == 1


def test_the_checker_finds_a_wrong_octet_a_lost_and_a_doubled_block() -> None:
    exact, wrong, lost, doubled = (Checker() for _ in range(4))
    first, second = bytes(block(0, 1000)), bytes(block(1000, 1000))
    for checker, chunks in ((exact, (first, second)), (lost, (second,)), (doubled, (first, first))):
        for chunk in chunks:
            checker.feed(chunk)
    wrong.feed(first[:-1] + bytes([first[-1] ^ 1]))
    assert exact.exact(2000)
    assert not exact.exact(1999)
    assert (wrong.wrong_at, lost.wrong_at, doubled.wrong_at) == (0, 0, 1000)


def test_the_pattern_goes_on_where_its_period_ends() -> None:
    assert bytes(block(PERIOD - 2, 4)) == bytes(block(PERIOD - 2, 2)) + bytes(block(0, 2))


@pytest.mark.parametrize(
    ("order", "code", "answers"),
    [
        ({"mode": "answer", "a": ["10.0.0.1", "10.0.0.2"]}, 0, 2),
        ({"mode": "answer"}, 0, 0),
        ({"mode": "nxdomain"}, 3, 0),
        ({"mode": "servfail"}, 2, 0),
    ],
)
def test_the_name_server_answers_as_it_is_told(order: dict[str, object], code: int, answers: int) -> None:
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05relay\x03lab\x00\x00\x01\x00\x01"
    answer = dns.reply(query, "relay.lab", order)
    assert answer is not None
    assert answer[:2] == query[:2]
    assert answer[3] & 0x0F == code
    assert int.from_bytes(answer[6:8], "big") == answers
    assert dns.reply(query, "relay.lab", {"mode": "silent"}) is None


def test_a_visit_that_was_under_way_while_a_connection_was_killed_is_no_verdict_on_the_others() -> None:
    kills = [(10.0, 10.02)]
    cut = {"begun": 9.99, "seconds": 0.02, "error": "reset"}
    kept = [{"begun": begun, "seconds": 0.01} for begun in (9.0, 9.5, 10.5)]
    assert share_besides([cut, *kept], kills) == 1.0
    assert share_besides([*kept, {"begun": 10.03, "seconds": 0.01, "error": "refused"}], kills) == 0.75
    assert share_besides([cut], kills) == 0.0


async def unused(case: Case) -> Outcome:
    raise AssertionError(case)


def test_rows_that_wait_take_no_time_beside_those_that_work() -> None:
    def cases(load: Load, seconds: float, count: int) -> list[tuple[Row, Case]]:
        row = Row("row", "", unused, (H2,), (H2,), load, (seconds, 1.0))
        return [(row, Case(H2, quick=False))] * count

    working = [*cases(Load.LIGHT, 10, 4), *cases(Load.BUSY, 30, 2)]
    assert expected(working, jobs=2) == 80
    assert expected([*working, *cases(Load.WAITING, 60, 5)], jobs=2) == 80
    assert expected([*working, *cases(Load.WAITING, 600, 5)], jobs=2) == 600
    assert expected(cases(Load.LIGHT, 10, 2), jobs=6) == 10, "no row is cut in pieces"


def needs_lab() -> None:
    if (reason := unable()) is not None:
        absent(f"the lab ({reason})")


@pytest.mark.e2e
def test_half_close_survives_a_wire_of_20_ms_and_nothing_is_left_behind() -> None:
    needs_lab()
    words = [sys.executable, "-m", "scripts.lab", "NET-13", "--transport", "h2", "--quick"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert "NET-13\th2\tpass\t4 of 4 exact" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.e2e
def test_what_a_killed_lab_left_is_taken_away_by_the_next() -> None:
    needs_lab()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    name = f"{PREFIX}-{int(gone.stdout)}-1-agent"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run([sys.executable, "-c", "from scripts.lab.hosts import sweep; sweep()"], cwd=ROOT, check=True)
    assert not (NAMESPACES / name).exists()
