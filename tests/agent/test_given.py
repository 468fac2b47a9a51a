"""`--cert-pem`: a person's certificate is shown for its names, followed, and never lost to a bad file."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.agent.far_relay import listen
from tests.agent.leaves import issued_leaf, write_pem
from tests.tunnels import until
from trunnel import capabilities
from trunnel.agent.given import Given
from trunnel.agent.served import Served
from trunnel.errors import ConfigError
from trunnel.events import Alarm, Certificate, Event, ignore_events
from trunnel.identity.certstore import LeafStore
from trunnel.identity.filewatch import look
from trunnel.identity.keys import IdentityKey
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname, ServerAddress
from trunnel.settings.agent import AgentSettings

RELAY = ServerAddress("relay.example", 443)
A, B, DEEP = Hostname("a.example"), Hostname("b.w.example"), Hostname("x.b.w.example")
SOON = 0.01
"""Seconds between looks."""


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[tuple[Given, list[Event], list[Leaf]]]:
    """Follow *path*; yields the file, the events, and what was taken from it after the start."""
    events: list[Event] = []
    taken: list[Leaf] = []
    given = Given(path, events.append)
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            await given.follow(lambda: taken.append(given.leaf), poll=SOON)

        nursery.start_soon(follow)
        yield given, events, taken
        nursery.cancel_scope.cancel()


def failures(events: list[Event]) -> list[str]:
    """Return why the file was not taken, each time."""
    return [event.reason for event in events if isinstance(event, Certificate) and event.state == "failed"]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged as wrong."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def looked_again(given: Given, path: Path) -> None:
    """Wait until the present state of *path* has been judged."""
    await until(lambda: given._seen == look(path))


async def test_it_is_shown_for_its_names_wildcards_included_and_before_issued_ones(tmp_path: Path) -> None:
    mine = issued_leaf(A, "*.w.example", kind="RSA")
    settings = AgentSettings(state_dir=tmp_path, cert_pem=write_pem(tmp_path / "mine.pem", mine))
    served = Served(
        settings, LeafStore(tmp_path / "leaf", IdentityKey.generate()), origin=listen, on_event=ignore_events
    )
    await served.prepare(RELAY, [A, B, DEEP])
    served.show_issued(issued_leaf(A, DEEP))
    shown = [served.leaf_for(name) for name in (A, B, DEEP)]
    assert all(leaf is not None for leaf in shown)
    assert [leaf.chain == mine.chain for leaf in shown if leaf is not None] == [True, True, False]


async def test_one_for_other_names_is_an_alarm(tmp_path: Path) -> None:
    """Visitors see ours then, and the person should know why; once, not at each address that comes."""
    settings = AgentSettings(state_dir=tmp_path, cert_pem=write_pem(tmp_path / "mine.pem", issued_leaf("c.example")))
    events: list[Event] = []
    served = Served(
        settings, LeafStore(tmp_path / "leaf", IdentityKey.generate()), origin=listen, on_event=events.append
    )
    for names in ([A], [A, B]):
        await served.prepare(RELAY, names)
    (alarm,) = [event for event in events if isinstance(event, Alarm)]
    assert alarm.code == "certificate-unused"
    assert "c.example" in alarm.text


async def test_a_new_one_is_taken_while_the_agent_runs(tmp_path: Path) -> None:
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    settings = AgentSettings(state_dir=tmp_path, cert_pem=path)
    events: list[Event] = []
    served = Served(
        settings, LeafStore(tmp_path / "leaf", IdentityKey.generate()), origin=listen, on_event=events.append
    )
    await served.prepare(RELAY, [A])
    renewed = issued_leaf(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.keep)
        await trio.testing.wait_all_tasks_blocked()
        write_pem(path, renewed)
        with trio.fail_after(10):
            await served.wait_changed()
        nursery.cancel_scope.cancel()
    leaf = served.leaf_for(A)
    assert leaf is not None
    assert leaf.chain == renewed.chain
    states = [event.state for event in events if isinstance(event, Certificate)]
    assert states == ["loaded", "loaded"]


async def test_what_is_loaded_is_told(tmp_path: Path) -> None:
    leaf = issued_leaf(A, "*.w.example")
    async with followed(write_pem(tmp_path / "mine.pem", leaf)) as (_, events, _taken):
        await until(lambda: events)
    (event,) = events
    assert isinstance(event, Certificate)
    assert (event.hostnames, event.state, event.issuer) == (("a.example", "*.w.example"), "loaded", "Authority 1")
    assert (event.not_after, event.reason) == (leaf.not_after.isoformat(), "")


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100_000)], ids=["empty", "garbage", "huge"])
async def test_bad_content_keeps_the_old_one_with_one_line(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the next good one is taken."""
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    async with followed(path) as (given, events, taken):
        before = given.leaf
        path.write_bytes(content)
        await looked_again(given, path)
        assert given.leaf is before
        assert complaints(caplog) == ["certificate_kept"]
        assert len(failures(events)) == 1
        write_pem(path, good := issued_leaf(A))
        await until(lambda: taken)
    assert [leaf.chain for leaf in taken] == [good.chain]


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="modes")
async def test_the_chmod_that_was_asked_for_is_noticed(tmp_path: Path) -> None:
    """It changes neither size nor mtime."""
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    async with followed(path) as (given, events, taken):
        fresh = write_pem(tmp_path / "next.pem", good := issued_leaf(A))
        fresh.chmod(0o644)
        fresh.replace(path)
        await looked_again(given, path)
        assert "chmod 600" in failures(events)[0]
        path.chmod(0o600)
        await until(lambda: taken)
    assert taken[0].chain == good.chain


async def test_a_file_that_is_gone_keeps_the_old_one_and_may_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    async with followed(path) as (given, events, taken):
        path.rename(tmp_path / "aside.pem")
        await looked_again(given, path)
        (tmp_path / "aside.pem").rename(path)
        await looked_again(given, path)
        assert len(failures(events)) == 1
        assert taken == []
    assert complaints(caplog) == ["certificate_kept"]


async def test_a_key_of_another_certificate_or_no_names_keep_the_old_one(tmp_path: Path) -> None:
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    one, other = issued_leaf(A), issued_leaf(A)
    async with followed(path) as (given, events, taken):
        for bad in (Leaf(private_key=one.private_key, chain=other.chain, path=path, fingerprint="", names=()),):
            write_pem(path, bad)
            await looked_again(given, path)
        write_pem(path, issued_leaf())
        await looked_again(given, path)
        assert taken == []
    reasons = failures(events)
    assert [("is not that of" in reasons[0]), ("for no host name" in reasons[1])] == [True, True]


async def test_one_that_has_ended_does_not_take_the_place_of_one_that_has_not(tmp_path: Path) -> None:
    """HOST-06: the line has both times."""
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A))
    async with followed(path) as (given, events, taken):
        write_pem(path, issued_leaf(A, days=(-60, -1)))
        await looked_again(given, path)
        assert taken == []
    (reason,) = failures(events)
    assert "the certificate ended at " in reason
    assert "the clock of this machine says " in reason


@pytest.mark.parametrize("days", [(-60, -1), (3_652, 3_700)], ids=["ended", "not-begun"])
async def test_one_outside_its_period_is_shown_at_the_start_with_an_alarm(
    days: tuple[int, int], tmp_path: Path
) -> None:
    """HOST-06: the clock of this machine may be what is wrong; a good one takes its place."""
    path = write_pem(tmp_path / "mine.pem", issued_leaf(A, days=days))
    async with followed(path) as (_given, events, taken):
        await until(lambda: any(isinstance(event, Alarm) for event in events))
        write_pem(path, issued_leaf(A))
        await until(lambda: taken)
    (alarm,) = [event for event in events if isinstance(event, Alarm)]
    assert alarm.code == "certificate-expiring"
    assert "the clock of this machine says " in alarm.text


async def test_links_that_are_exchanged_are_a_change(tmp_path: Path) -> None:
    """As certbot and Kubernetes do it."""
    first, second = issued_leaf(A), issued_leaf(A)
    write_pem(tmp_path / "1.pem", first)
    write_pem(tmp_path / "2.pem", second)
    link = tmp_path / "live.pem"
    link.symlink_to(tmp_path / "1.pem")
    async with followed(link) as (given, _events, taken):
        assert given.leaf.chain == first.chain
        (tmp_path / "next").symlink_to(tmp_path / "2.pem")
        (tmp_path / "next").rename(link)
        await until(lambda: taken)
    assert taken[0].chain == second.chain


def test_at_the_start_a_bad_file_is_an_error_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "mine.pem").write_text("garbage")
    (tmp_path / "mine.pem").chmod(0o600)
    with pytest.raises(ConfigError, match="holds no private key") as caught:
        Given(tmp_path / "mine.pem", ignore_events)
    assert caught.value.key == "agent.cert_pem"
    with pytest.raises(ConfigError, match="there is no file"):
        Given(tmp_path / "none.pem", ignore_events)
