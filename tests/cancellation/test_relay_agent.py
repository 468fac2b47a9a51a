"""Cancel a whole relay and a whole tunnel: while they start, once they are ready, with a visitor under way.

Whatever happens: no task and no socket is left, and the key can be used again at once.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trunnel
from tests.tunnels import PATIENCE, Gate, Log, greet, house, until, visit
from trunnel.events import Disconnected, SessionEnded, SessionOpened
from trunnel.identity.locking import lock_key
from trunnel.settings import limits
from trunnel.settings.agent import TransportChoice

STEPS_MAX = 1_000
"""Steps of all tasks within which each start must have come to its end."""


@dataclass(eq=False)
class Steps(trio.abc.Instrument):
    """Cancels *scope* before step number *at*, whichever task takes it."""

    at: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.at == 0:
            self.scope.cancel()
        self.at -= 1


@pytest.fixture(autouse=True)
def only_new_objects() -> Iterator[None]:
    """Let the collector overlook what was there before the test, so that a look at all objects is quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def sessions_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the relay wait a moment, not half a minute, for the next carrier of a session that has lost its last."""
    monkeypatch.setattr(limits, "ADOPTION_TIMEOUT", 0.1)


def open_sockets() -> set[int]:
    """Return every socket that this test has made and that is open."""
    found: set[int] = set()
    for each in gc.get_objects():
        if issubclass(type(each), socket.socket) and each.fileno() != -1:
            found.add(each.fileno())
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that the body leaves no task and no socket behind."""
    tasks, sockets = trio.lowlevel.current_statistics().tasks_living, open_sockets()
    yield
    assert trio.lowlevel.current_statistics().tasks_living == tasks, "a task is left"
    assert open_sockets() <= sockets, "a socket is left open"


def assert_unlocked(settings: trunnel.AgentSettings) -> None:
    """Check that nobody holds the agent's key."""
    with lock_key(settings.key_path, purpose="a test"):
        pass


def relay_settings(folder: Path) -> trunnel.RelaySettings:
    return trunnel.RelaySettings(state_dir=folder, bind_addrs=("127.0.0.1",), api_port=0, pub_port=0)


async def cancelled_at(step: int, run: Callable[[], Awaitable[object]]) -> bool:
    """Run *run*, cancelled before step number *step* of anything; return whether it came to that."""
    steps = Steps(step)
    trio.lowlevel.add_instrument(steps)
    try:
        with trio.fail_after(PATIENCE), steps.scope:
            await run()
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.scope.cancelled_caught


def test_an_open_socket_is_seen() -> None:
    """What the other tests rely on."""
    before = open_sockets()
    with socket.socket() as one:
        assert open_sockets() - before == {one.fileno()}
    assert open_sockets() == before


# --- the relay ----------------------------------------------------------------------------------


async def test_a_relay_cancelled_at_any_step_of_its_start_leaves_nothing(tmp_path: Path) -> None:
    async def start() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(trunnel.serve_relay, relay_settings(tmp_path))
            nursery.cancel_scope.cancel()

    step, cancelled = 0, True
    while cancelled:
        assert step < STEPS_MAX, "the relay did not come to its end"
        with nothing_left():
            cancelled = await cancelled_at(step, start)
        step += 1
    assert step > 1


async def test_a_relay_cancelled_when_ready_leaves_nothing(tmp_path: Path) -> None:
    """Its ports refuse connections at once."""
    with nothing_left():
        async with trio.open_nursery() as nursery:
            relay: trunnel.BoundRelay = await nursery.start(trunnel.serve_relay, relay_settings(tmp_path))
            nursery.cancel_scope.cancel()
        for port in (relay.agents_port, relay.visitors_port):
            with pytest.raises(OSError, match="all attempts"):
                await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_relay_cancelled_with_a_visitor_under_way_resets_it(tmp_path: Path) -> None:
    """The agent learns of it, and its key is free once it ends, too."""
    gate = Gate()
    with nothing_left():
        async with house(tmp_path) as home, trio.open_nursery() as others:
            scope = trio.CancelScope()
            log = Log()

            async def serve(task_status: trio.TaskStatus[trunnel.BoundRelay]) -> None:
                with scope:
                    await trunnel.serve_relay(
                        relay_settings(tmp_path / "doomed"), on_event=log, task_status=task_status
                    )

            doomed: trunnel.BoundRelay = await others.start(serve)
            settings = home.agent_settings(servers=(trunnel.ServerAddress("localhost", doomed.agents_port),))
            async with trunnel.open_tunnel(gate.serve, settings=settings) as tunnel:
                visitor = await visit(doomed.visitors_port, f"{tunnel.agent_id}.localhost")
                await gate.entered.wait()
                assert await visitor.receive_some() == b"in"
                scope.cancel()
                with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                    await visitor.receive_some()
                visitor.abort()
                await log.wait(SessionEnded)
            assert_unlocked(settings)


# --- the agent ----------------------------------------------------------------------------------


async def test_a_tunnel_cancelled_at_any_step_of_its_start_leaves_nothing(tmp_path: Path) -> None:
    """The relay forgets it, and the next one with the same key begins."""
    async with house(tmp_path) as home:
        settings = home.agent_settings()
        await trio.testing.wait_all_tasks_blocked()  # the relay's tasks have all begun

        async def start() -> None:
            async with trunnel.open_tunnel(greet, settings=settings):
                pass

        step = 0
        while await _leaves_nothing_at(step, start, home.log):
            assert_unlocked(settings)
            step += 1 + step // 16  # every step at first, then ever fewer
            assert step < STEPS_MAX, "the tunnel did not come to its end"
        assert step > 1
        async with trunnel.open_tunnel(greet, settings=settings) as tunnel:
            hostname = f"{tunnel.agent_id}.localhost"
            assert await home.ask(hostname) == hostname.encode()


async def _leaves_nothing_at(step: int, start: Callable[[], Awaitable[object]], log: Log) -> bool:
    """Cancel *start* before *step*; return whether it came to that."""
    sockets, tasks = open_sockets(), trio.lowlevel.current_statistics().tasks_living
    cancelled = await cancelled_at(step, start)
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)  # the relay's end of it, too
    await until(lambda: open_sockets() <= sockets)
    assert len(log.of(SessionEnded)) == len(log.of(SessionOpened))
    return cancelled


async def _run_tunnel(
    gate: Gate, settings: trunnel.AgentSettings, *, task_status: trio.TaskStatus[trunnel.Tunnel]
) -> None:
    async with trunnel.open_tunnel(gate.serve, settings=settings) as tunnel:
        task_status.started(tunnel)
        await trio.sleep_forever()


async def test_a_tunnel_cancelled_when_ready_leaves_nothing(tmp_path: Path) -> None:
    with nothing_left():
        async with house(tmp_path) as home:
            settings = home.agent_settings()
            async with trio.open_nursery() as nursery:
                await nursery.start(_run_tunnel, Gate(), settings)
                nursery.cancel_scope.cancel()
            assert_unlocked(settings)
            await home.log.wait(SessionEnded)


async def test_a_tunnel_cancelled_with_a_visitor_under_way_resets_it(tmp_path: Path) -> None:
    """Never an end in order, which would look like the whole answer."""
    with nothing_left():
        async with house(tmp_path) as home:
            settings = home.agent_settings()
            async with trio.open_nursery() as nursery:
                tunnel: trunnel.Tunnel = await nursery.start(_run_tunnel, Gate(), settings)
                visitor = await home.visit(f"{tunnel.agent_id}.localhost")
                assert await visitor.receive_some() == b"in"
                nursery.cancel_scope.cancel()
            assert_unlocked(settings)
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await visitor.receive_some()
            visitor.abort()
            await home.log.wait(SessionEnded)


async def test_an_agent_cancelled_while_it_waits_for_its_relay_leaves_nothing(tmp_path: Path) -> None:
    """Nobody answers there: it waits between two attempts."""
    with socket.socket() as unused, nothing_left():
        unused.bind(("127.0.0.1", 0))
        server = trunnel.ServerAddress("127.0.0.1", unused.getsockname()[1])
        settings = trunnel.AgentSettings(state_dir=tmp_path, servers=(server,), transport=TransportChoice.H2)
        log = Log()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(_enter, settings, log))
                await log.wait(Disconnected, 2)
                scope.cancel()
        assert_unlocked(settings)


async def _enter(settings: trunnel.AgentSettings, log: Log) -> None:
    async with trunnel.open_tunnel(greet, settings=settings, on_event=log):
        pytest.fail("there is no relay")
