"""The body's own exception leaves bare; a task's leaves as a group."""

from __future__ import annotations

import pytest

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
