"""What comes ahead of its turn: no byte lost, no byte twice, and memory for what came only."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trunnel.transports.quic_segments import Segments

SIZE = 60
pieces = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=40)


def octet(offset: int) -> int:
    return (offset * 7 + 1) & 0xFF


def content(start: int, stop: int) -> bytes:
    return bytes(octet(offset) for offset in range(start, stop))


def check_order(segments: Segments) -> None:
    """No run is empty or reaches into another; one that touches the next is shorter than that."""
    runs = list(zip(segments.starts, map(len, segments._runs), strict=True))
    for (start, length), (following, other) in pairwise(runs):
        assert start + length < following or (start + length == following and length < other)
    assert all(length for _, length in runs)


@given(pieces)
def test_every_byte_is_held_once_however_the_pieces_overlap(cuts: list[tuple[int, int]]) -> None:
    """Against a dictionary of single bytes."""
    segments = Segments()
    model: set[int] = set()
    for start, length in cuts:
        segments.add(start, content(start, start + length))
        model |= set(range(start, start + length))
        gaps = sum(offset - 1 not in model for offset in model)
        assert len(segments) >= gaps
        check_order(segments)
    for start in sorted(offset for offset in model if offset - 1 not in model):
        stop = start
        while stop in model:
            stop += 1
        assert segments.take(start) == content(start, stop)
    assert len(segments) == 0


def test_nothing_is_taken_before_its_turn() -> None:
    segments = Segments()
    assert segments.take(0) == b""
    segments.add(5, b"later")
    assert segments.take(0) == b""
    assert segments.take(5) == b"later"


def test_of_bytes_that_come_again_the_first_stand() -> None:
    segments = Segments()
    segments.add(2, b"bb")
    segments.add(6, b"dd")
    segments.add(0, b"xxxxxxxxxx")
    assert segments.take(0) == b"xxbbxxddxx"


def test_what_was_cleared_is_gone() -> None:
    segments = Segments()
    segments.add(1, b"x")
    segments.clear()
    assert len(segments) == 0
    assert segments.take(1) == b""


def test_memory_follows_the_bytes_and_neither_the_offsets_nor_the_pieces() -> None:
    segments = Segments()
    tracemalloc.start()
    try:
        segments.add(1 << 40, b"x")
        assert tracemalloc.get_traced_memory()[0] < 1_000
        for offset in range(1, 50_000):
            segments.add(offset, b"x")
        assert tracemalloc.get_traced_memory()[0] < 2 * 50_000
    finally:
        tracemalloc.stop()
    assert len(segments) == 2


def test_bytes_put_before_a_long_run_do_not_copy_it() -> None:
    """LOAD-15: one byte after the other, from the back; to copy all each time takes 0.2 ms a byte."""
    long, amount = 3 << 20, 30_000
    segments = Segments()
    segments.add(amount, bytes(long))
    begun = time.process_time()
    for offset in reversed(range(amount)):
        segments.add(offset, b"x")
    assert time.process_time() - begun < 5 * amount * 20e-6
    assert len(segments) <= 1 + amount.bit_length()
    assert segments.take(0) == b"x" * amount + bytes(long)
