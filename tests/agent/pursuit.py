"""A supervisor that runs against a relay by script."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from tests.agent.far_relay import HELLO, FarRelay, listen
from tests.agent.scripted_reach import ScriptedReach
from tests.tunnels import Log
from trunnel.agent.served import Served
from trunnel.agent.supervisor import Supervisor
from trunnel.errors import TrunnelError
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import ServerAddress
from trunnel.settings.agent import AgentSettings

KEY = IdentityKey.generate()
SERVER = ServerAddress("relay.example", 443)


@dataclass
class Pursuit:
    """A supervisor that runs, and what came of it."""

    supervisor: Supervisor
    reach: ScriptedReach
    log: Log
    served: Served
    ended: trio.Event = field(default_factory=trio.Event)
    failure: TrunnelError | None = None

    def kinds(self) -> list[str]:
        """Return the kinds of the events so far, in their order."""
        return [event.kind for event in self.log.events]


@asynccontextmanager
async def pursuit(
    relay: FarRelay, folder: Path, script: dict[str, object] | None = None, **options: object
) -> AsyncIterator[Pursuit]:
    """Run a supervisor; TLS is passed through, so that no key is made in a thread while time is virtual."""
    log = Log()
    options.setdefault("servers", (SERVER,))
    options.setdefault("tls_passthrough", True)
    settings = AgentSettings(state_dir=folder, **options)  # type: ignore[arg-type]
    served = Served(settings, LeafStore(folder / "leaf", KEY), origin=listen, on_event=log)
    reach = ScriptedReach(relay, **(script or {}))  # type: ignore[arg-type]
    supervisor = Supervisor(reach.as_reach(), settings, key_id=KEY.key_id, hello=HELLO, served=served)
    running = Pursuit(supervisor, reach, log, served)

    async def run() -> None:
        try:
            await supervisor.run()
        except TrunnelError as exc:
            running.failure = exc
        running.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield running
        nursery.cancel_scope.cancel()
