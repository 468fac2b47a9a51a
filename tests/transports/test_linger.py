"""Lingering lets the last words arrive, and ends whatever the peer does."""

from __future__ import annotations

import trio
import trio.testing

from trunnel.settings import limits
from trunnel.transports.linger import linger


async def test_what_the_peer_still_sends_is_read_away_to_its_end() -> None:
    """So that closing the socket afterwards sends no RST over our goodbye."""
    near, far = trio.testing.memory_stream_pair()
    await near.send_all(b"goodbye")
    await far.send_all(bytes(3 * limits.READ_SLICE))
    await far.send_eof()
    await linger(near)
    assert await near.receive_some() == b""
    assert await far.receive_some() == b"goodbye"
    assert await far.receive_some() == b""


async def test_a_peer_that_neither_reads_nor_ends_is_left_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """At most CLOSE_TIMEOUT."""
    near, _far = trio.testing.lockstep_stream_pair()
    await linger(near)
    assert trio.current_time() <= limits.CLOSE_TIMEOUT


async def test_a_peer_that_sends_for_ever_is_left_after_so_many_bytes() -> None:
    """At most LINGER_MAX, and then one slice."""
    near, far = trio.testing.memory_stream_pair()
    sent = limits.LINGER_MAX + 4 * limits.READ_SLICE
    await far.send_all(bytes(sent))
    await linger(near)
    await far.send_eof()
    left = 0
    while chunk := await near.receive_some():
        left += len(chunk)
    assert left >= 3 * limits.READ_SLICE


async def test_a_broken_carrier_is_no_error() -> None:
    """There is nobody to tell."""
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    await near.aclose()
    await linger(near)
