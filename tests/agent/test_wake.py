"""Lost time is noticed: sleep, SIGSTOP, a clock that was set; and a busy machine is not taken for one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trunnel.agent.wake import ClockSample, ClockWatch, Jump, JumpKind, read_clocks, watch_clock
from trunnel.settings import limits

TICK = limits.CLOCK_TICK
SLEPT, STALLED, SET = JumpKind.SLEPT, JumpKind.STALLED, JumpKind.SET


@dataclass
class Machine:
    """Three clocks and what may happen to them."""

    loop: float = 100.0
    boot: float = 9_000.0
    wall: float = 1_800_000_000.0

    def run(self, seconds: float) -> None:
        self.loop += seconds
        self.boot += seconds
        self.wall += seconds

    def sleep(self, seconds: float) -> None:
        self.boot += seconds
        self.wall += seconds

    def sample(self) -> ClockSample:
        return ClockSample(loop=self.loop, boot=self.boot, wall=self.wall)


def observe(*steps: tuple[float, float, float]) -> list[tuple[JumpKind, float] | None]:
    """Return what is reported after each step of (seconds run, seconds slept, seconds the clock is set by)."""
    machine, watch = Machine(), ClockWatch()
    assert watch.observe(machine.sample()) is None
    reported: list[tuple[JumpKind, float] | None] = []
    for ran, slept, set_by in steps:
        machine.run(ran)
        machine.sleep(slept)
        machine.wall += set_by
        jump = watch.observe(machine.sample())
        reported.append(None if jump is None else (jump.kind, round(jump.seconds, 3)))
    return reported


# --- the comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "reported"),
    [
        ((TICK, 0, 0), None),
        ((TICK + 5, 0, 0), None),
        ((TICK + 5.1, 0, 0), (STALLED, 5.1)),
        ((TICK + 300, 0, 0), (STALLED, 300.0)),
        ((TICK, 5, 0), None),
        ((TICK, 5.1, 0), (SLEPT, 5.1)),
        ((TICK, 28_800, 0), (SLEPT, 28_800.0)),
        ((TICK + 60, 30, 0), (SLEPT, 30.0)),
        ((TICK, 0, 5), None),
        ((TICK, 0, 5.1), (SET, 5.1)),
        ((TICK, 0, -3_600), (SET, -3_600.0)),
        ((TICK, 60, -3_600), (SLEPT, 60.0)),
        ((0.5, 0, 0), None),
    ],
)
def test_what_is_reported_between_two_looks(
    step: tuple[float, float, float], reported: tuple[JumpKind, float] | None
) -> None:
    assert observe(step) == [reported]


def test_a_jump_is_reported_once() -> None:
    assert observe((TICK, 60, 0), (TICK, 0, 0), (TICK, 0, 0)) == [(SLEPT, 60.0), None, None]
    assert observe((TICK, 0, 60), (TICK, 0, 0)) == [(SET, 60.0), None]


def test_naps_add_up() -> None:
    """Three of 2 s each part the clocks by 6 s: the relay has waited as long."""
    assert observe((TICK, 2, 0), (TICK, 2, 0), (TICK, 2, 0), (TICK, 2, 0)) == [None, None, (SLEPT, 6.0), None]


def test_a_clock_that_is_corrected_bit_by_bit_is_not_reported() -> None:
    assert observe(*[(TICK, 0, 1)] * 100) == [None] * 100


def test_a_stop_between_the_reads_of_two_clocks_does_not_hide_a_later_sleep() -> None:
    """The loop's clock is read first; SIGSTOP may come right after."""
    watch = ClockWatch()
    machine = Machine()
    watch.observe(machine.sample())
    machine.run(TICK)
    stopped = ClockSample(loop=machine.loop, boot=machine.boot + 300, wall=machine.wall + 300)
    assert watch.observe(stopped) == Jump(kind=SLEPT, seconds=300.0)
    machine.run(300 + TICK)
    assert watch.observe(machine.sample()) is None
    machine.run(TICK)
    machine.sleep(60)
    assert watch.observe(machine.sample()) == Jump(kind=SLEPT, seconds=60.0)


@given(st.lists(st.tuples(st.floats(TICK, TICK + 4.9), st.floats(-4.9, 4.9)), max_size=50))
def test_a_busy_machine_with_a_clock_that_is_adjusted_is_never_reported(steps: list[tuple[float, float]]) -> None:
    assert set(observe(*[(ran, 0.0, set_by) for ran, set_by in steps])) <= {None}


@given(st.floats(5.1, 1e7), st.floats(0, 4))
def test_a_sleep_is_always_reported(slept: float, late: float) -> None:
    ((kind, seconds),) = [report for report in observe((TICK + late, slept, 0)) if report is not None]
    assert kind is SLEPT
    assert seconds == pytest.approx(slept, abs=0.01)


# --- the task ------------------------------------------------------------------------------------


class Laptop:
    """A machine whose loop's clock is trio's, and that can sleep."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.jumps: list[tuple[float, Jump]] = []

    def clocks(self) -> ClockSample:
        now = trio.current_time()
        return ClockSample(loop=now, boot=now + self.slept, wall=now + self.slept)

    def note(self, jump: Jump) -> None:
        self.jumps.append((trio.current_time(), jump))


async def test_a_sleep_is_noticed_within_5_s_of_waking(autojump_clock: trio.testing.MockClock) -> None:
    """NET-06, in virtual time: the lid is closed at any moment between two looks, for 5 minutes."""
    laptop = Laptop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch_clock(laptop.note, clocks=laptop.clocks))
        for _ in range(20):
            await trio.sleep(60 + 0.1)
            woken = trio.current_time()
            laptop.slept += 300
            await trio.sleep(5)
            noticed, jump = laptop.jumps.pop()
            assert jump.kind is SLEPT
            assert jump.seconds == pytest.approx(300)
            assert noticed - woken <= 5
            assert laptop.jumps == []
        nursery.cancel_scope.cancel()


async def test_a_stop_is_noticed_though_all_clocks_went_on(mock_clock: trio.testing.MockClock) -> None:
    """SIGSTOP for 5 minutes, then SIGCONT: the tick comes late, and that is the sign."""
    jumps: list[Jump] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch_clock(jumps.append, clocks=Laptop().clocks))
        for passed in (TICK, TICK, 300 + TICK, TICK):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(passed)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (jump,) = jumps
    assert jump.kind is STALLED
    assert jump.seconds == pytest.approx(300)


async def test_an_hour_without_events_reports_nothing(autojump_clock: trio.testing.MockClock) -> None:
    laptop = Laptop()
    with trio.move_on_after(3600):
        await watch_clock(laptop.note, clocks=laptop.clocks)
    assert laptop.jumps == []


async def test_the_real_clocks_agree_over_a_short_time() -> None:
    before = read_clocks()
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    after = read_clocks()
    passed = after.loop - before.loop
    assert passed > 0
    assert after.boot - before.boot == pytest.approx(passed, abs=1)
    assert after.wall - before.wall == pytest.approx(passed, abs=1)
