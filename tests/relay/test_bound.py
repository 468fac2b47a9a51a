"""A relay that listens, as whoever started it sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.places import bound_relay, settings_for
from trunnel.relay.ingress import Role


async def is_set(wait: Callable[[], Awaitable[None]]) -> bool:
    """Whether a `wait_…` method returns at once."""
    returned = False

    async def note() -> None:
        nonlocal returned
        await wait()
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return returned


def test_it_says_where_it_listens_for_whom(tmp_path: Path) -> None:
    with bound_relay(settings_for(tmp_path, alpn_port=0)) as bound:
        agents, visitors, challenges = (entrance.listener.address for entrance in bound.entrances)
        assert bound.agents == (f"127.0.0.1:{agents[1]}",)
        assert bound.addresses(Role.VISITORS) == bound.addresses(Role.CHALLENGES) == (visitors, challenges)
        assert (bound.agents_port, bound.visitors_port) == (agents[1], visitors[1])


async def test_a_drain_is_asked_for_once_and_its_first_reason_counts(tmp_path: Path) -> None:
    with bound_relay(settings_for(tmp_path)) as bound:
        assert not await is_set(bound.wait_drain)
        bound.drain("SIGTERM")
        bound.drain("again")
        assert await is_set(bound.wait_drain)
        assert (bound.is_draining, bound.drain_reason, bound.successor) == (True, "SIGTERM", None)
        assert not await is_set(bound.wait_hurry)


async def test_to_yield_is_to_stop_accepting_in_the_same_step(tmp_path: Path) -> None:
    """Between two steps somebody could come whom nobody leads on."""
    with bound_relay(settings_for(tmp_path)) as bound:
        bound.yield_to(4711)
        assert all(entrance.listener.closed for entrance in bound.entrances)
        assert (bound.is_draining, bound.successor) == (True, 4711)
        assert "4711" in bound.drain_reason
        assert not any(udp.closed for udp in bound.udp), "its agents on QUIC go on"


async def test_a_relay_that_was_taken_over_hurries_once_it_is_asked_to_stop(tmp_path: Path) -> None:
    with bound_relay(settings_for(tmp_path)) as bound:
        bound.yield_to(4711)
        assert not await is_set(bound.wait_hurry)
        bound.drain("SIGTERM")
        assert await is_set(bound.wait_hurry)
        assert "4711" in bound.drain_reason


async def test_who_waits_at_a_listener_is_woken_when_it_yields(tmp_path: Path) -> None:
    with bound_relay(settings_for(tmp_path)) as bound:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await bound.entrances[0].listener.wait_readable()

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            bound.yield_to(4711)
