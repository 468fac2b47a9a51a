"""A relay is replaced by another process while visitors come: nobody is refused, nobody's bytes are lost."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

import pytest
import trio

from tests.e2e.downloads import PausingOrigin, begin_download
from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import PATIENCE, Agent, Programs, Relay
from tests.e2e.visitors import curl, get, open_visit, read_to_end

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="sockets are handed over on Linux")

AT_A_TIME = 4
RESTARTS = 3


@dataclass
class Visitors:
    """A few at a time, all the time, each on a connection of its own."""

    agent: Agent
    served: int = 0
    failures: list[str] = field(default_factory=list)
    enough: bool = False
    _news: trio.Event = field(default_factory=trio.Event)

    async def keep_coming(self) -> None:
        """Visit until `enough`; returns once the last one has gone."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(self._come_again)

    async def _come_again(self) -> None:
        while not self.enough:
            await self._visit()

    async def _visit(self) -> None:
        try:
            with trio.fail_after(PATIENCE):
                visit = await open_visit(self.agent.site)
                try:
                    await visit.send_all(get(self.agent.site))
                    answer = await read_to_end(visit)
                finally:
                    await trio.aclose_forcefully(visit)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            self.failures.append(repr(exc))
        else:
            if b"200 OK" in answer:
                self.served += 1
            else:
                self.failures.append(repr(answer))
        self._news.set()

    async def more(self, count: int = 20) -> None:
        """Wait until so many more were served, or one was not."""
        wanted = self.served + count
        with trio.fail_after(PATIENCE):
            while self.served < wanted and not self.failures:
                self._news = trio.Event()
                await self._news.wait()


def ports_of(relay: Relay) -> tuple[str, ...]:
    return ("--api-port", relay.server.rpartition(":")[2], "--pub-port", str(relay.port))


async def take_over(programs: Programs, relay: Relay) -> Relay:
    """Start a relay that takes the place of *relay*; returns once it listens."""
    taking = await programs.serve("--takeover", *ports_of(relay))
    assert (await taking.program.event("taken_over"))["pid"] == relay.program.pid
    return taking


@pytest.mark.parametrize("transport", ["auto", "h2", "quic"])
async def test_nobody_is_refused_while_relays_replace_each_other(
    programs: Programs, nursery: trio.Nursery, transport: str
) -> None:
    """Three times under steady visitors; each relay ends with 0 by itself, and is gone before the next."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, greet), relay, "--transport", transport)
    visitors = Visitors(agent)
    async with trio.open_nursery() as visiting:
        visiting.start_soon(visitors.keep_coming)
        await visitors.more()
        for _ in range(RESTARTS):
            before, relay = relay, await take_over(programs, relay)
            await visitors.more()
            assert await before.program.ended() == 0
            assert not [record for record in before.program.events if record["event"] == "visitor_refused"]
        visitors.enough = True
    assert visitors.failures == []


@pytest.mark.parametrize(
    "flags", [(), ("--transport", "h2", "--data", "session"), ("--transport", "quic", "--data", "session")]
)
async def test_a_download_goes_on_through_the_old_relay(
    programs: Programs, nursery: trio.Nursery, flags: tuple[str, ...]
) -> None:
    """To its last byte, on whatever road it is, while new visitors go through the new relay."""
    origin = PausingOrigin()
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, origin.serve), relay, *flags)
    download = await begin_download(agent, nursery)
    second = await take_over(programs, relay)
    third = await take_over(programs, second)
    assert await second.program.ended() == 0
    await third.program.event("session_opened")
    assert relay.program.status is None
    origin.go_on.set()
    await download.succeeds()
    assert await relay.program.ended() == 0
    assert await curl(agent.site)


async def test_a_hangup_starts_the_next_relay(programs: Programs, nursery: trio.Nursery) -> None:
    """With the same command line; the old process ends with 0, the new one serves until it is stopped."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, greet), relay)
    relay.program.process.send_signal(signal.SIGHUP)
    assert (await relay.program.event("taken_over"))["pid"] == relay.program.pid
    started = await relay.program.logged("takeover_started")
    try:
        await relay.program.event("session_opened")  # the second one: both write to the same pipe
        await relay.program.event("session_opened")
        assert await curl(agent.site)
    finally:
        os.kill(int(started.rpartition("pid=")[2]), signal.SIGTERM)
    assert await relay.program.ended() == 0
