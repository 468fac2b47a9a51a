"""The workers of one program: started, chosen, killed, replaced, absent."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.pump.stage import (
    Stage,
    needs_workers,
    open_descriptors,
    pattern,
    read_exactly,
    read_to_end,
    send_until_stuck,
    stage,
    until,
    worker_of,
)
from trunnel import capabilities
from trunnel.pump import Way, Workers, open_workers, supervisor
from trunnel.pump.dispatch import Dispatch
from trunnel.settings import limits
from trunnel.streams.copy import End

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]


async def serves_by_copy(workers: Workers) -> None:
    """A stream is served, by a copy."""
    async with stage(workers) as play:
        await play.is_moving()
        await play.visitor.send_eof()
        await play.origin.send_eof()
        await play.done.wait()
        assert play.outcome is not None
        assert play.outcome.way is Way.COPY
        assert play.outcome.left_end is play.outcome.right_end is End.FIN


async def died(workers: Workers, pid: int) -> None:
    """Wait until worker *pid* works no more."""
    await until(lambda: pid not in {employed.process.pid for employed in workers.employed})


# --- death ------------------------------------------------------------------------------------


async def test_a_killed_worker_takes_only_its_own_streams_down(caplog: pytest.LogCaptureFixture) -> None:
    """Their peers see RST, never FIN; the result says ERROR; counts survive; it is replaced, and logged."""
    async with open_workers(2) as workers, stage(workers) as doomed, stage(workers) as other:
        upload = pattern(1, 300_000)
        await doomed.is_moving()
        await other.is_moving()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doomed.visitor.send_all, upload)
            assert await read_exactly(doomed.origin, len(upload)) == upload
        await until(lambda: doomed.counter.figures() == (len(upload) + 1, 1))  # counted a turn at a time
        first, second = workers.employed
        assert (first.load, second.load) == (1, 1)
        with caplog.at_level(logging.ERROR, logger=supervisor.__name__):
            first.process.kill()
            assert await read_to_end(doomed.visitor) == (b"", End.RESET)
            assert await read_to_end(doomed.origin) == (b"", End.RESET)
            outcome = await doomed.result()
        assert (outcome.left_end, outcome.right_end) == (End.ERROR, End.ERROR)
        assert (outcome.left_bytes, outcome.right_bytes) == (len(upload) + 1, 1) == doomed.counter.figures()
        assert outcome.seconds > 0

        await other.is_moving()
        await until(lambda: len(workers.employed) == 2)
        (record,) = [each for each in caplog.records if each.message == "pump_worker_died"]
        assert record.__dict__["pid"] == first.process.pid
        assert record.__dict__["status"] == -signal.SIGKILL
        assert first.process.pid not in {employed.process.pid for employed in workers.employed}
        async with stage(workers) as later:  # the new one has the least to do
            await later.is_moving()
            assert sorted(employed.load for employed in workers.employed) == [1, 1]


async def half_closed(play: Stage) -> None:
    await play.visitor.send_eof()
    assert await play.origin.receive_some() == b""


async def stuck(play: Stage) -> None:
    await send_until_stuck(play.origin, bytes(4_000_000))


@pytest.mark.parametrize("scene", [half_closed, stuck])
async def test_a_killed_worker_leaves_no_stream_that_looks_ended(scene: object) -> None:
    """Whatever the stream was doing: what was on the way is cut off with RST."""
    assert callable(scene)
    async with open_workers(1) as workers, stage(workers, narrow=True) as play:
        await play.is_moving()
        await scene(play)
        worker_of(workers).process.kill()
        assert (await read_to_end(play.visitor))[1] is End.RESET
        if scene is stuck:
            assert (await read_to_end(play.origin))[1] is End.RESET
        assert (await play.result()).left_end is End.ERROR


async def test_while_a_worker_is_replaced_the_copy_serves() -> None:
    async with open_workers(1) as workers:
        worker = worker_of(workers)
        worker.process.kill()
        await died(workers, worker.process.pid)
        await serves_by_copy(workers)
        await until(lambda: len(workers.employed) == 1)
        async with stage(workers) as play:
            await play.is_moving()
            assert worker_of(workers).load == 1


async def test_a_worker_that_is_replaced_leaves_no_descriptor() -> None:
    async with open_workers(1) as workers:
        had = open_descriptors()
        for _ in range(2):
            worker = worker_of(workers)
            worker.process.kill()
            await died(workers, worker.process.pid)
            del worker  # it has the counts that it left
            await until(lambda: len(workers.employed) == 1)
        assert open_descriptors() == had


async def test_a_worker_that_takes_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped: nobody keeps the deadlines of its streams, so none may hang on it."""
    monkeypatch.setattr(limits, "PUMP_STUCK", 0.1)
    monkeypatch.setattr(limits, "PUMP_CANCEL_WAIT", 0.1)
    async with open_workers(1) as workers, stage(workers) as old:
        await old.is_moving()
        worker_of(workers).process.send_signal(signal.SIGSTOP)
        async with stage(workers) as new:
            for play in (old, new):
                assert await read_to_end(play.visitor) == (b"", End.RESET)
                assert (await play.result()).left_end is End.ERROR
        await until(lambda: len(workers.employed) == 1)
        async with stage(workers) as later:
            await later.is_moving()


async def test_a_worker_that_works_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PUMP_STUCK", 0.02)
    monkeypatch.setattr(limits, "PUMP_CANCEL_WAIT", 0.2)
    async with open_workers(1) as workers:
        worker = worker_of(workers)
        for _ in range(20):
            async with stage(workers) as play:
                await play.is_moving()
        assert worker_of(workers) is worker


async def test_a_stream_that_is_cancelled_is_not_looked_for_among_those_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker has it.  Thousands that are cancelled together would each look through the others' orders."""
    looked_for: list[int] = []

    def note(_dispatch: Dispatch, stream: int) -> None:
        looked_for.append(stream)

    monkeypatch.setattr(Dispatch, "withdraw", note)
    async with open_workers(1) as workers, stage(workers) as play:
        await play.is_moving()
        await until(lambda: play.left.socket.fileno() < 0)  # it has said so
        await play.cancel()
    assert not looked_for


# --- absence ----------------------------------------------------------------------------------


async def test_without_splice_there_are_no_workers_and_the_copy_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_PUMP", False)
    async with open_workers(2) as workers:
        assert workers.employed == ()
        await serves_by_copy(workers)


@pytest.mark.parametrize("program", ["absent", "no worker"])
async def test_where_no_worker_starts_that_is_logged_and_the_copy_serves(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The executable is not there, or is something else."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent") if program == "absent" else "/bin/true")
    with caplog.at_level(logging.WARNING, logger=supervisor.__name__):
        async with open_workers(1) as workers:
            assert workers.employed == ()
            await serves_by_copy(workers)
    assert "pump_worker_cannot_start" in {record.message for record in caplog.records}


async def test_before_the_workers_work_the_copy_serves() -> None:
    """`wait=False`: nobody waits for processes to start."""
    async with open_workers(1, wait=False) as workers:
        assert workers.employed == ()
        await serves_by_copy(workers)
        await until(lambda: len(workers.employed) == 1)


async def test_none_at_all_are_fine() -> None:
    async with open_workers(0) as workers:
        await serves_by_copy(workers)


# --- choice and end ---------------------------------------------------------------------------


async def test_one_worker_a_core() -> None:
    async with open_workers() as workers:
        assert len(workers.employed) == len(os.sched_getaffinity(0))


async def test_the_least_busy_worker_is_chosen() -> None:
    async with open_workers(2) as workers, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(linger, workers)
        await until(lambda: sum(worker.load for worker in workers.employed) == 6)
        assert [worker.load for worker in workers.employed] == [3, 3]
        nursery.cancel_scope.cancel()


async def linger(workers: Workers) -> None:
    async with stage(workers) as play:
        await play.is_moving()
        await trio.sleep_forever()


async def test_at_the_end_the_workers_are_gone_and_their_streams_reset() -> None:
    async with trio.open_nursery() as nursery:
        async with open_workers(1) as workers:
            play = await nursery.start(stays_open, workers)
            process = worker_of(workers).process
        assert process.returncode is not None
        for peer in (play.visitor, play.origin):
            assert await read_to_end(peer) == (b"", End.RESET)
        await play.done.wait()
        nursery.cancel_scope.cancel()


async def stays_open(workers: Workers, *, task_status: trio.TaskStatus[Stage]) -> None:
    async with stage(workers) as play:
        await play.is_moving()
        task_status.started(play)
        await trio.sleep_forever()
