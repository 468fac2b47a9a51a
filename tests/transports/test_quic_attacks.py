"""Attacks on a QUIC connection, as truly encrypted packets: memory and work stay bounded (LOAD-13, LOAD-15)."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aioquic.quic.packet import QuicErrorCode

from tests.transports.quic_wire import Wire, frame, stream_frame
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_halves import receiving_half

KIB, MIB = limits.KIB, limits.MIB
FIRST = limits.STREAM_WINDOW_MIN + limits.QUIC_EMPTY_STREAM
SPARSE = 12
"""Frames of the attack that costs aioquic alone 2 GB."""
FRAME_SECONDS = 1 / 50_000
"""Core seconds that a frame may cost (LOAD-15)."""
SLOW_MACHINE = 5
"""By how much the machine that runs the tests may be slower."""


@contextmanager
def memory(most: int) -> Iterator[None]:
    """Assert that what the block leaves behind, and holds at its height, is at most *most* bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        _, height = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert height <= most, f"{height} bytes"


# --- LOAD-13 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 128])
def test_sparse_frames_cost_no_more_than_the_credit(streams: int) -> None:
    """Twelve frames a stream, each one byte at the last offset that the peer's credit allows: gaps take no memory."""
    wire = Wire()
    ids = wire.open(streams)
    wire.settle()
    with memory(MIB):
        for _ in range(SPARSE):
            for stream in ids:
                limit = wire.client._streams[stream].max_stream_data_local if stream in wire.client._streams else 0
                wire.forge(wire.client, stream_frame(stream, limit - 1, b"x"))
            wire.flush()
    streams_ahead = [receiving_half(stream)._ahead for stream in dict.values(wire.client._table)]
    assert all(len(ahead) <= 1 for ahead in streams_ahead)
    assert all(wire.client._streams[stream].max_stream_data_local == FIRST for stream in ids), "no credit for gaps"


def test_sparse_frames_on_all_streams_end_at_the_session_s_credit() -> None:
    wire = Wire()
    with memory(2 * limits.SESSION_CREDIT + 4 * MIB):
        for number in range(limits.STREAMS_PER_SESSION):
            wire.forge(wire.client, stream_frame(1 + 4 * number, FIRST - 1, b"x"))
            if wire.client.ending is not None:
                break
    assert wire.client.ending is not None
    assert wire.client.ending.error_code == QuicErrorCode.FLOW_CONTROL_ERROR
    assert number == limits.SESSION_CREDIT // FIRST


def test_one_frame_that_opens_all_streams_costs_little() -> None:
    wire = Wire()
    with memory(4 * MIB):
        wire.forge(wire.client, stream_frame(1 + 4 * (limits.STREAMS_ON_CARRIER - 1), 0, b"x"))
        wire.flush()
    assert len(wire.client._streams) == limits.STREAMS_ON_CARRIER
    assert wire.client.ending is None


@pytest.mark.parametrize("cap", [limits.QUIC_RANGES_MAX])
def test_a_stream_of_gaps_costs_little_memory_and_time(cap: int) -> None:
    """Every second byte of a window: 32,000 ranges, each of which aioquic alone looks at for every frame."""
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    packets = [
        b"".join(stream_frame(stream, offset, b"x") for offset in range(start, start + 240, 2))
        for start in range(3, FIRST - 240, 240)
    ]
    begun = time.process_time()
    with memory(MIB):
        for payload in packets:
            wire.forge(wire.client, payload)
    assert len(receiving_half(wire.client._streams[stream])._ahead) <= cap
    assert time.process_time() - begun < SLOW_MACHINE * FRAME_SECONDS * 120 * len(packets)
    assert wire.client.ending is None


# --- LOAD-15 --------------------------------------------------------------------------------------

FLOODS: dict[str, Callable[[int], bytes]] = {
    "path challenge": lambda number: frame(0x1A, tail=number.to_bytes(8, "big")),
    "new connection id": lambda number: frame(
        0x18, number + 8, number + 8, tail=b"\x08" + number.to_bytes(8, "big") + bytes(16)
    ),
    "retire connection id": lambda number: frame(0x19, number),
    "stop sending": lambda _: frame(0x05, 1, 0),
    "reset beyond the limit": lambda number: frame(0x04, 1 + 4 * number, 0, 1),
    "stream data": lambda number: frame(0x11, 1, number),
    "ping": lambda _: frame(0x01),
    "ranges of acknowledgements": lambda number: frame(0x02, 2_000 + number, 0, 300, 0, *[0] * 600),
    "one byte at a time": lambda number: stream_frame(1, 1 + number, b"x"),
    "the same byte": lambda _: stream_frame(1, 1, b"x"),
    "streams for nothing": lambda number: stream_frame(5 + 4 * number, 0, b"\0") + frame(0x04, 5 + 4 * number, 0, 1),
}
FRAMES = 2_000
UNCOUNTED = frozenset({"one byte at a time", "the same byte"})
"""Floods that credit or the line bounds; the others end the connection."""
ATTACK_SECONDS = 1.0
"""Core seconds that a whole attack of large frames may cost until it ends."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_costs_little_time_and_ends_the_connection(name: str) -> None:
    """As many frames as fit into each packet; the cost of making and encrypting the packets is not counted."""
    wire = Wire()
    wire.open()
    wire.settle()
    make = FLOODS[name]
    size = max(1, 1_100 // len(make(0)))
    payloads = [b"".join(map(make, range(start, start + size))) for start in range(0, FRAMES, size)]
    spent, packets = 0.0, 0
    for payload in payloads:
        if wire.client.ending is not None:
            break
        begun = time.process_time()
        wire.forge(wire.client, payload)
        wire.client.datagrams_to_send(wire.now)
        while wire.client.next_event() is not None:
            pass
        spent, packets = spent + time.process_time() - begun, packets + 1
    most = ATTACK_SECONDS if size == 1 else FRAME_SECONDS * packets * size
    assert spent < SLOW_MACHINE * most, f"{spent:.3f} s for {packets} packets"
    assert (wire.client.ending is None) == (name in UNCOUNTED)
    if wire.client.ending is not None:
        assert wire.client.ending.error_code != QuicErrorCode.INTERNAL_ERROR


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_leaves_little_memory(name: str) -> None:
    wire = Wire()
    wire.open()
    wire.settle()
    with memory(2 * MIB):
        for number in range(400):
            if wire.client.ending is not None:
                break
            wire.forge(wire.client, FLOODS[name](number))
            wire.client.datagrams_to_send(wire.now)
            while wire.client.next_event() is not None:
                pass


def test_what_ends_a_flood_is_told_to_the_peer() -> None:
    wire = Wire()
    for _ in range(limits.CONTROL_FRAMES_MAX + 1):
        wire.forge(wire.client, frame(0x01))
    wire.settle()
    assert wire.server.ending is not None
    assert wire.server.ending.error_code == ErrorCode.ENHANCE_YOUR_CALM
