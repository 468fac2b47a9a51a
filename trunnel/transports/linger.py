"""Close a carrier so that the last words arrive.

A socket that is closed with bytes unread sends RST, and RST makes the peer's
kernel throw away what we said just before.  A peer that is told GOAWAY for
flooding has usually sent much more by then; so our end is sent, and what still
comes is read away, within a time and an amount that are both bounded.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from trunnel.settings import limits


async def linger(carrier: trio.abc.HalfCloseableStream) -> None:
    """Send our end on *carrier* and read away what comes; takes at most `CLOSE_TIMEOUT`.

    Cancellation: no matter; it is shielded for as long as it takes.
    """
    left = limits.LINGER_MAX
    with (
        trio.move_on_after(limits.CLOSE_TIMEOUT, shield=True),
        suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        await carrier.send_eof()
        while left > 0 and (chunk := await carrier.receive_some(limits.READ_SLICE)):
            left -= len(chunk)
