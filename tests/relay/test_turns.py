"""Places: so many in all, and fewer for each."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from trunnel.relay.turns import Turns


class Crowd:
    """Tasks that have a place until they are let go."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.turns = turns
        self.nursery = nursery
        self.inside: Counter[str] = Counter()
        self.enough = trio.Event()

    async def come(self, key: str, count: int) -> None:
        for _ in range(count):
            self.nursery.start_soon(self._have_place, key)
        await trio.testing.wait_all_tasks_blocked()

    async def _have_place(self, key: str) -> None:
        async with self.turns.turn(key):
            self.inside[key] += 1
            await self.enough.wait()


async def test_who_has_its_share_leaves_the_rest_to_others() -> None:
    turns = Turns(total=3, each=2)
    async with trio.open_nursery() as nursery:
        crowd = Crowd(turns, nursery)
        await crowd.come("slow", 10)
        assert crowd.inside == {"slow": 2}
        await crowd.come("other", 2)
        assert crowd.inside == {"slow": 2, "other": 1}
        crowd.enough.set()
    assert crowd.inside == {"slow": 10, "other": 2}
    assert len(turns) == 0


async def test_who_is_cancelled_gives_its_place_back_and_its_wait_up() -> None:
    turns = Turns(total=2, each=1)
    async with trio.open_nursery() as nursery:
        await Crowd(turns, nursery).come("gone", 5)
        nursery.cancel_scope.cancel()
    assert len(turns) == 0
    with trio.fail_after(1):
        async with turns.turn("gone"):
            assert len(turns) == 1


def raise_key_error() -> None:
    raise KeyError


async def test_a_body_that_fails_gives_its_place_back() -> None:
    turns = Turns(total=1, each=1)
    with pytest.raises(KeyError):
        async with turns.turn("a"):
            raise_key_error()
    assert len(turns) == 0
    async with turns.turn("b"):
        pass
