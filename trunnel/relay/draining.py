"""How a relay stops: it takes nobody new, tells its agents, and lets visitors finish.

After a takeover two things are different.  Agents are told at once, because
visitors wait for them at the new relay; but sessions stay whole until whoever
was accepted here has been led to one.  And visitors have `TAKEOVER_GRACE`:
nobody waits for this process, until somebody asks it to stop.
"""

from __future__ import annotations

import logging
from datetime import timedelta

import trio

from trunnel.clock import utc_now
from trunnel.events import Draining, EventSink
from trunnel.relay.admission import Admission
from trunnel.relay.bound import BoundRelay
from trunnel.relay.sessions import Farewell, Sessions
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.wire import control

logger = logging.getLogger(__name__)


async def drain(
    bound: BoundRelay, sessions: Sessions, admission: Admission, settings: RelaySettings, *, on_event: EventSink
) -> None:
    """Tell every agent of a relay that accepts nobody any more, and wait for visitors and agents to go."""
    bound.close()
    taken_over = bound.successor is not None
    grace = max(settings.drain_grace, limits.TAKEOVER_GRACE) if taken_over else settings.drain_grace
    deadline = utc_now() + timedelta(seconds=grace)
    on_event(Draining(deadline=deadline.isoformat(timespec="seconds")))
    logger.info("draining", extra={"reason": bound.drain_reason, "sessions": len(sessions)})
    told = control.Drain(min(grace, limits.CONTROL_SECONDS_MAX), control.printable(bound.drain_reason))
    for session in sessions.all():
        session.post(told)
    if taken_over:
        await _until_led(admission, settings.hello_timeout)
    _retire(sessions, grace)
    with trio.move_on_after(grace + limits.RETIRE_GRACE / 2) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hurry, bound, sessions, settings.drain_grace, patience)
            await sessions.wait_empty()
            nursery.cancel_scope.cancel()


async def _until_led(admission: Admission, timeout: float) -> None:  # noqa: ASYNC109 - the visitors', not ours
    """Wait until everybody who was accepted is in a session, or has seen the relay's own page, or it is too late."""
    with trio.move_on_after(timeout):
        while admission.half_open.total or admission.own_visitors.total:  # noqa: ASYNC110 - the counts are pure: they wake nobody
            await trio.sleep(limits.ACCEPT_PAUSE)


async def _hurry(bound: BoundRelay, sessions: Sessions, grace: float, patience: trio.CancelScope) -> None:
    """Shorten what visitors have to *grace* when a relay that was taken over is asked to stop."""
    await bound.wait_hurry()
    patience.deadline = min(patience.deadline, trio.current_time() + grace + limits.RETIRE_GRACE / 2)
    _retire(sessions, grace)


def _retire(sessions: Sessions, grace: float) -> None:
    for session in sessions.all():
        session.retire(Farewell(reason="the relay stopped", grace=grace))
