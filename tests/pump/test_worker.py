"""The worker process: small, idle when nothing moves, deaf to signals, gone when its channel is."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.pump.stage import (
    Stage,
    block,
    cpu_ticks,
    hired,
    needs_workers,
    pattern,
    read_exactly,
    read_to_end,
    reset_after,
    send_until_stuck,
    stage,
    until,
    wakeups,
    worker_of,
)
from trunnel.pump import worker
from trunnel.pump.orders import REPORT_SIZE, SLOT_SIZE, decode_reports
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]

PROGRAM = Path(worker.__file__)
MEASURED = 0.4
"""Seconds in which a worker that should rest is watched."""
WAKEUPS_MAX = 3
"""How often it may wake in that time."""
PRIVATE_MAX = 6 * 1024
RESIDENT_MAX = 16 * 1024
"""KiB of memory of an idle worker."""


# --- it rests ---------------------------------------------------------------------------------


async def rests(pid: int) -> None:
    """Fail unless process *pid*, once the last bytes have found their place, sleeps and uses < 1 % of a core."""
    for _ in range(20):
        woken = wakeups(pid)
        with block(0.1):
            await trio.sleep_forever()
        if wakeups(pid) == woken:
            break
    ticks, woken = cpu_ticks(pid), wakeups(pid)
    with block(MEASURED):
        await trio.sleep_forever()
    assert wakeups(pid) - woken <= WAKEUPS_MAX
    assert cpu_ticks(pid) - ticks <= 1


async def stuck_both_ways(play: Stage) -> None:
    """Neither peer reads."""
    await send_until_stuck(play.origin, bytes(4_000_000))
    await send_until_stuck(play.visitor, bytes(4_000_000))


async def ended_and_not_read(play: Stage) -> None:
    """The origin ends and is stuck: its FIN lies behind bytes that the visitor does not read."""
    await send_until_stuck(play.origin, bytes(400_000))
    await play.origin.send_eof()


async def half_closed_then_reset(play: Stage) -> None:
    """The visitor's bytes are over, the origin is silent: the visitor's RST comes with an empty mask."""
    await play.visitor.send_eof()
    assert await play.origin.receive_some() == b""
    abort_stream(play.visitor)


async def stuck_then_reset(play: Stage) -> None:
    """The origin does not read, and the visitor whose bytes are stuck has gone."""
    reset_after(play.visitor, await send_until_stuck(play.visitor, bytes(4_000_000)))


async def idle(play: Stage) -> None:
    """Nothing is wrong, and nothing moves."""
    await play.is_moving()


async def urgent(play: Stage) -> None:
    """Urgent data in the middle of bulk: `splice` stops before it for ever."""
    await play.visitor.send_all(bytes(300_000))
    await read_exactly(play.origin, 300_000)
    await play.visitor.socket.send(b"!", socket.MSG_OOB)


@pytest.mark.parametrize(
    "scene", [stuck_both_ways, ended_and_not_read, half_closed_then_reset, stuck_then_reset, idle, urgent]
)
async def test_streams_that_do_not_move_cost_no_processor_time(scene: object) -> None:
    """One socket with HUP in an empty mask would burn a whole core; at most 1 % may be used."""
    assert callable(scene)
    async with hired() as workers, stage(workers, narrow=True) as play:
        await play.is_moving()
        await scene(play)
        await rests(worker_of(workers).process.pid)
        assert not play.done.is_set(), "the scene was meant to last"


async def test_a_worker_full_of_stalled_streams_rests_and_serves_others() -> None:
    """More of them than it has pipes: those wait unread, and a canary beside them is served."""
    count = limits.PUMP_PIPES + 8
    async with hired() as workers, AsyncExitStack() as stack:
        for _ in range(count):
            play = await stack.enter_async_context(stage(workers, narrow=True))
            await send_until_stuck(play.origin, bytes(1_000_000), quiet=0.02)
        canary = await stack.enter_async_context(stage(workers))
        song = pattern(7, 700_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(canary.visitor.send_all, song)
            assert await read_exactly(canary.origin, len(song)) == song
        await rests(worker_of(workers).process.pid)


async def test_urgent_data_does_not_stop_bulk() -> None:
    """The byte out of band is not part of the stream (RFC 9293, section 3.8.5); all others arrive, on either way.

    It is less than 64 KiB ahead: the urgent pointer has 16 bits, and beyond them Linux points at another byte.
    """
    before, after = pattern(1, 60_000), pattern(2, 300_000)
    for way in ("worker", "copy"):
        async with hired(way) as workers, stage(workers) as play, trio.open_nursery() as nursery:

            async def speak(visitor: trio.SocketStream = play.visitor) -> None:
                await visitor.send_all(before)
                await visitor.socket.send(b"!", socket.MSG_OOB)
                await visitor.send_all(after)
                await visitor.send_eof()

            nursery.start_soon(speak)
            assert await read_to_end(play.origin) == (before + after, End.FIN)


async def test_a_worker_is_small() -> None:
    async with hired() as workers, stage(workers) as play:
        await play.is_moving()
        rollup = await trio.Path(f"/proc/{worker_of(workers).process.pid}/smaps_rollup").read_text(encoding="ascii")
        sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        assert sizes["Private_Clean:"] + sizes["Private_Dirty:"] <= PRIVATE_MAX
        assert sizes["Rss:"] <= RESIDENT_MAX


# --- the process ------------------------------------------------------------------------------


def start(*, descriptors: int | None = None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker by hand; returns it and our end of its channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shared = os.memfd_create("counts")
    os.ftruncate(shared, 64 * SLOT_SIZE)

    def confine() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno()), str(shared), "4"],
        pass_fds=(theirs.fileno(), shared),
        preexec_fn=confine,  # noqa: PLW1509 - no threads here
    )
    theirs.close()
    os.close(shared)
    ours.settimeout(10)
    return process, ours


def test_it_ends_when_its_channel_does_and_not_by_signals() -> None:
    """SIGINT and SIGTERM are for the supervisor."""
    process, channel = start()
    with channel:
        assert decode_reports(channel.recv(REPORT_SIZE))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        channel.send(b"\2" + bytes(39))  # CANCEL, of a stream that is none
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.wait(10) == 0


@pytest.mark.parametrize(("descriptors", "streams"), [(32, 0), (72, 0), (74, 1), (272, 100)])
def test_it_says_how_many_streams_it_has_descriptors_for(descriptors: int, streams: int) -> None:
    """Two a stream, two a pipe and a reserve; with hardly any it takes no stream, and lives."""
    process, channel = start(descriptors=descriptors)
    with channel:
        (report,) = decode_reports(channel.recv(REPORT_SIZE))
        assert report.left_bytes == streams == (max(0, descriptors - worker.RESERVE - 2 * 4) // 2)
    assert process.wait(10) == 0


def test_it_claims_the_descriptors_that_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the hard limit."""
    claimed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 4000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: claimed.append(both))
    assert worker.capacity(32) == (4000 - worker.RESERVE - 64) // 2
    assert claimed == [(4000, 4000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, resource.RLIM_INFINITY))
    assert worker.capacity(32) == (1000 - worker.RESERVE - 64) // 2


def test_it_imports_nothing_but_the_standard_library_and_what_says_so() -> None:
    """No site-packages, no trio, no keys: that is what makes it small, and harmless."""
    told = "import sys; sys.path.append(sys.argv[1]); import trunnel.pump.loop; print(*sys.modules)"
    root = PROGRAM.parents[2]
    output = subprocess.run([sys.executable, "-I", "-S", "-c", told, root], capture_output=True, check=True, text=True)
    loaded = output.stdout.split()
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"__main__", "trunnel"}
    assert foreign == set()
    ours = {name for name in loaded if name.startswith("trunnel.")}
    assert ours == {f"trunnel.{name}" for name in ("pump", *(f"pump.{each}" for each in WORKERS_MODULES))}
    for module in WORKERS_MODULES:
        assert "Imported by workers" in (PROGRAM.parent / f"{module}.py").read_text(encoding="utf-8")


WORKERS_MODULES = ("flow", "loop", "orders", "pipes", "pumped", "sides")


async def test_the_end_of_the_supervisor_resets_everybody() -> None:
    """A relay that is killed: its workers see the end of the channel, and their streams must not look ended."""
    async with hired() as workers, stage(workers) as play:
        await play.is_moving()
        employed = worker_of(workers)
        employed._channel.shutdown(socket.SHUT_RDWR)
        assert (await read_to_end(play.visitor), await read_to_end(play.origin)) == ((b"", End.RESET), (b"", End.RESET))
        await until(lambda: employed.dead)
