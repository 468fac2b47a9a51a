"""The data door: from an accepted connection to one that is parked for a visitor.

    preface → who is meant → challenge → proof → parked in the session's lot

Rules:

- All of it within `DIRECT_PROOF_TIMEOUT` of accept; no byte extends it.
- One that has not proven itself costs a task and a place among the half-open,
  and one of `DIRECT_HALF_OPEN_PER_ADDRESS`; both are given back when it is parked.
- Who asks for another relay, for a session that is not here, or when there is
  no room, is told so: the agent has to tell a person why.  Anything malformed,
  late or unproven is reset without a word.
- A preface proves nothing.  Whatever is decided on it is decided again after
  the proof, when the connection is parked: its session may be over by then.

What a lot is, and which connection is taken when, is in `lots`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import trio

from trunnel.errors import RemoteProtocolError
from trunnel.relay.admission import Admission, Refuse
from trunnel.relay.lots import Lot, Lots
from trunnel.relay.throttle import Throttle
from trunnel.settings import limits
from trunnel.streams.sockets import abort_socket
from trunnel.transports import direct
from trunnel.wire.direct import Preface, Refusal, relay_digest

if TYPE_CHECKING:
    from trunnel.relay.ingress import Arrival

logger = logging.getLogger(__name__)

_DESCRIPTOR_SHARE: Final = 4
"""One in so many of the process's descriptors may be a parked connection."""


def room_for_parked(descriptors: int | None) -> int:
    """Return how many connections may be parked in a process that may have so many *descriptors* (None: any)."""
    return limits.PARKED_TOTAL if descriptors is None else min(limits.PARKED_TOTAL, descriptors // _DESCRIPTOR_SHARE)


@final
class DataDoor:
    """Takes agents' data connections in and parks them."""

    def __init__(self, lots: Lots, admission: Admission) -> None:
        self._lots = lots
        self._admission = admission
        self._failures = Throttle(limits.LOG_PER_PEER)
        self.draining = False
        """Whether data connections are refused because the relay stops."""

    async def lead(self, arrival: Arrival, *, scarce: bool) -> bool:
        """Have *arrival* prove its session and park it.

        Args:
            arrival: A connection that began as a data connection does.
            scarce: Whether descriptors run short: then it is refused.

        Returns:
            Whether it is the lot's now; else it is closed.

        Cancellation: it is not parked; its owner closes it.
        """
        decision = self._admission.admit_data(arrival.peer[0])
        if isinstance(decision, Refuse):
            self._fail(arrival, decision.reason.value)
            return False
        failure = "it did not prove its session in time"
        with (
            decision.ticket,
            trio.CancelScope(deadline=arrival.accepted_at + limits.DIRECT_PROOF_TIMEOUT),
        ):
            try:
                return await self._park(arrival, scarce=scarce)
            except RemoteProtocolError as exc:
                failure = exc.reason
            except trio.BrokenResourceError:
                failure = "it was lost before it had proven its session"
        self._fail(arrival, failure)
        return False

    async def sweep(self) -> None:
        """Look after the dead every `PARKED_SWEEP` seconds.  Never returns.  Cancellation: no effect."""
        while True:
            await trio.sleep(limits.PARKED_SWEEP)
            for lot in self._lots:
                lot.sweep()
                await trio.lowlevel.checkpoint()  # a lot's sweep is short, all together are not

    async def _park(self, arrival: Arrival, *, scarce: bool) -> bool:
        preface = await direct.read_preface(arrival.stream, prefix=arrival.consumed)
        lot = self._lots.find(preface.session)
        refusal = self._refusal(preface, lot, scarce=scarce)
        if refusal or lot is None:
            refusal = refusal or Refusal.UNKNOWN_SESSION
            self._note(arrival, refusal.reason)
            await direct.refuse(arrival.stream, refusal)
            return False
        return lot.park(await direct.admit(arrival.stream, preface, lot.terms))

    def _refusal(self, preface: Preface, lot: Lot | None, *, scarce: bool) -> Refusal:
        """Return why *preface* is refused although *lot* may be its session's."""
        ours = relay_digest(self._lots.relay_id) if lot is None else lot.terms.relay_digest
        if preface.relay != ours:
            return Refusal.WRONG_RELAY
        if self.draining:
            return Refusal.DRAINING
        return Refusal.FULL if scarce or self._lots.is_full else Refusal.NONE

    def _fail(self, arrival: Arrival, reason: str) -> None:
        abort_socket(arrival.stream.socket)
        self._note(arrival, reason)

    def _note(self, arrival: Arrival, reason: str) -> None:
        if count := self._failures.due(trio.current_time()):
            logger.info("data_connection_refused", extra={"peer": arrival.peer[0], "reason": reason, "count": count})
