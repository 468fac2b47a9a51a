"""The body's own exception leaves bare; a task's leaves as a group."""

from __future__ import annotations

import pytest
import trio

from trunnel.streams.nursery import bare_nursery


async def fail() -> None:
    raise ValueError("a task's")


async def test_the_bodys_exception_is_bare_and_keeps_its_cause() -> None:
    cause = OSError("why")
    with pytest.raises(KeyError) as raised:
        async with bare_nursery():
            raise KeyError("body") from cause
    assert raised.value.__cause__ is cause


async def test_a_tasks_exception_leaves_as_a_group() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with bare_nursery() as nursery:
            nursery.start_soon(fail)
    assert raised.group_contains(ValueError)


async def test_the_bodys_exception_leaves_bare_though_tasks_were_cancelled_beside_it() -> None:
    """One cancellation from around is what a task sees while the body fails: it has nothing to add."""
    with trio.CancelScope() as outer:
        with pytest.raises(KeyError) as raised:
            async with bare_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.lowlevel.checkpoint()
                outer.cancel()
                raise KeyError("body")
        assert raised.value.__cause__ is None
    assert not outer.cancelled_caught


async def test_a_bodys_and_a_tasks_exception_leave_as_a_group_together() -> None:
    """The task's may be a bug: nothing hides it."""
    with pytest.raises(ExceptionGroup) as raised:
        async with bare_nursery() as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("body")
    assert raised.group_contains(ValueError, depth=1)
    assert raised.group_contains(KeyError, depth=1)


async def test_a_cancellation_alone_stays_one() -> None:
    """It goes to the scope that it belongs to, whatever it is wrapped in."""
    with trio.CancelScope() as outer:
        async with bare_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            outer.cancel()
            await trio.sleep_forever()
    assert outer.cancelled_caught
