"""A visitor in a worker's hands whose session ends, or whose worker dies, at each stage of its life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
import trio.testing

from tests.agent.offloading import ALPN, Offloading, offloading, with_workers
from tests.agent.stage import NAME, origin_of, visit_over
from tests.pump.stage import open_descriptors
from tests.streams.bench import read_to_end
from tests.tunnels import until
from trunnel.agent.origin import Origin
from trunnel.errors import ConnectError
from trunnel.events import OriginState
from trunnel.names import Target
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End

Stage = Literal["handshake", "dialling", "page", "moving"]
at_each_stage = pytest.mark.parametrize("stage", ["handshake", "dialling", "page", "moving"])


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes; visitors are cut off here."""
    try:
        while chunk := await stream.receive_some():
            await stream.send_all(chunk)
        await stream.aclose()
    except trio.BrokenResourceError:
        abort_stream(stream)


@asynccontextmanager
async def stalled_origin() -> AsyncIterator[Origin]:
    """An origin that answers no connection: its queue, of one, is full."""
    listener = trio.socket.socket()
    with listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port):
            yield Origin(Target(host="127.0.0.1", port=port), connect_timeout=0.5)


@asynccontextmanager
async def visitor_at(stage: Stage) -> AsyncIterator[tuple[Offloading, trio.SocketStream]]:
    """A visitor that has come as far as *stage*, and its socket."""
    async with (
        origin_of(echo) as echoing,
        stalled_origin() as stalled,
        offloading({"dialling": stalled, "page": None}.get(stage, echoing)) as play,
    ):
        stream = await play.take()
        if stage != "handshake":
            visitor = await visit_over(stream, NAME, *ALPN)
            if stage == "moving":
                await visitor.send_all(b"hello")
                assert await visitor.receive_some() == b"hello"
            if stage == "page":
                await until(lambda: any(isinstance(event, OriginState) for event in play.events))
        await until(lambda: play.load == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield play, stream


@with_workers
@at_each_stage
async def test_the_end_of_the_session_resets_the_visitor(stage: Stage) -> None:
    """Never FIN, and one record; the worker is none the worse."""
    async with visitor_at(stage) as (play, stream):
        (worker,) = play.workers.employed
        assert play.records == []
        play.visits[0].cancel()
        assert (await read_to_end(stream))[1] is End.RESET
        record = await play.closed()
        await until(lambda: play.load == 0)
        assert play.workers.employed == (worker,)
    assert record.visitor_end == "cancelled"
    assert record.origin_end == ("error" if stage == "page" else "cancelled")


@with_workers
@at_each_stage
async def test_a_visitor_whose_worker_dies_is_reset_and_later_ones_are_served(stage: Stage) -> None:
    """Its key and its state are gone: there is nobody who could go on with it."""
    async with visitor_at(stage) as (play, stream):
        (worker,) = play.workers.employed
        worker.process.kill()
        assert (await read_to_end(stream))[1] is End.RESET
        record = await play.closed()
        assert record.origin_end == ("cancelled" if stage == "handshake" else "error")
        await until(lambda: play.workers.employed)
        later = await play.visit(*ALPN)
        await until(lambda: play.load == 1)
        later.abort()


@with_workers
async def test_cancelled_at_any_moment_nothing_is_left_open() -> None:
    """On neither side, whoever has the visitor at that moment."""
    async with origin_of(echo) as origin, offloading(origin) as play:
        (worker,) = play.workers.employed
        await cancel_after(10_000, play)  # the first one imports what it needs
        await until(lambda: play.load == 0)
        await trio.testing.wait_all_tasks_blocked(0.05)  # the session's end may still have to close its copy
        ours, theirs = open_descriptors(), open_descriptors(worker.process.pid)
        for power in range(11):
            for ticks in (2**power, 3 * 2**power // 2):
                await cancel_after(ticks, play)
        await until(lambda: play.load == 0)
        await until(lambda: open_descriptors() <= ours and open_descriptors(worker.process.pid) <= theirs)
        assert play.workers.employed == (worker,)
        assert len(play.records) <= len(play.visits)


async def cancel_after(ticks: int, play: Offloading) -> None:
    """End the session of a visitor so many ticks after it was taken."""
    stream = await play.take()

    async def visit() -> None:
        try:
            visitor = await visit_over(stream, NAME, *ALPN)
            await visitor.send_all(b"hello")
            while await visitor.receive_some():
                pass
        except (ConnectError, trio.BrokenResourceError):
            pass
        abort_stream(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        play.visits[-1].cancel()
