"""Following the authorised file: changes count, accidents do not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from trunnel import capabilities
from trunnel.names import KeyId
from trunnel.relay import authorized_watch
from trunnel.relay.authorized import AuthorizedAgents, authorize, load_authorized, revoke
from trunnel.relay.authorized_watch import watch_authorized

A, B = (KeyId.of_spki(spki) for spki in (b"a", b"b"))


def ids(agents: AuthorizedAgents) -> set[KeyId]:
    return set(agents.agents)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a file in a folder of its own."""
    tmp_path.chmod(0o700)
    return tmp_path / "agents"


def put(path: Path, text: str | None) -> None:
    """Write *path* in place as an editor does, or remove it."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


class Watch:
    """A watcher at work, and what it reported."""

    def __init__(self) -> None:
        self.lists: list[set[KeyId]] = []

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds: files change in real time, outside of trio."""
        with trio.fail_after(5):
            while not condition():
                await trio.testing.wait_all_tasks_blocked(0.005)

    def run(self, nursery: trio.Nursery, path: Path) -> None:
        initial = load_authorized(path)

        async def watch() -> None:
            await watch_authorized(path, initial, lambda agents: self.lists.append(ids(agents)), poll=0.02)

        nursery.start_soon(watch)


async def test_a_change_is_noticed(path: Path) -> None:
    """CONS-03: within a second with the real interval."""
    put(path, f"{A}\n")
    watch = Watch()
    async with trio.open_nursery() as nursery:
        watch.run(nursery, path)
        authorize(path, B)
        await watch.until(lambda: watch.lists)
        revoke(path, A)
        await watch.until(lambda: len(watch.lists) == 2)
        nursery.cancel_scope.cancel()
    assert watch.lists == [{A, B}, {B}]


async def test_a_change_of_comments_is_no_change(path: Path) -> None:
    put(path, f"{A}\n")
    watch = Watch()
    async with trio.open_nursery() as nursery:
        watch.run(nursery, path)
        put(path, f"# people\n{A}\n")
        authorize(path, B)
        await watch.until(lambda: watch.lists)
        nursery.cancel_scope.cancel()
    assert watch.lists == [{A, B}]


async def test_a_broken_or_vanished_file_keeps_the_last_good_list(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each change is logged once, and a mended file is taken again."""
    caplog.set_level(logging.ERROR)
    put(path, f"{A}\n")
    watch = Watch()
    async with trio.open_nursery() as nursery:
        watch.run(nursery, path)
        put(path, "nonsense\n")
        await watch.until(lambda: len(caplog.records) == 1)
        put(path, None)
        await watch.until(lambda: len(caplog.records) == 2)
        put(path, f"{A}\n{B}\n")
        await watch.until(lambda: watch.lists)
        nursery.cancel_scope.cancel()
    assert watch.lists == [{A, B}]
    assert [record.message for record in caplog.records] == ["authorized_agents_kept"] * 2


async def test_a_file_that_is_being_written_revokes_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor truncates first; the empty moment must not be taken for the list."""
    sizes: list[int] = []
    look = authorized_watch._look

    def noting_look(path: Path) -> tuple[int, int, int] | None:
        identity = look(path)
        sizes.append(-1 if identity is None else identity[1])
        return identity

    monkeypatch.setattr(authorized_watch, "_look", noting_look)
    put(path, f"{A}\n")
    watch = Watch()
    async with trio.open_nursery() as nursery:
        watch.run(nursery, path)
        await watch.until(lambda: len(sizes) > 1)
        put(path, "")
        await watch.until(lambda: 0 in sizes)
        put(path, f"{A}\n{B}\n")
        await watch.until(lambda: watch.lists)
        nursery.cancel_scope.cancel()
    assert watch.lists == [{A, B}]


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="inodes")
def test_the_identity_of_a_file_knows_its_inode(path: Path) -> None:
    """`cp -p` and configuration tools keep size and time; a new file is a change all the same."""
    put(path, f"{A}\n")
    before, times = authorized_watch._look(path), path.stat()
    other = path.with_name("other")
    put(other, f"{B}\n")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    after = authorized_watch._look(path)
    assert before is not None
    assert after is not None
    assert before[1:] == after[1:]
    assert before != after
    put(path, None)
    assert authorized_watch._look(path) is None
