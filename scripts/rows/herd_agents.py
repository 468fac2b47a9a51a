"""Many agents in one process: `python -m scripts.rows.herd_agents SERVER RELAY_ID COUNT TRANSPORT FOLDER`.

Each is an `Agent` of ours with a key of its own, made in memory, that runs its
supervisor: dialling, backoff, heartbeats, canaries, carriers are the product's.
What it lacks is what belongs to a machine and not to an agent: the watch of
clocks and addresses, which here would be thousands of the same.  TCP comes
from `SOURCES` addresses, 127.0.6.1 and so on, in turn; UDP from 127.0.0.1.

Prints the number that is connected twice a second, with the attempts, the
refusals and the CPU seconds until then; at `SIGUSR1` counting begins anew.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
import time
from collections import Counter
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import trio

from trunnel.agent.agent import Agent
from trunnel.agent.visitor import VisitorInfo
from trunnel.events import Connected, Connecting, Disconnected, Event, RejectedByRelay
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId, ServerAddress
from trunnel.settings.agent import AgentSettings, TransportChoice
from trunnel.streams.nursery import bare_nursery

SOURCES = 4
RAMP = 0.03
"""Seconds from the start of one agent to the start of the next: a herd that gathers is not what is measured."""
REPORT = 0.5
REASONS = 60
"""Characters of a reason that are kept."""

SOURCE: ContextVar[str] = ContextVar("SOURCE")
"""The address that the running agent's connections come from."""


class Sources(trio.abc.SocketFactory):
    """Makes TCP sockets that are bound to the running agent's address."""

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - trio's name
        proto: int = 0,
    ) -> trio.socket.SocketType:
        """Make a socket."""
        sock = socket.socket(family, type, proto)
        if family == socket.AF_INET and type == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((SOURCE.get(), 0))
        return trio.socket.from_stdlib_socket(sock)


class Herd:
    """The agents of this process, and what happened to them."""

    def __init__(self) -> None:
        self.connected: set[int] = set()
        self.rejected = 0
        self.attempts: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()

    def hear(self, number: int, event: Event) -> None:
        """Take an event of one agent."""
        match event:
            case Connecting():
                self.attempts[number] += 1
            case Connected():
                self.connected.add(number)
            case Disconnected(reason=reason):
                self.connected.discard(number)
                self.reasons[reason[:REASONS]] += 1
            case RejectedByRelay():
                self.connected.discard(number)
                self.rejected += 1
            case _:
                pass

    def report(self) -> None:
        """Print where we are."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        attempts = sorted(self.attempts.values()) or [0]
        state = {
            "event": "herd",
            "connected": len(self.connected),
            "rejected": self.rejected,
            "attempts": sum(attempts),
            "attempts_p50": attempts[len(attempts) // 2],
            "attempts_max": attempts[-1],
            "cpu": used.ru_utime + used.ru_stime,
            "at": time.monotonic(),
            "reasons": self.reasons.most_common(4),
        }
        print(json.dumps(state), flush=True)

    def begin_anew(self) -> None:
        """Forget what was counted."""
        self.rejected = 0
        self.attempts.clear()
        self.reasons.clear()


async def origin(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
    """Serve a visitor: there are none."""
    del visitor
    await stream.aclose()


async def live(agent: Agent, source: str) -> None:
    """Run one agent."""
    SOURCE.set(source)
    await agent.supervisors[0].run()


async def main(server: str, relay_id: str, count: int, transport: str, folder: Path) -> None:
    """Run *count* agents until killed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.socket.set_custom_socket_factory(Sources())
    settings = AgentSettings(
        state_dir=folder,
        servers=(ServerAddress.parse(server),),
        relay_pin=KeyId.parse(relay_id),
        transport=TransportChoice(transport),
        tls_passthrough=True,
    )
    herd = Herd()
    async with bare_nursery() as nursery:
        nursery.start_soon(recount, herd)
        nursery.start_soon(report, herd)
        for number in range(count):
            agent = Agent(origin, settings, IdentityKey.generate(), on_event=partial(herd.hear, number))
            nursery.start_soon(live, agent, f"127.0.6.{number % SOURCES + 1}")
            await trio.sleep(RAMP)


async def report(herd: Herd) -> None:
    """Report for ever."""
    while True:
        herd.report()
        await trio.sleep(REPORT)


async def recount(herd: Herd) -> None:
    """Begin anew whenever we are told to."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            herd.begin_anew()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
