"""The end of a session and its accept queue, for itself; every transport's exam covers the rest."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.transports.base import Stream
from trunnel.transports.lifetime import Lifetime

LOST = SessionClosed("lost", retryable=False, code=ErrorCode.DEADLINE)


def stream() -> Stream:
    """Return something that can be told apart."""
    return cast("Stream", object())


async def test_the_first_reason_stands_and_everybody_gets_an_exception_of_their_own() -> None:
    life = Lifetime[Stream]()
    assert life.refusal() is None
    life.leave(SessionClosed("leaving"))
    life.leave(SessionClosed("leaving again"))
    assert str(life.refusal()) == "leaving"
    assert life.close(LOST)
    assert not life.close(SessionClosed("later"))
    assert await life.wait_closed() is LOST
    refusals = [life.refusal(), life.refusal()]
    assert [str(refusal) for refusal in refusals] == ["lost", "lost"]
    assert refusals[0] is not refusals[1]
    assert refusals[0] is not LOST
    assert refusals[0] is not None
    assert (refusals[0].retryable, refusals[0].code) == (False, ErrorCode.DEADLINE)


async def test_streams_are_accepted_in_order_and_also_after_the_end() -> None:
    life = Lifetime[Stream]()
    first, second = stream(), stream()
    life.arrive(first)
    life.arrive(second)
    assert life.waiting == 2
    life.close(LOST)
    assert [await life.accept(), await life.accept()] == [first, second]
    with pytest.raises(SessionClosed, match="lost"):
        await life.accept()


async def test_every_task_that_waits_gets_a_stream_or_the_end() -> None:
    life = Lifetime[Stream]()
    taken: list[Stream] = []
    ended: list[str] = []

    async def accept() -> None:
        try:
            taken.append(await life.accept())
        except SessionClosed as exc:
            ended.append(exc.reason)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        one, other = stream(), stream()
        life.arrive(one)
        await trio.testing.wait_all_tasks_blocked()
        life.arrive(other)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [one, other]
        life.close(LOST)
    assert ended == ["lost"]


async def test_a_cancelled_accept_takes_nothing() -> None:
    life = Lifetime[Stream]()
    with trio.move_on_after(0) as scope:
        await life.accept()
    assert scope.cancelled_caught
    life.arrive(only := stream())
    assert await life.accept() is only


async def test_what_nobody_accepted_is_handed_back_once() -> None:
    life = Lifetime[Stream]()
    life.arrive(only := stream())
    assert life.take_left() == [only]
    assert life.take_left() == []
    assert life.waiting == 0
