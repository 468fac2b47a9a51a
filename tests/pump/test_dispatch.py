"""Orders on their way: what comes in one turn shares a packet, in order, and nothing is lost or sent twice."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.pump.stage import needs_workers
from trunnel.pump.dispatch import Dispatch
from trunnel.pump.orders import ORDER_MAX, ORDERS_PER_PACKET, Order, Verb, decode_orders

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]


class Unwilling(socket.socket):
    """A channel whose `sendmsg` fails as it is told to."""

    failures: list[int]

    def sendmsg(self, *args: object) -> int:
        """Fail, or send."""
        if self.failures:
            raise OSError(self.failures.pop(0), "as told")
        return super().sendmsg(*args)  # type: ignore[arg-type]


class Far:
    """The worker's end."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.given_back: list[int] = []

    def packet(self) -> tuple[list[int], int]:
        """Return the streams of the next packet's orders, and how many descriptors rode on it."""
        raw, descriptors, _, _ = socket.recv_fds(self.channel, ORDER_MAX, 64)
        for descriptor in descriptors:
            os.close(descriptor)
        return [order.stream for order in decode_orders(raw)], len(descriptors)


@asynccontextmanager
async def running(failures: list[int] | None = None) -> AsyncIterator[tuple[Dispatch, Far]]:
    """A dispatch that runs, and the far end of its channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near = Unwilling(fileno=ours.detach())
    near.failures = failures or []
    for end in (near, theirs):
        end.setblocking(False)
    far = Far(theirs)
    with near, theirs:
        async with trio.open_nursery() as nursery:
            dispatch = Dispatch(near, lambda order: far.given_back.append(order.stream))
            nursery.start_soon(dispatch.run)
            await trio.testing.wait_all_tasks_blocked()
            yield dispatch, far
            nursery.cancel_scope.cancel()


def take(stream: int) -> Order:
    return Order(Verb.TAKE, stream)


async def test_orders_of_one_turn_share_packets_in_order() -> None:
    async with running() as (dispatch, far):
        near, other = trio.socket.socketpair()
        with near, other:
            for stream in range(ORDERS_PER_PACKET + 2):
                dispatch.put(take(stream), (near, other))
            await trio.testing.wait_all_tasks_blocked()
            assert far.packet() == (list(range(ORDERS_PER_PACKET)), 2 * ORDERS_PER_PACKET)
            assert far.packet() == ([ORDERS_PER_PACKET, ORDERS_PER_PACKET + 1], 4)


async def test_an_order_with_a_payload_travels_alone_and_keeps_its_place() -> None:
    """A certificate is shown to whom it was meant for: those who come after it."""
    async with running() as (dispatch, far):
        for order in (take(1), Order(Verb.LEAF, 0, payload=b"secret"), take(2), take(3)):
            dispatch.put(order)
        await trio.testing.wait_all_tasks_blocked()
        assert [far.packet() for _ in range(3)] == [([1], 0), ([0], 0), ([2, 3], 0)]


def test_a_payload_is_not_shown() -> None:
    assert "secret" not in repr(Order(Verb.LEAF, 0, payload=b"secret"))


async def test_an_order_that_was_withdrawn_is_not_sent() -> None:
    async with running() as (dispatch, far):
        for stream in (1, 2, 3):
            dispatch.put(take(stream))
        assert dispatch.withdraw(2) == take(2)
        await trio.testing.wait_all_tasks_blocked()
        assert far.packet() == ([1, 3], 0)
        assert dispatch.withdraw(1) is None, "it is with the worker"


@pytest.mark.parametrize(
    "failures", [[errno.EPIPE], [errno.ETOOMANYREFS] * 100], ids=["the worker is gone", "too many in flight"]
)
async def test_what_cannot_be_sent_is_given_back(failures: list[int], autojump_clock: trio.testing.MockClock) -> None:
    async with running(list(failures)) as (dispatch, far):
        dispatch.put(take(1))
        dispatch.put(take(2))
        await trio.sleep(1)
        assert far.given_back == [1, 2]


async def test_descriptors_in_flight_are_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with running([errno.ETOOMANYREFS] * 3) as (dispatch, far):
        dispatch.put(take(1))
        await trio.sleep(1)
        assert far.packet() == ([1], 0)
        assert far.given_back == []


async def test_a_full_channel_is_waited_for() -> None:
    async with running() as (dispatch, far):
        sent = 0

        async def until_full(put: Callable[[Order], None]) -> int:
            for stream in range(100_000):
                put(take(stream))
                await trio.testing.wait_all_tasks_blocked()
                if dispatch.withdraw(stream) is not None or stream > 3_000:
                    return stream
            raise AssertionError("it never fills")

        sent = await until_full(dispatch.put)
        assert far.given_back == []
        streams: list[int] = []
        while len(streams) < sent:
            try:
                streams += far.packet()[0]
            except BlockingIOError:
                await trio.testing.wait_all_tasks_blocked()
        assert streams == list(range(sent)), "each once, in order"
