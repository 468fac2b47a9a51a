"""The canary, a process of its own: `python -m scripts.lab.canary HOST PORT NAME CERT` visits every 50 ms.

A visit that hangs keeps no other waiting: each begins in its time, so that
"serving again" is known to 50 ms.  One JSON line a visit, when it ends:
`begun` and `seconds` of the machine's monotonic clock, and `error` if it failed.
"""

from __future__ import annotations

import json
import ssl
import sys
import time

import trio

from scripts.lab.visits import Where, fetch

EVERY = 0.05
TIMEOUT = 20.0
"""Seconds after which a visit has failed."""
AT_ONCE = 500
"""Visits that may hang at a time; then the canary rests."""


async def visit(where: Where, context: ssl.SSLContext, limiter: trio.CapacityLimiter) -> None:
    """Visit once and print the outcome."""
    begun = time.monotonic()
    outcome: dict[str, object] = {}
    try:
        async with limiter:
            with trio.fail_after(TIMEOUT):
                await fetch(await trio.open_tcp_stream(where.host, where.port), where, context)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
        outcome["error"] = f"{type(exc).__name__}: {exc}"
    line = {"event": "visit", "begun": begun, "seconds": time.monotonic() - begun, **outcome}
    print(json.dumps(line), flush=True)


async def main(where: Where) -> None:
    """Visit until killed."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    context = where.context()
    async with trio.open_nursery() as nursery:
        while True:
            if limiter.available_tokens > 0:
                nursery.start_soon(visit, where, context, limiter)
            await trio.sleep(EVERY)


if __name__ == "__main__":
    trio.run(main, Where(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
