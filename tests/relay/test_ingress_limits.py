"""The front door under pressure: caps, short descriptors, errors of accept, drain."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial

import pytest
import trio
import trio.testing

from tests.relay.house import AGENT, VISITOR, House, Recorder, dial, house, until
from trunnel import capabilities
from trunnel.relay import ingress
from trunnel.relay.admission import Admission, AdmissionLimits, Room
from trunnel.relay.ingress import Entrance, serve
from trunnel.streams.listen import HostPort, TcpListener, open_listeners


async def test_beyond_the_half_open_cap_a_connection_is_reset_at_once() -> None:
    """LOAD-02: RST within 100 ms, and a place that becomes free is given again."""
    async with house(caps=AdmissionLimits(half_open_per_address=256)) as built, trio.open_nursery() as nursery:
        held = [await built.dial() for _ in range(256)]
        await until(lambda: built.admission.half_open.total == 256)
        worst = 0.0

        async def beyond() -> None:
            nonlocal worst
            begun = trio.current_time()
            assert await built.ask(b"") is None
            worst = max(worst, trio.current_time() - begun)

        for _ in range(20):
            nursery.start_soon(beyond)
        await until(lambda: len(nursery.child_tasks) == 0)
        assert worst < 0.1
        for stream in held:
            await stream.aclose()
        await until(lambda: built.admission.half_open.total == 0)
        assert await built.ask(VISITOR) == b"visitor"


async def test_a_visitor_with_its_hello_is_no_longer_half_open_but_an_agent_is() -> None:
    async with house() as built:
        built.doors.stay = trio.Event()
        async with await built.dial(VISITOR), await built.dial(AGENT):
            await until(lambda: built.doors.visitors and built.doors.agents)
            assert built.doors.visitors[0][0].slot.released
            assert built.admission.half_open.total == 1
            built.doors.agents[0][0].slot.release()
            assert built.admission.half_open.total == 0


async def test_visitors_are_refused_before_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """LOAD-05: what is left is for agents, then for nobody."""
    async with house() as built:
        monkeypatch.setattr(ingress, "room_for", lambda *_: Room.SCARCE)
        assert await built.ask(VISITOR) is None
        assert await built.ask(AGENT) == b"agent"
        assert built.doors.verdicts == ["descriptors"]
        monkeypatch.setattr(ingress, "room_for", lambda *_: Room.NONE)
        assert await built.ask(AGENT) is None
        monkeypatch.setattr(ingress, "room_for", lambda *_: Room.AMPLE)
        assert await built.ask(VISITOR) == b"visitor"


@dataclass
class TroubledListener:
    """A listener whose accept fails a few times before each success."""

    inner: TcpListener
    errors: list[int]

    @property
    def address(self) -> HostPort:
        return self.inner.address

    @property
    def closed(self) -> bool:
        return self.inner.closed

    def fileno(self) -> int:
        return self.inner.fileno()

    def close(self) -> None:
        self.inner.close()

    async def wait_readable(self) -> None:
        await self.inner.wait_readable()

    def accept_nowait(self) -> tuple[trio.socket.SocketType, HostPort] | None:
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, "as if")
        return self.inner.accept_nowait()


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPERM, errno.EIO]
)
async def test_the_accept_loop_survives_every_error(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """It rests where resources are short, goes on at once else, and logs at most once a second."""
    (listener,) = open_listeners(["127.0.0.1"], 0)
    doors = Recorder()
    troubled = TroubledListener(listener, [number] * 3)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve([Entrance(troubled)], admission=Admission(), doors=doors)

        nursery.start_soon(run)
        built = House(listener, doors, Admission())
        assert await built.ask(VISITOR) == b"visitor"
        listener.close()  # ends `serve`: nothing else has to be cancelled
    is_noise = number in (errno.ECONNABORTED, errno.EPERM)
    assert len([record for record in caplog.records if record.message == "accept_failed"]) == (0 if is_noise else 1)


STARVED = """
import resource, socket, sys, logging
import trio
from trunnel.relay.admission import Admission, AdmissionLimits
from trunnel.relay.ingress import Entrance, serve
from trunnel.streams.listen import open_listeners

logging.basicConfig(level="WARNING", stream=sys.stderr)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))

class Doors:
    async def agent(self, arrival): await self.echo(arrival)
    async def visitor(self, arrival, hello, raw): await self.echo(arrival)
    async def echo(self, arrival):
        if not arrival.consumed and arrival.role == "agents":
            await arrival.stream.receive_some()
        await arrival.stream.send_all(b"in")
        async for chunk in arrival.stream:
            await arrival.stream.send_all(chunk)
    async def data(self, arrival, *, scarce): return False
    def refused(self, arrival, verdict): pass

async def main():
    (listener,) = open_listeners(["127.0.0.1"], 0)
    print(listener.address[1], flush=True)
    await serve([Entrance(listener)], admission=Admission(AdmissionLimits(half_open_per_address=9999)), doors=Doors())

trio.run(main)
"""


@pytest.mark.may_skip(reason="RLIMIT_NOFILE is POSIX")
@pytest.mark.skipif(not capabilities.HAS_RLIMIT, reason="no RLIMIT_NOFILE here")
async def test_a_starved_process_keeps_whom_it_has() -> None:
    """LOAD-05 in small: 128 descriptors, 200 visitors; the agent and a visitor there before never notice."""
    command = [sys.executable, "-c", STARVED, "128"]
    async with trio.open_nursery() as nursery, AsyncExitStack() as streams:
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(run)
        assert process.stdout is not None
        address = ("127.0.0.1", int(await process.stdout.receive_some()))
        kept = [await streams.enter_async_context(await dial(address, opening)) for opening in (AGENT, VISITOR)]
        for stream in kept:
            assert await stream.receive_some() == b"in"
        async with AsyncExitStack() as crowd:
            for _ in range(200):
                with suppress(trio.BrokenResourceError):
                    await crowd.enter_async_context(await dial(address))
            assert all([await echoes(stream) for stream in kept])
        with trio.fail_after(1):  # accept resumes within a second of release
            while not await answers(address, VISITOR):
                await trio.testing.wait_all_tasks_blocked(0.02)
        assert all([await echoes(stream) for stream in kept])
        assert process.returncode is None
        nursery.cancel_scope.cancel()


async def echoes(stream: trio.SocketStream) -> bool:
    """Return whether a connection still works."""
    with trio.fail_after(2):
        await stream.send_all(b"?")
        return await stream.receive_some() == b"?"


async def answers(address: HostPort, opening: bytes) -> bool:
    """Return whether a new connection is let in."""
    try:
        async with await dial(address, opening) as newcomer:
            return await newcomer.receive_some() == b"in"
    except trio.BrokenResourceError:
        return False


async def test_a_flood_of_refusals_is_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with house(caps=AdmissionLimits(half_open_per_address=1)) as built, await built.dial():
        await until(lambda: built.admission.half_open.total == 1)
        for _ in range(20):
            assert await built.ask(b"") is None
    assert len([record for record in caplog.records if record.message == "connection_refused"]) == 1


async def test_one_silent_connection_delays_nobody() -> None:
    """STYLE: never a handshake in the accept loop."""
    async with house() as built:
        silent = [await built.dial(VISITOR[:30]) for _ in range(30)]
        with trio.fail_after(1):
            assert await built.ask(VISITOR) == b"visitor"
        for stream in silent:
            await stream.aclose()


async def test_closing_the_listeners_ends_serve_when_the_last_connection_has_ended() -> None:
    """HOST-01: a drain stops accepting and lets streams finish."""
    (listener,) = open_listeners(["127.0.0.1"], 0)
    doors = Recorder(stay=trio.Event())
    built = House(listener, doors, Admission())
    ended = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve([Entrance(listener)], admission=built.admission, doors=doors)
            ended.set()

        nursery.start_soon(run)
        async with await built.dial(VISITOR) as stream:
            assert await stream.receive_some() == b"visitor"
            listener.close()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(*listener.address)
            assert not ended.is_set()
            assert doors.stay is not None
            doors.stay.set()
            with trio.fail_after(1):
                await ended.wait()
