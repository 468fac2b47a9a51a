"""What one agent serves: the names of all its relays, the certificates for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.agent.far_relay import listen
from tests.agent.leaves import issued_leaf, write_pem
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


async def test_names_in_a_persons_certificate_need_none_of_an_authority(tmp_path: Path) -> None:
    """By name or by wildcard; what it does not cover is to be certified."""
    pem = write_pem(tmp_path / "mine.pem", issued_leaf("c.far.example", "*.near.example"))
    both = served(tmp_path, cert_pem=pem)
    await both.prepare(NEAR, [A, Hostname("deep.a.near.example")])
    await both.prepare(FAR, [C])
    assert both.ordered() == [A, Hostname("deep.a.near.example"), C]
    assert both.to_certify() == [Hostname("deep.a.near.example")]


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


async def test_a_name_that_we_ask_for_is_served_before_the_relay_says_that_it_is_ours(tmp_path: Path) -> None:
    """A visitor overtakes the word; the leaf is for the name already, and an authority is asked once it is ours."""
    asking = served(tmp_path, hostnames=(C,))
    await asking.prepare(NEAR, [A])
    assert C in asking.forwarding(Visits()).endpoints
    leaf = asking.leaf
    assert leaf is not None
    assert leaf.names == (A, C)
    assert asking.ordered() == asking.to_certify() == [A]
    told = trio.Event()

    async def hear() -> None:
        await asking.wait_changed()
        told.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await trio.testing.wait_all_tasks_blocked()
        await asking.prepare(NEAR, [A])
        await trio.testing.wait_all_tasks_blocked()
        assert not told.is_set()
        await asking.prepare(NEAR, [A, C])
    assert asking.leaf is leaf, "visitors see no other one"
    assert asking.ordered() == [A, C]


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
            await both.wait_changed()
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


# --- certificates of others ------------------------------------------------------------------------


async def shown(agent: Served, *names: Hostname) -> list[str]:
    """Return the fingerprints that visitors see who ask for *names*."""
    return [leaf.fingerprint for name in names if (leaf := agent.leaf_for(name)) is not None]


async def test_an_issued_leaf_is_shown_for_its_names_and_the_self_signed_one_for_the_others(tmp_path: Path) -> None:
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A, B])
    assert agent.leaf is not None
    own, issued = agent.leaf, issued_leaf(A)
    agent.show_issued(issued)
    assert await shown(agent, A, B) == [issued.fingerprint, own.fingerprint]
    assert agent.leaf is own


async def test_what_was_issued_before_the_first_relay_is_shown_at_once(tmp_path: Path) -> None:
    """A certificate that is cached: no visitor sees the self-signed one after a restart."""
    agent = served(tmp_path)
    issued = issued_leaf(A)
    agent.show_issued(issued)
    assert agent.leaf_for(A) is None
    await agent.prepare(NEAR, [A])
    assert await shown(agent, A) == [issued.fingerprint]


async def test_the_newest_for_a_name_is_shown_and_older_ones_for_the_rest(tmp_path: Path) -> None:
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A, B])
    both, only = issued_leaf(A, B), issued_leaf(B)
    agent.show_issued(both)
    agent.show_issued(only)
    assert await shown(agent, A, B) == [both.fingerprint, only.fingerprint]
    renewed = issued_leaf(A, B)
    agent.show_issued(renewed)
    assert await shown(agent, A, B) == [renewed.fingerprint] * 2
    assert agent.terminator is not None
    assert len(agent.terminator.leaves) == 2, "what is shown to nobody is forgotten"


async def test_one_for_names_that_are_not_ours_now_is_kept_and_not_shown(tmp_path: Path) -> None:
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A])
    issued = issued_leaf(C)
    agent.show_issued(issued)
    assert agent.terminator is not None
    assert len(agent.terminator.leaves) == 1
    await agent.prepare(FAR, [C])
    assert await shown(agent, C) == [issued.fingerprint]


async def test_new_names_change_the_self_signed_leaf_and_no_issued_one(tmp_path: Path) -> None:
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A])
    issued = issued_leaf(A)
    agent.show_issued(issued)
    await agent.prepare(FAR, [C])
    assert agent.leaf is not None
    assert await shown(agent, A, C) == [issued.fingerprint, agent.leaf.fingerprint]


async def test_each_change_is_told_once(tmp_path: Path) -> None:
    agent = served(tmp_path)
    told: list[list[str]] = []
    issued = issued_leaf(A)

    async def follow() -> None:
        while True:
            await agent.wait_changed()
            told.append(await shown(agent, A))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await agent.prepare(NEAR, [A])
        await trio.testing.wait_all_tasks_blocked()
        for leaf in (issued, issued, issued_leaf(C)):
            agent.show_issued(leaf)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert agent.leaf is not None
    assert told == [[agent.leaf.fingerprint], [issued.fingerprint]]


async def test_an_issued_leaf_that_openssl_does_not_take_is_logged_and_what_was_shown_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A])
    before = await shown(agent, A)
    agent.show_issued(replace(issued_leaf(A), private_key=issued_leaf(B).private_key))
    assert await shown(agent, A) == before
    assert [record.message for record in caplog.records] == ["issued_certificate_not_shown"]
    await agent.prepare(NEAR, [A, B])


async def test_tls_that_is_passed_through_shows_nothing(tmp_path: Path) -> None:
    through = served(tmp_path, tls_passthrough=True)
    await through.prepare(NEAR, [A])
    through.show_issued(issued_leaf(A))
    assert (through.leaf_for(A), through.terminator) == (None, None)


async def test_challenges_are_answered_in_every_session(tmp_path: Path) -> None:
    """Several relays: the authority may come through any of them."""
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A])
    forwardings = [agent.forwarding(Visits()) for _ in range(2)]
    assert [each.challenges for each in forwardings] == [agent.challenges] * 2


async def test_a_clock_that_was_set_has_the_leaf_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST-06: a board that starts in 1970 makes a leaf for then, and a fitting one as soon as it knows the time."""
    clock = datetime(1970, 1, 2, tzinfo=UTC)
    monkeypatch.setattr("trunnel.agent.served.utc_now", lambda: clock)
    agent = served(tmp_path)
    await agent.prepare(NEAR, [A])
    assert agent.leaf is not None
    assert agent.leaf.not_after.year < 1972
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.keep)
        clock = datetime(2026, 6, 1, tzinfo=UTC)
        agent.time_jumped()
        with trio.fail_after(5):
            await agent.wait_changed()
        assert agent.leaf.period_problem(clock) == ""
        nursery.cancel_scope.cancel()
