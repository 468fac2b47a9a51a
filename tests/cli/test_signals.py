"""Signals: the first drains, the second ends at once, and no exception lands anywhere."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from trunnel.cli.signals import Drainable, obey_signals
from trunnel.settings import limits

PATIENCE = 3600.0
"""Virtual or unneeded seconds: a shield in a test has a deadline too."""

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="a signal to oneself ends a process on Windows")

Body = Callable[["Running"], Awaitable[None]]


class Running:
    """A service that notes what it was asked."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.asked = trio.Event()

    def drain(self, reason: str) -> None:
        """Note the wish."""
        self.reasons.append(reason)
        self.asked.set()


def never(status: int) -> None:
    """Fail: the service was not stuck."""
    raise AssertionError(f"called stuck with {status}")


async def obey(body: Body, running: Running, *, stuck: Callable[[int], None] = never) -> int:
    """Obey signals around a service that is started at once and then runs *body*."""

    async def service(task_status: trio.TaskStatus[Drainable]) -> None:
        task_status.started(running)
        await body(running)

    return await obey_signals(service, stuck=stuck)


async def return_at_once(_: Running) -> None:
    """Have nothing to do."""
    await trio.lowlevel.checkpoint()


async def drained_by(number: signal.Signals, running: Running) -> None:
    """Signal once, finish when asked to."""
    signal.raise_signal(number)
    await running.asked.wait()


async def deaf_to_the_first(number: signal.Signals, running: Running) -> None:
    """Signal, wait for the wish to drain, signal again and go on."""
    await drained_by(number, running)
    signal.raise_signal(number)
    await trio.sleep_forever()


async def test_without_a_signal_it_is_as_long_as_the_service() -> None:
    running = Running()
    assert await obey(return_at_once, running) == 0
    assert running.reasons == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_drains_and_the_status_is_0(number: signal.Signals) -> None:
    running = Running()
    assert await obey(partial(drained_by, number), running) == 0
    assert running.reasons == [number.name]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_the_second_signal_cancels_and_names_itself(number: signal.Signals, status: int) -> None:
    running = Running()
    assert await obey(partial(deaf_to_the_first, number), running) == status
    assert running.reasons == [number.name]


async def test_a_signal_while_starting_ends_it_with_0() -> None:
    """There is nothing to finish yet."""
    cancelled = False

    async def service(task_status: trio.TaskStatus[Drainable]) -> None:
        nonlocal cancelled
        signal.raise_signal(signal.SIGTERM)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled = True
            raise

    assert await obey_signals(service, stuck=never) == 0
    assert cancelled


async def test_a_service_that_starts_in_spite_of_a_signal_is_drained_at_once() -> None:
    """The start is shielded; when it is over, the wish is passed on."""
    running = Running()

    async def service(task_status: trio.TaskStatus[Drainable]) -> None:
        with trio.move_on_after(PATIENCE, shield=True):
            signal.raise_signal(signal.SIGTERM)
            await trio.testing.wait_all_tasks_blocked()
            task_status.started(running)

    await obey_signals(service, stuck=never)
    assert running.reasons == ["SIGTERM"]


async def test_a_service_that_does_not_end_is_stuck_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    statuses: list[int] = []
    times: list[float] = []
    ended = trio.Event()

    def stuck(status: int) -> None:
        statuses.append(status)
        times.append(trio.current_time())
        ended.set()

    async def body(running: Running) -> None:
        signal.raise_signal(signal.SIGTERM)
        await running.asked.wait()
        times.append(trio.current_time())
        signal.raise_signal(signal.SIGTERM)
        with trio.move_on_after(PATIENCE, shield=True):
            await ended.wait()

    assert await obey(body, Running(), stuck=stuck) == 143
    assert statuses == [143]
    assert times[1] - times[0] == pytest.approx(limits.STOP_NOW)


async def test_what_the_service_raises_gets_out_and_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def body(_: Running) -> None:
        raise LookupError("gone")

    with pytest.RaisesGroup(pytest.RaisesGroup(LookupError)):
        await obey(body, Running())
    assert signal.getsignal(signal.SIGTERM) == before
