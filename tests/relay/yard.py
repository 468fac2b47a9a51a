"""The data door behind a real ingress, with the lots in sight: who parks, and what becomes of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from tests.relay.house import dial, until
from trunnel.names import KeyId
from trunnel.relay.admission import Admission, AdmissionLimits
from trunnel.relay.ingress import ALL_ROLES, Arrival, Entrance, Role, serve
from trunnel.relay.lots import Lot, Lots
from trunnel.relay.parking import DataDoor
from trunnel.settings import limits
from trunnel.streams.listen import TcpListener, open_listeners
from trunnel.transports import direct
from trunnel.transports.direct import DirectLink, DirectTerms
from trunnel.wire.clienthello import ClientHello

RELAY = KeyId.of_spki(b"relay")
PATIENCE = 10


@dataclass
class _Doors:
    """The data door, and no other."""

    door: DataDoor
    verdicts: list[str] = field(default_factory=list)

    async def agent(self, arrival: Arrival) -> None:
        raise AssertionError("no agent comes here")

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        raise AssertionError("no visitor comes here")

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        return await self.door.lead(arrival, scarce=scarce)

    def refused(self, arrival: Arrival, verdict: str) -> None:
        self.verdicts.append(verdict)


@dataclass
class Yard:
    """A running data door."""

    listener: TcpListener
    lots: Lots
    door: DataDoor
    admission: Admission
    verdicts: list[str]
    lot: Lot
    """The lot of a session that is there from the beginning."""
    stack: ExitStack
    dialled: list[trio.SocketStream] = field(default_factory=list)

    def open(self, session: str, *, only: bool = False) -> Lot:
        """Open the lot of one more session."""
        return self.stack.enter_context(self.lots.open(session, only=only))

    async def dial(self, opening: bytes = b"") -> trio.SocketStream:
        """Connect and send."""
        stream = await dial(self.listener.address, opening)
        self.dialled.append(stream)
        return stream

    async def prove(self, terms: DirectTerms | None = None) -> DirectLink:
        """Dial and prove; raises ConnectError."""
        return await direct.prove(await self.dial(), terms or self.lot.terms, timeout=PATIENCE)

    async def park(self, count: int = 1) -> list[DirectLink]:
        """Park *count* connections, the newest last; returns once the lot has them."""
        links: list[DirectLink] = []
        for _ in range(count):
            before = len(self.lot)
            links.append(await self.prove())
            await until(lambda before=before: len(self.lot) > before or len(self.lot) == limits.PARKED_MAX)  # type: ignore[misc]
        return links

    async def tell(self, opening: bytes) -> bytes | None:
        """Send *opening* and return all that is answered until the end, or None for a reset without a word."""
        stream = await self.dial(opening)
        heard = b""
        try:
            with trio.fail_after(PATIENCE):
                while chunk := await stream.receive_some():
                    heard += chunk
        except trio.BrokenResourceError:
            assert not heard
            return None
        return heard

    async def idle(self) -> None:
        """Wait until no connection is half-open."""
        await until(lambda: self.admission.half_open.total == self.admission.unproven.total == 0)


async def has_ended(stream: trio.SocketStream) -> bool:
    """Wait until the relay has let go of a parked connection; return False if it says something instead."""
    with trio.fail_after(PATIENCE):
        try:
            return not await stream.receive_some()
        except trio.BrokenResourceError:
            return True


@asynccontextmanager
async def yard(
    *, roles: frozenset[Role] = ALL_ROLES, room: int = limits.PARKED_TOTAL, caps: AdmissionLimits | None = None
) -> AsyncIterator[Yard]:
    (listener,) = open_listeners(["127.0.0.1"], 0)
    lots, admission = Lots(RELAY, room=room), Admission(caps)
    door = DataDoor(lots, admission)
    doors = _Doors(door)
    with ExitStack() as stack:
        lot = stack.enter_context(lots.open("session-one", only=False))
        built = Yard(listener, lots, door, admission, doors.verdicts, lot, stack)
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await serve([Entrance(listener, roles)], admission=admission, doors=doors)

            nursery.start_soon(run)
            nursery.start_soon(door.sweep)
            await trio.testing.wait_all_tasks_blocked()
            try:
                yield built
            finally:
                for stream in built.dialled:
                    await trio.aclose_forcefully(stream)
                listener.close()
                nursery.cancel_scope.cancel()
    assert admission.half_open.total == admission.unproven.total == 0, "a ticket was not given back"
    assert lots.parked == 0, "a parked connection was forgotten"
