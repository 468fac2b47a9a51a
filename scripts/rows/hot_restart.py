"""HOST-02: a relay that is replaced five times while 500 visitors come each second.

A visitor is as little as it can be, so that there can be so many: a ClientHello,
and the answer of an origin behind an agent that passes TLS through.  It has
failed if it could not connect, was reset, heard an alert, or anything but the
whole answer.  As with `hey`, so many are under way at most (`CROWD`): where the
machine is too slow for the rate, they come more slowly, and all of them come.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import statistics
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from scripts.rows.lab import Agent, Lab, laboratory
from scripts.rows.load import raise_descriptor_limit
from scripts.rows.registry import PACE, Outcome, row

RATE = 500
SECONDS = 60.0
RESTARTS = 5
SOURCES = 40
"""Addresses that visitors come from: limits for one address are another row's affair."""
ANSWER = b"answer of the origin, all of it"
TICK = 0.01
DESCRIPTORS = 8_192
CROWD = 500
GIVE_UP = 30.0
WHOLE_HELLO = 65_536


def hello_for(hostname: str) -> bytes:
    """Return a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=hostname).do_handshake()
    return outgoing.read()


@dataclass
class Crowd:
    """Visitors at a rate, and what became of them."""

    lab: Lab
    hello: bytes
    begun: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each that was answered."""
    failures: Counter[str] = field(default_factory=Counter)
    _room: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(CROWD))
    _news: trio.Event = field(default_factory=trio.Event)

    async def until(self, count: int) -> None:
        """Wait until so many have come."""
        while self.begun < count:
            self._news = trio.Event()
            await self._news.wait()

    async def come(self, count: int) -> None:
        """Send *count* visitors, `RATE` a second."""
        async with trio.open_nursery() as nursery:
            due = trio.current_time()
            while self.begun < count:
                await self._room.acquire_on_behalf_of(self.begun)
                nursery.start_soon(self._visit, self.begun)
                self.begun += 1
                self._news.set()
                due = max(due + 1 / RATE, trio.current_time() - TICK)
                await trio.sleep_until(due)

    async def _visit(self, number: int) -> None:
        began = trio.current_time()
        answer = b""
        try:
            with trio.fail_after(GIVE_UP):
                async with await self.lab.connect(source=f"127.0.4.{number % SOURCES + 1}") as stream:
                    await stream.send_all(self.hello)
                    while chunk := await stream.receive_some(1024):
                        answer += chunk
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            self.failures[repr(exc.__cause__ or exc)] += 1
            return
        finally:
            self._room.release_on_behalf_of(number)
        if answer == ANSWER:
            self.seconds.append(trio.current_time() - began)
        else:
            self.failures[f"answered {answer[:20]!r}"] += 1


class Relays:
    """The relay that serves now, and those before it: each is started by its forerunner's SIGHUP."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.pid = lab.relay.pid

    async def replace(self) -> float:
        """Have the relay replaced; returns the seconds until the next one serves."""
        began = trio.current_time()
        seen = len(self._lab.relay.events)
        os.kill(self.pid, signal.SIGHUP)
        await self._lab.relay.event("taken_over", after=seen, pid=self.pid)
        self.pid = self._started()[-1]
        return trio.current_time() - began

    def _started(self) -> list[int]:
        """Return the processes that relays have started to follow them: their log says so."""
        return [int(pid) for pid in re.findall(r"takeover_started pid=(\d+)", (self._lab.folder / "log").read_text())]

    def stop(self) -> None:
        """Ask the last one to stop; its forerunners have ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


async def start_site(lab: Lab) -> Agent:
    """Start the origin and the agent before it."""
    listening = await lab.start([sys.executable, "-m", "scripts.rows.hot_restart"]).event("listening")
    return await lab.start_agent(int(str(listening["port"])), "--tls-passthrough")


@row(
    "HOST-02",
    limit=f"0 of {RATE * SECONDS:.0f} refused, reset or alerted over {RESTARTS} restarts at {RATE} visitors a second",
    timeout=900.0,
)
async def hot_restarts() -> Outcome:
    """Replace the relay under a steady crowd."""
    count = PACE.either(int(RATE * SECONDS), int(RATE * SECONDS) // 10)
    restarts = PACE.either(RESTARTS, 1)
    raise_descriptor_limit(DESCRIPTORS)
    took: list[float] = []
    async with laboratory() as lab:
        await lab.start_relay(nofile=DESCRIPTORS)
        agent = await start_site(lab)
        crowd = Crowd(lab, hello_for(agent.hostname))
        relays = Relays(lab)
        try:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crowd.come, count)
                for number in range(restarts):
                    await crowd.until(count * (number + 1) // (restarts + 1))
                    took.append(await relays.replace())
            rate = count / (trio.current_time() - began)
        finally:
            relays.stop()
    ordered = sorted(crowd.seconds)
    reasons = "".join(f"; {count} {reason}" for reason, count in crowd.failures.most_common(3))
    figure = (
        f"{crowd.failures.total()} of {crowd.begun} failed over {len(took)} restarts{reasons}; {rate:.0f} a second; "
        f"the next relay serves {statistics.median(took):.1f} s after SIGHUP (worst {max(took):.1f}); "
        f"visitors answered in {1000 * statistics.median(ordered):.0f} ms "
        f"(p99 {ordered[int(len(ordered) * 0.99)]:.2f} s, worst {ordered[-1]:.2f} s)"
    )
    return Outcome(not crowd.failures and crowd.begun == count, figure)


async def answer_hellos() -> None:
    """Be the origin: read once, answer, end."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(WHOLE_HELLO)
            await stream.send_all(ANSWER)
            await stream.send_eof()
            await stream.receive_some(1)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1_024)
    print(json.dumps({"event": "listening", "port": listeners[0].socket.getsockname()[1]}), flush=True)
    await trio.serve_listeners(serve, listeners)


if __name__ == "__main__":
    trio.run(answer_hellos)
