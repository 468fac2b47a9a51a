"""trio's own exam for half-closeable streams, for both engines."""

from __future__ import annotations

import sys

import pytest
import trio
import trio.testing

from tests.streams.tls_pairs import (
    Pair,
    clog,
    lockstep_transports,
    memory_transports,
    shake_hands,
    tcp_transports,
    unix_transports,
    visitor_client,
    visitor_server,
)
from trunnel.streams.tls_engines import Turnstile


async def test_memory_engine_keeps_the_contract_of_half_closeable_streams(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over memory streams; clogged over lockstep streams, which have no room at all."""

    async def maker() -> Pair:
        return await shake_hands(await memory_transports())

    async def clogged_maker() -> Pair:
        return await shake_hands(await lockstep_transports())

    await trio.testing.check_half_closeable_stream(maker, clogged_maker)


async def test_memory_engine_keeps_the_contract_with_tickets_and_tls_1_3(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A visitor's server sends tickets after the handshake."""

    async def maker() -> Pair:
        return await shake_hands(await memory_transports(), client=visitor_client(), server=visitor_server())

    await trio.testing.check_half_closeable_stream(maker, None)


async def test_socket_engine_keeps_the_contract_of_half_closeable_streams() -> None:
    """Over TCP."""

    async def maker() -> Pair:
        client, server = await shake_hands(await tcp_transports())
        assert client.engine == server.engine == "socket"
        return client, server

    await trio.testing.check_half_closeable_stream(maker, None)


@pytest.mark.skipif(sys.platform != "linux", reason="fills a unix socket by the rule of Linux")
async def test_socket_engine_keeps_the_contract_when_clogged() -> None:
    """Over unix sockets whose buffers are full, both ways."""

    async def maker() -> Pair:
        return await shake_hands(unix_transports())

    async def clogged_maker() -> Pair:
        pair = await maker()
        for stream in pair:
            clog(stream)
        return pair

    await trio.testing.check_half_closeable_stream(maker, clogged_maker)


async def test_the_second_task_at_a_turnstile_waits_for_the_first_and_does_nothing() -> None:
    """One waiter a descriptor; the second looks again, whatever became of the first."""
    turnstile = Turnstile()
    ran: list[bool] = []

    async def pass_through() -> None:
        ran.append(await turnstile.run(trio.sleep_forever))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def cancelled() -> None:
            with first:
                await turnstile.run(trio.sleep_forever)

        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pass_through)
        await trio.testing.wait_all_tasks_blocked()
        assert turnstile.busy
        first.cancel()
    assert ran == [False]
    assert not turnstile.busy
