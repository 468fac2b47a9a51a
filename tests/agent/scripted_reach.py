"""The ways to a relay by script, as `reach.Reach` without files and threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import trio

from trunnel.agent.choices import Outcome
from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.names import ServerAddress
from trunnel.transports.race import Chosen
from trunnel.transports.selection import TransportKind

if TYPE_CHECKING:
    from tests.agent.far_relay import FarRelay


@dataclass
class ScriptedReach:
    """The ways to a relay by script, as `reach.Reach` without files and threads."""

    relay: FarRelay
    server: ServerAddress = ServerAddress("relay.example", 443)  # noqa: RUF009 - it does not change
    automatic: bool = False
    tcp: TransportKind | None = TransportKind.H2
    kind: TransportKind = TransportKind.H2
    """What `first` leads to."""
    passed_over: TransportKind | None = None
    due: float = 0.0
    """What `quic_due` says."""
    round_trip: float | None = None
    noted: list[tuple[TransportKind, bool]] = field(default_factory=list)
    noted_direct: list[str] = field(default_factory=list)
    """What was noted of data connections: why they failed, or an empty text."""
    remembered: Outcome | None = None
    """What is remembered of data connections."""

    wanted = "anything"

    @property
    def dialler(self) -> FarRelay:
        return self.relay

    async def first(self) -> Chosen[Carrier]:
        carrier = await self.relay.dial(self.kind)
        return Chosen(transport=self.kind, value=carrier, why="by script", passed_over=self.passed_over)

    async def note(self, outcomes: Mapping[TransportKind, bool]) -> None:
        await trio.lowlevel.checkpoint()
        self.noted += outcomes.items()

    async def quic_due(self) -> float:
        await trio.lowlevel.checkpoint()
        return self.due

    async def note_direct(self, failure: str) -> None:
        await trio.lowlevel.checkpoint()
        self.noted_direct.append(failure)

    async def recall_direct(self) -> Outcome | None:
        await trio.lowlevel.checkpoint()
        return self.remembered

    def as_reach(self) -> Reach:
        """Return itself as what it stands for."""
        return cast("Reach", self)
