"""A taken data connection sits the exam of `conformance.py`, as far as one connection a stream can."""

from __future__ import annotations

import pytest
import trio

from tests.transports.conformance import EXAMS, Exam, passes_trios_own_exam, stream_pair
from tests.transports.direct_sessions import LEFT_OUT, direct_over_sockets

SAT = [exam for exam in EXAMS if exam not in LEFT_OUT and exam is not passes_trios_own_exam]


@pytest.mark.parametrize("exam", SAT, ids=lambda exam: exam.__name__)
async def test_conformance(exam: Exam) -> None:
    """The named rule holds on a connection that was parked and taken."""
    await exam(direct_over_sockets)


async def test_trios_own_exam() -> None:
    """Without full streams: the kernel's timers make room in a full socket again, and trio examines its own sockets."""
    await passes_trios_own_exam(direct_over_sockets, clogged=False)


def test_what_is_left_out_has_a_reason_and_exists() -> None:
    assert set(LEFT_OUT) < set(EXAMS)
    assert all(LEFT_OUT.values())


async def test_an_abort_breaks_both_directions_of_the_far_end() -> None:
    """What is left of `reset_is_carried_with_its_code` where there is no code."""
    async with stream_pair(direct_over_sockets) as (near, far):
        near.reset()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await far.send_all(bytes(65536))
        for call in (near.send_all(b"x"), near.receive_some()):
            with pytest.raises(trio.ClosedResourceError):
                await call


async def test_a_consumer_that_closes_makes_the_far_sender_fail() -> None:
    """What is left of `closing_tells_the_sender` where RST ends both directions."""
    async with stream_pair(direct_over_sockets) as (near, far):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await near.send_all(bytes(65536))
