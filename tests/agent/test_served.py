"""What one agent serves: the names of all its relays, one leaf for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.agent.far_relay import listen
from trunnel.agent.served import Served
from trunnel.agent.visit import Visits
from trunnel.errors import ConfigError
from trunnel.events import ignore_events
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, ServerAddress
from trunnel.settings.agent import AgentSettings, ProxyProtocolVersion

NEAR, FAR = ServerAddress("near.example", 443), ServerAddress("far.example", 443)
A, B, C = Hostname("a.near.example"), Hostname("b.near.example"), Hostname("c.far.example")


def served(folder: Path, **options: object) -> Served:
    """Return what an agent with these settings serves."""
    settings = AgentSettings(state_dir=folder, **options)  # type: ignore[arg-type]
    leaves = LeafStore(folder / "leaf", IdentityKey.generate())
    return Served(settings, leaves, origin=listen, on_event=ignore_events)


async def test_before_any_relay_nothing_is_served(tmp_path: Path) -> None:
    nothing = served(tmp_path)
    assert (nothing.names, nothing.leaf, nothing.terminator) == (set(), None, None)


async def test_the_leaf_has_the_names_of_every_relay(tmp_path: Path) -> None:
    both = served(tmp_path)
    await both.prepare(NEAR, [A, B])
    await both.prepare(FAR, [C])
    assert both.names == {A, B, C}
    assert both.leaf is not None
    assert both.leaf.names == (A, B, C)


async def test_new_names_of_one_relay_replace_its_old_ones_and_no_others(tmp_path: Path) -> None:
    both = served(tmp_path)
    await both.prepare(NEAR, [A, B])
    await both.prepare(FAR, [C])
    await both.prepare(NEAR, [B])
    assert both.names == {B, C}
    assert both.leaf is not None
    assert both.leaf.names == (B, C)


async def test_sessions_that_run_see_new_names_and_the_new_leaf(tmp_path: Path) -> None:
    """`Forwarding` is made once a session; names that another relay brings must not be refused in it."""
    both = served(tmp_path)
    await both.prepare(NEAR, [A])
    visits = Visits()
    forwarding = both.forwarding(visits)
    assert C not in forwarding.endpoints
    await both.prepare(FAR, [C])
    assert C in forwarding.endpoints
    assert forwarding.terminator is both.terminator
    assert forwarding.terminator is not None
    assert forwarding.terminator.leaf is both.leaf
    assert forwarding.visits is visits


async def test_settings_reach_every_visitor(tmp_path: Path) -> None:
    given = served(
        tmp_path, proxy_protocol=ProxyProtocolVersion.V2, first_byte_timeout=1.5, idle_timeout=2.5, tls_passthrough=True
    )
    forwarding = given.forwarding(Visits())
    assert forwarding.proxy_protocol is ProxyProtocolVersion.V2
    assert (forwarding.first_byte_timeout, forwarding.idle_timeout) == (1.5, 2.5)


async def test_tls_that_is_passed_through_needs_no_leaf(tmp_path: Path) -> None:
    through = served(tmp_path, tls_passthrough=True)
    await through.prepare(NEAR, [A])
    assert (through.names, through.leaf) == ({A}, None)
    assert not (tmp_path / "leaf").exists()


async def test_a_new_leaf_is_told_and_the_same_one_is_not(tmp_path: Path) -> None:
    both = served(tmp_path)
    told: list[str] = []

    async def follow() -> None:
        while True:
            await both.wait_leaf_changed()
            assert both.leaf is not None
            told.append(both.leaf.fingerprint)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for relay, names in ((NEAR, [A]), (NEAR, [A]), (FAR, [C]), (NEAR, [A])):
            await trio.testing.wait_all_tasks_blocked()
            await both.prepare(relay, names)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(told) == 2
    assert len(set(told)) == 2


async def test_two_relays_that_come_up_at_once_get_one_leaf(tmp_path: Path) -> None:
    both = served(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.prepare, NEAR, [A])
        nursery.start_soon(both.prepare, FAR, [C])
    assert both.leaf is not None
    assert set(both.leaf.names) == {A, C}


async def test_a_leaf_that_cannot_be_written_is_an_error_and_what_was_shown_stays(tmp_path: Path) -> None:
    both = served(tmp_path)
    await both.prepare(NEAR, [A])
    before = both.leaf
    for path in (tmp_path / "leaf").iterdir():
        path.unlink()
    (tmp_path / "leaf").rmdir()
    (tmp_path / "leaf").write_text("in the way")
    with pytest.raises(ConfigError):
        await both.prepare(FAR, [C])
    assert both.leaf is before
