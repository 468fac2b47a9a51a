"""How one relay is reached: which transports, in what order, and what is remembered of each.

Between the policy (`transports.selection`), the race (`transports.race`), what
the file of choices remembers for this network (`choices`), and the dialling
(`dial`).  Whether a transport worked is noted once a session came of it: a
handshake alone proves little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import trio

from trunnel.agent.choices import DIRECT, Choices, Outcome
from trunnel.agent.dial import Carrier, Dialler
from trunnel.agent.network import fingerprint
from trunnel.clock import utc_now
from trunnel.names import ServerAddress
from trunnel.settings.agent import TransportChoice
from trunnel.transports.race import Chosen, follow
from trunnel.transports.selection import Plan, Remembered, TransportKind, plan, quic_wait

_TCP: Final = frozenset({TransportKind.H2, TransportKind.YAMUX})


@final
@dataclass(slots=True)
class Reach:
    """The ways to one relay."""

    dialler: Dialler
    choice: TransportChoice
    choices: Choices
    round_trip: float | None = None
    """Seconds, as measured last; None before that."""

    @property
    def server(self) -> ServerAddress:
        """The relay."""
        return self.dialler.server

    @property
    def automatic(self) -> bool:
        """Whether both QUIC and TCP may carry the session."""
        return self.choice is TransportChoice.AUTO and self.dialler.via is None

    @property
    def tcp(self) -> TransportKind | None:
        """The transport of TCP carriers, or None if there are to be none."""
        match self.choice:
            case TransportChoice.QUIC:
                return None
            case TransportChoice.YAMUX:
                return TransportKind.YAMUX
            case _:
                return TransportKind.H2

    @property
    def wanted(self) -> str:
        """What is going to be dialled, as in events: `auto`, or the one transport."""
        return TransportChoice.AUTO.value if self.automatic else self._asked().value

    def _asked(self) -> TransportKind:
        return self.tcp or TransportKind.QUIC

    async def first(self) -> Chosen[Carrier]:
        """Dial the relay the best way there is.

        Raises:
            ConnectError, RelayIdentityError, ConfigError: As `Dialler.dial` and `race.follow`.

        Cancellation: nothing stays open.
        """
        dials = {kind: partial(self.dialler.dial, kind, beside_tcp=self.automatic) for kind in TransportKind}
        return await follow(await self._plan(), dials, discard=Carrier.abort)

    async def _plan(self) -> Plan:
        if self.automatic:
            remembered = await self._remembered()
            return plan(None, remembered, utc_now(), round_trip=self.round_trip)
        asked = plan(self._asked(), {}, utc_now())
        if self.dialler.via is None or self.choice is not TransportChoice.AUTO:
            return asked
        why = f"{asked.first.full_name}: QUIC does not go through {self.dialler.via}"
        return Plan(first=asked.first, second=None, head_start=0.0, why=why)

    async def note(self, outcomes: Mapping[TransportKind, bool]) -> None:
        """Remember which transports worked on this network, and which did not while another did."""
        if not self.automatic:
            return

        def write() -> None:
            network = fingerprint()
            for kind, worked in outcomes.items():
                self.choices.note(self.server, network, kind, worked=worked, now=utc_now())

        await trio.to_thread.run_sync(write)

    async def note_direct(self, failure: str) -> None:
        """Remember whether data connections worked on this network (an empty text), or why they did not."""

        def write() -> None:
            worked, now = not failure, utc_now()
            self.choices.note(self.server, fingerprint(), DIRECT, worked=worked, now=now, reason=failure)

        await trio.to_thread.run_sync(write)

    async def recall_direct(self) -> Outcome | None:
        """Return what is remembered of data connections on this network."""
        return await trio.to_thread.run_sync(lambda: self.choices.direct(self.server, fingerprint(), utc_now()))

    async def quic_due(self) -> float:
        """Return the seconds until QUIC may be tried again beside TCP."""
        return quic_wait(await self._remembered(), utc_now())

    async def _remembered(self) -> Remembered:
        return await trio.to_thread.run_sync(lambda: self.choices.get(self.server, fingerprint(), utc_now()))


def is_tcp(transport: str) -> bool:
    """Return whether carriers of *transport* are TCP connections."""
    return transport in _TCP
