"""The flood guard counts what costs the peer nothing, in windows of `FLOOD_WINDOW` seconds."""

from __future__ import annotations

import pytest

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire.flood import BYTES_PER_FRAME_EARNED, FRAMES_PER_STREAM, FloodGuard

WINDOW = limits.FLOOD_WINDOW


def refuses_control(guard: FloodGuard, *, now: float = 0.0) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        guard.control_frame(now=now)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def count(guard: FloodGuard, frames: int, *, now: float = 0.0) -> None:
    for _ in range(frames):
        guard.control_frame(now=now)


def test_the_first_frame_over_the_limit_is_refused() -> None:
    guard = FloodGuard(now=0.0)
    count(guard, limits.CONTROL_FRAMES_MAX)
    refuses_control(guard)


@pytest.mark.parametrize(("now", "over"), [(WINDOW - 0.001, True), (WINDOW, False)])
def test_counting_starts_anew_with_the_next_window(now: float, over: bool) -> None:
    guard = FloodGuard(now=0.0)
    count(guard, limits.CONTROL_FRAMES_MAX)
    if over:
        refuses_control(guard, now=now)
    else:
        count(guard, limits.CONTROL_FRAMES_MAX, now=now)
        refuses_control(guard, now=now)


def test_what_we_send_allows_frames() -> None:
    guard = FloodGuard(now=0.0)
    guard.sent(2 * BYTES_PER_FRAME_EARNED - 1)
    count(guard, limits.CONTROL_FRAMES_MAX + 1)
    refuses_control(guard)


def test_what_we_sent_long_ago_allows_nothing() -> None:
    guard = FloodGuard(now=0.0)
    guard.sent(100 * BYTES_PER_FRAME_EARNED)
    count(guard, limits.CONTROL_FRAMES_MAX, now=WINDOW)
    refuses_control(guard, now=WINDOW)


def test_each_stream_that_ended_allows_the_frames_that_cross_its_end() -> None:
    guard = FloodGuard(now=0.0)
    guard.ended()
    count(guard, limits.CONTROL_FRAMES_MAX + FRAMES_PER_STREAM)
    refuses_control(guard)


def test_resets_without_work_end_at_the_limit() -> None:
    """LOAD-07: after at most 100."""
    guard = FloodGuard(now=0.0)
    for _ in range(limits.RESETS_MAX - 1):
        guard.reset_without_work(now=0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        guard.reset_without_work(now=0.0)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_stream_that_worked_clears_the_resets_but_not_the_frames() -> None:
    guard = FloodGuard(now=0.0)
    count(guard, limits.CONTROL_FRAMES_MAX)
    for _ in range(3):
        for _ in range(limits.RESETS_MAX - 1):
            guard.reset_without_work(now=0.0)
        guard.worked()
    refuses_control(guard)
