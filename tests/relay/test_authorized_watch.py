"""Following the authorised file: changes count, accidents do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from trunnel.identity import filewatch
from trunnel.names import KeyId
from trunnel.relay.authorized import AuthorizedAgents, authorize, load_authorized, load_if_there, revoke
from trunnel.relay.authorized_watch import AuthorizedWatch

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

    def run(self, nursery: trio.Nursery, path: Path, *, needed: bool = True) -> AuthorizedWatch:
        def note(agents: AuthorizedAgents) -> None:
            self.lists.append(ids(agents))

        initial = load_authorized(path) if needed else load_if_there(path)
        watch = AuthorizedWatch(path, initial, note, needed=needed)
        nursery.start_soon(partial(watch.run, poll=0.02))
        return watch


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
    look = filewatch.look

    def noting_look(path: Path) -> filewatch.Identity:
        identity = look(path)
        sizes.append(-1 if identity is None else identity[1])
        return identity

    monkeypatch.setattr(filewatch, "look", noting_look)
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


async def test_a_file_that_is_not_needed_may_come_later(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A relay that lets everybody in has no list until an invitation makes one."""
    caplog.set_level(logging.ERROR)
    watch = Watch()
    async with trio.open_nursery() as nursery:
        await watch.run(nursery, path, needed=False).refresh()
        authorize(path, A)
        await watch.until(lambda: watch.lists)
        nursery.cancel_scope.cancel()
    assert watch.lists == [{A}]
    assert not caplog.records


async def test_a_change_of_our_own_is_in_force_when_refresh_returns(path: Path) -> None:
    put(path, f"{A}\n")
    lists: list[set[KeyId]] = []
    watch = AuthorizedWatch(path, load_authorized(path), lambda agents: lists.append(ids(agents)))
    authorize(path, B)
    await watch.refresh()
    assert lists == [{A, B}]
    await watch.refresh()
    assert lists == [{A, B}], "nothing new, nothing said"
