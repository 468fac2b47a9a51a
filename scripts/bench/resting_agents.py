"""Many agents that nobody visits, in one process: `python -m scripts.bench.resting_agents PORT RELAY_ID COUNT FOLDER`.

Each is the product's agent with a key of its own, over one HTTP/2 carrier,
visitors' bytes in the session: what is measured is what an attached agent
costs its relay.  Prints how many are connected, twice a second.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import trio

from scripts.rows.herd_agents import SOURCE, SOURCES, Sources, origin
from trunnel.agent.agent import Agent
from trunnel.events import Connected, Disconnected, Event
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId, ServerAddress
from trunnel.settings.agent import AgentSettings, DataChoice, TransportChoice
from trunnel.streams.nursery import bare_nursery

RAMP = 0.02
"""Seconds from the start of one agent to the start of the next."""
REPORT = 0.5


async def live(agent: Agent, source: str) -> None:
    """Run one agent."""
    SOURCE.set(source)
    await agent.supervisors[0].run()


async def main(port: str, relay_id: str, count: int, folder: Path) -> None:
    """Run *count* agents until killed."""
    trio.socket.set_custom_socket_factory(Sources())
    settings = AgentSettings(
        state_dir=folder,
        servers=(ServerAddress.parse(f"127.0.0.1:{port}"),),
        relay_pin=KeyId.parse(relay_id),
        transport=TransportChoice.H2,
        data=DataChoice.SESSION,
        tls_passthrough=True,
    )
    connected: set[int] = set()

    def hear(number: int, event: Event) -> None:
        if isinstance(event, Connected):
            connected.add(number)
        elif isinstance(event, Disconnected):
            connected.discard(number)

    async with bare_nursery() as nursery:
        for number in range(count):
            agent = Agent(origin, settings, IdentityKey.generate(), on_event=partial(hear, number))
            nursery.start_soon(live, agent, f"127.0.6.{number % SOURCES + 1}")
            await trio.sleep(RAMP)
        while True:
            print(len(connected), flush=True)
            await trio.sleep(REPORT)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
