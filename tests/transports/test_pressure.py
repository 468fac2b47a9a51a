"""Which streams are given up when a session runs out of buffer."""

from __future__ import annotations

from dataclasses import dataclass

from trunnel.settings import limits
from trunnel.transports.pressure import stalled_streams

MIB = 1 << 20


@dataclass(eq=False)
class Reader:
    """A stream as far as it matters."""

    unread: int
    taken: int = 0


def test_nobody_is_given_up_below_the_pressure() -> None:
    stalled = [Reader(MIB) for _ in range(6)]
    assert stalled_streams(stalled, dict.fromkeys(stalled, 0)) == []


def test_the_fullest_go_first_and_no_more_than_needed() -> None:
    small, large, middle = Reader(MIB), Reader(4 * MIB), Reader(3 * MIB)
    streams = [small, large, middle]
    assert stalled_streams(streams, dict.fromkeys(streams, 0)) == [large]


def test_a_consumer_that_keeps_pace_is_spared() -> None:
    """What it has unread takes it less than `STALLED_AFTER` at the pace of the last look."""
    quick, slow = Reader(6 * MIB), Reader(2 * MIB)
    quick.taken = int(quick.unread / limits.STALLED_AFTER * limits.PRESSURE_LOOK) + 1
    assert stalled_streams([quick, slow], {quick: 0, slow: 0}) == [slow]


def test_a_new_stream_is_spared() -> None:
    old, new = Reader(limits.SESSION_PRESSURE), Reader(limits.SESSION_PRESSURE)
    assert stalled_streams([old, new], {old: 0}) == [old]
