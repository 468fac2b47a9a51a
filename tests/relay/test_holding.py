"""Visitors who come before their agent: how long they wait, for whom, and how many."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from trunnel.names import Hostname
from trunnel.relay.holding import Hold
from trunnel.settings import limits

Clock = trio.testing.MockClock

NAME, OTHER = Hostname("a.example"), Hostname("b.example")


@dataclass
class Site:
    """An agent that may have come, and may have room, and the visitors who wait for it."""

    hold: Hold = field(default_factory=Hold.begin)
    owned: bool = False
    room: int = 0
    served: list[float] = field(default_factory=list)
    """When each visitor was let go on."""

    async def visit(self, name: Hostname = NAME) -> None:
        await self.hold.wait_owner(name, is_owned=lambda: self.owned, has_room=lambda: self.owned and self.room > 0)
        self.room -= 1
        self.served.append(trio.current_time())


async def test_the_claim_of_the_name_lets_everybody_go_on_at_once(autojump_clock: Clock) -> None:
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(site.visit)
        await trio.sleep(1.5)
        site.owned, site.room = True, 100
        site.hold.claimed([OTHER, NAME])
    assert site.served == [began + 1.5] * 100


async def test_the_claim_of_another_name_wakes_nobody(autojump_clock: Clock) -> None:
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.visit)
        await trio.sleep(1)
        site.owned, site.room = True, 1
        site.hold.claimed([OTHER])
    assert site.served == [began + limits.TAKEOVER_HOLD]


async def test_nobody_waits_longer_than_the_hold(autojump_clock: Clock) -> None:
    """Counted from its beginning, whenever a visitor came."""
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.visit)
        await trio.sleep(limits.TAKEOVER_HOLD - 1)
        nursery.start_soon(site.visit)
    assert site.served == [began + limits.TAKEOVER_HOLD] * 2
    assert site.hold.over


async def test_they_go_on_as_the_agent_has_room(autojump_clock: Clock) -> None:
    site = Site()
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(site.visit)
        await trio.testing.wait_all_tasks_blocked()
        site.owned, site.room = True, 2
        site.hold.claimed([NAME])
        for count in (2, 4, 6):
            await trio.sleep(limits.TAKEOVER_PACE * 1.5)
            assert (len(site.served), site.room) == (count, 0)
            site.room = 2


async def test_an_agent_that_goes_again_is_waited_for_again(autojump_clock: Clock) -> None:
    """Without a turn in which the wait costs more than a sleep."""
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.visit)
        await trio.testing.wait_all_tasks_blocked()
        site.owned = True
        site.hold.claimed([NAME])
        await trio.sleep(1)
        site.owned = False
        await trio.sleep(1)
        site.owned, site.room = True, 1
        site.hold.claimed([NAME])
    assert began + 2 <= site.served[0] <= began + 2 + limits.TAKEOVER_PACE


async def test_so_many_wait_at_most(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused at once, not later."""
    site = Site()
    monkeypatch.setattr(limits, "TAKEOVER_HELD_MAX", 3)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(site.visit)
    assert site.served == [began] * 2 + [began + limits.TAKEOVER_HOLD] * 3


async def test_who_gives_up_gives_the_place_back(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setattr(limits, "TAKEOVER_HELD_MAX", 1)
    with trio.move_on_after(1):
        await site.visit()
    began = trio.current_time()
    with trio.move_on_after(1):
        await site.visit()
    assert trio.current_time() == began + 1
    assert site.hold._crowds == {}


async def test_it_is_settled_once_agents_had_time_and_nobody_waits(autojump_clock: Clock) -> None:
    site = Site()
    began = trio.current_time()
    await site.hold.wait_settled()
    assert trio.current_time() == began + limits.TAKEOVER_SETTLE


async def test_it_is_not_settled_while_somebody_waits(autojump_clock: Clock) -> None:
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.visit)
        nursery.start_soon(site.visit, OTHER)

        async def arrive() -> None:
            await trio.sleep(5)
            site.owned, site.room = True, 2
            site.hold.claimed([NAME, OTHER])

        nursery.start_soon(arrive)
        await site.hold.wait_settled()
        assert trio.current_time() == began + 5


async def test_it_is_settled_when_it_is_over(autojump_clock: Clock) -> None:
    """A name that nobody has must not keep the relay from being replaced."""
    site = Site()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.visit)
        await site.hold.wait_settled()
        assert trio.current_time() == began + limits.TAKEOVER_HOLD
