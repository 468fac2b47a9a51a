"""An inbox gives bytes in order, then one end: FIN, abort, or closed; what was cut never looks like a FIN."""

from __future__ import annotations

import sys

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trunnel.transports.inbox import DEFAULT_TAKE, JOINED_MAX, Inbox


class Cause(Exception):
    """Why the stream was aborted."""


async def drain(inbox: Inbox, size: int | None = None) -> bytes:
    received = bytearray()
    while chunk := await inbox.take(size):
        received += chunk
    return bytes(received)


async def broken(inbox: Inbox) -> BaseException | None:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await inbox.take(None)
    return caught.value.__cause__


@given(st.lists(st.binary(min_size=1, max_size=1_500)), st.integers(1, 2_000))
def test_bytes_come_in_order_whatever_the_pieces(chunks: list[bytes], size: int) -> None:
    inbox = Inbox()

    async def check() -> None:
        for chunk in chunks:
            inbox.put(chunk)
        assert inbox.unread == sum(map(len, chunks))
        inbox.finish()
        assert await drain(inbox, size) == b"".join(chunks)
        assert inbox.unread == 0

    trio.run(check)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=1_500), st.integers(1, 900))))
def test_bytes_come_in_order_when_puts_and_takes_mix(steps: list[bytes | int]) -> None:
    inbox = Inbox()

    async def check() -> None:
        put, taken = bytearray(), bytearray()
        for step in steps:
            if isinstance(step, bytes):
                inbox.put(step)
                put += step
            elif inbox.unread:
                chunk = await inbox.take(step)
                assert 0 < len(chunk) <= step
                taken += chunk
            assert inbox.unread == len(put) - len(taken)
        inbox.finish()
        assert taken + await drain(inbox) == put

    trio.run(check)


def test_tiny_frames_cost_what_they_hold() -> None:
    """A peer that sends two bytes a frame holds its credit in memory, not twenty times that."""
    inbox = Inbox()
    total = 64 * 1024
    for _ in range(total // 2):
        inbox.put(b"ab")
    held = sys.getsizeof(inbox._chunks) + sum(map(sys.getsizeof, inbox._chunks))
    assert inbox.unread == total
    assert held < 1.2 * total
    assert all(len(chunk) <= JOINED_MAX for chunk in inbox._chunks)


async def test_a_default_take_is_bounded() -> None:
    inbox = Inbox()
    inbox.put(bytes(DEFAULT_TAKE + 1))
    assert len(await inbox.take(None)) == DEFAULT_TAKE


@pytest.mark.parametrize("size", [0, -1])
async def test_nothing_cannot_be_asked_for(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await Inbox().take(size)


async def test_a_take_waits_for_bytes_and_is_woken() -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            assert await inbox.take(10) == b"late"

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await inbox.take(1)
        inbox.put(b"late")


async def test_a_cancelled_take_loses_no_byte() -> None:
    inbox = Inbox()
    with trio.CancelScope() as scope:
        scope.cancel()
        inbox.put(b"kept")
        await inbox.take(None)
    assert scope.cancelled_caught
    assert await inbox.take(None) == b"kept"


async def test_each_take_is_a_checkpoint() -> None:
    inbox = Inbox()
    inbox.put(b"ab")
    inbox.finish()
    for _ in range(3):
        with trio.testing.assert_checkpoints():
            await inbox.take(1)


async def test_bytes_before_an_abort_are_read_first() -> None:
    inbox = Inbox()
    inbox.put(b"before")
    cause = Cause()
    inbox.fail(cause)
    assert await inbox.take(None) == b"before"
    assert await broken(inbox) is cause
    assert await broken(inbox) is cause, "and again"


async def test_an_abort_after_the_fin_changes_nothing() -> None:
    inbox = Inbox()
    inbox.put(b"all")
    inbox.finish()
    inbox.fail(Cause())
    assert await drain(inbox) == b"all"


async def test_the_first_abort_stands() -> None:
    inbox = Inbox()
    first = Cause()
    inbox.fail(first)
    inbox.fail(Cause())
    inbox.abandon(Cause())
    assert await broken(inbox) is first


@pytest.mark.parametrize("unread", [b"", b"dropped"])
async def test_abandoned_bytes_never_look_like_an_end(unread: bytes) -> None:
    """Also when the FIN had come already: the consumer has not seen all of it."""
    inbox = Inbox()
    if unread:
        inbox.put(unread)
    inbox.finish()
    cause = Cause()
    assert inbox.abandon(cause) == len(unread)
    assert inbox.unread == 0
    assert await broken(inbox) is cause


async def test_abandoning_wakes_the_consumer() -> None:
    inbox = Inbox()
    cause = Cause()
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            assert await broken(inbox) is cause

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        inbox.abandon(cause)


async def test_a_closed_inbox_refuses_to_be_read() -> None:
    inbox = Inbox()
    inbox.put(b"dropped")
    assert inbox.close() == 7
    assert inbox.close() == 0
    with pytest.raises(trio.ClosedResourceError):
        await inbox.take(None)
