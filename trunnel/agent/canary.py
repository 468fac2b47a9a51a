"""Whether visitors are served, found out by being one.

A session that is attached may still serve nobody: a carrier that takes bytes
and delivers none, a relay that places no streams.  So the relay is asked for a
canary stream (`Attachment.probe`), which goes the way of visitors' streams,
before "ready" is said, and every `CANARY_INTERVAL` after that.  A session whose
canaries fail is ended, and the supervisor makes a new one.

These take the road inside the session; those on data connections are sent by
`direct`, and `send_canary` is what both have in common.
"""

from __future__ import annotations

import trio

from trunnel.agent.attachment import Attachment
from trunnel.errors import ErrorCode, SessionClosed
from trunnel.events import Canary, EventSink
from trunnel.settings import limits
from trunnel.wire.control import DataPath


async def first_canary(attachment: Attachment, on_event: EventSink, *, relay: str) -> float:
    """Return once a canary has come through, and the seconds that it took: about two round trips.

    It is asked for again while the session lives: a relay that is busy taking
    thousands of agents back must not get each of them anew because it is late.

    Raises:
        SessionClosed, Rejected: None did: visitors would not be served, or the session is over.
    """
    failure = ""
    for trial in range(limits.CANARY_FIRST_TRIES):
        if trial:
            await trio.sleep(limits.CANARY_RETRY)
        started = trio.current_time()
        failure = await send_canary(attachment, on_event, relay)
        if attachment.ended is not None:
            raise attachment.ended
        if not failure:
            return trio.current_time() - started
    raise SessionClosed(f"visitors would not be served: {failure}")


async def keep_watch(attachment: Attachment, on_event: EventSink, relay: str) -> None:
    """Send canaries until the session has ended; end it when they fail.

    Cancellation: the way to stop.
    """
    failures = 0
    while attachment.link.closed is None:
        await trio.sleep(limits.CANARY_INTERVAL if not failures else limits.CANARY_RETRY)
        failure = await send_canary(attachment, on_event, relay)
        failures = failures + 1 if failure else 0
        if failures >= limits.CANARY_FAILURES:
            attachment.link.abort(f"visitors are not served: {failure}", code=ErrorCode.DEADLINE)


async def send_canary(
    attachment: Attachment, on_event: EventSink, relay: str, path: DataPath = DataPath.SESSION
) -> str:
    """Have one canary come by *path* and report it; return why it failed, or an empty text."""
    started = trio.current_time()
    failure = await attachment.probe(path)
    taken = trio.current_time() - started
    if attachment.ended is None:  # else the end is what there is to say
        rtt_ms = None if failure else round(taken * 1000, 1)
        on_event(Canary(ok=not failure, rtt_ms=rtt_ms, failure=failure, relay=relay, path=path.value))
    return failure
