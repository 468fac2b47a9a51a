"""LOAD-04: challenges that say hello and then nothing."""

from __future__ import annotations

from contextlib import suppress

import trio

from scripts.rows.lab import Lab, descriptors, laboratory
from scripts.rows.load import raise_descriptor_limit
from scripts.rows.registry import PACE, Outcome, row
from tests.relay.house import offering
from trunnel.settings.limits import CHALLENGE_TIMEOUT, CHALLENGES_PER_NAME

SOURCES = 15
BASELINE = 2.0
"""Seconds in which the canary shows what is normal."""
SLACK = 0.5
"""Seconds by which a stalled challenge may end early or late."""
IN_SESSION = ("--data", "session")
"""How many data connections an agent keeps ready changes with its visitors; here descriptors are counted."""
LOOKS = 50
"""Looks at the relay's descriptors before the first one comes; the canary's visits come and go between them."""
LOOKS_AFTER = 400
"""The same after the last one has ended, until there are as few."""


async def hold_on(stream: trio.SocketStream) -> None:
    """Be an origin that never answers."""
    async with stream:
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


async def stall(lab: Lab, number: int, hostname: str, lifetimes: list[float]) -> None:
    """Say hello as an ACME server does, then wait; adds the seconds until the relay hangs up to *lifetimes*."""
    with suppress(OSError, trio.BrokenResourceError):
        stream = await lab.connect(source=f"127.0.6.{number % SOURCES + 1}")
        begun = trio.current_time()
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(offering(b"acme-tls/1", name=hostname.encode()))
                await stream.receive_some(1)
        lifetimes.append(trio.current_time() - begun)


async def least_descriptors(lab: Lab, looks: int, *, enough: int = 0) -> int:
    """Return how many descriptors the relay has when no visitor is there; looks no more once they are so few."""
    least = descriptors(lab.relay.pid)
    for _ in range(looks):
        if least <= enough:
            break
        await trio.sleep(0.05)
        least = min(least, descriptors(lab.relay.pid))
    return least


@row(
    "LOAD-04",
    limit=f"at most {CHALLENGES_PER_NAME} held for {CHALLENGE_TIMEOUT:.0f} s ± {SLACK}, the rest reset at once, all "
    f"descriptors back; canary of another agent ≥ 99.9 %",
)
async def stalled_challenges() -> Outcome:
    """2,000 challenges for one name of an agent that never answers; another agent's visitors beside them."""
    count = PACE.either(2_000, 400)
    raise_descriptor_limit(2 * count + 200)
    async with laboratory() as lab, trio.open_nursery() as nursery:
        (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hold_on, [silent])
        await lab.start_relay()
        victim = await lab.start_agent(silent.socket.getsockname()[1], "--tls-passthrough", *IN_SESSION, name="victim")
        canary = await lab.start_canary(await lab.start_agent(await lab.start_origin(), *IN_SESSION))
        await trio.sleep(BASELINE)
        idle, before, peak = canary.p99, await least_descriptors(lab, LOOKS), 0
        canary.reset()
        lifetimes: list[float] = []
        async with trio.open_nursery() as crowd:
            for number in range(count):  # 500 a second
                crowd.start_soon(stall, lab, number, victim.hostname, lifetimes)
                if number % 10 == 0:
                    await trio.sleep(0.02)
                    peak = max(peak, descriptors(lab.relay.pid))
        await canary.stop()  # on a busy machine there would be one of its visits at any time
        after = await least_descriptors(lab, LOOKS_AFTER, enough=before)
        nursery.cancel_scope.cancel()
        held = sorted(seconds for seconds in lifetimes if seconds > CHALLENGE_TIMEOUT / 2)
        others = sorted(lifetimes)[: len(lifetimes) - len(held)]
        figure = (
            f"{len(held)} held {held[0] if held else 0:.2f} to {held[-1] if held else 0:.2f} s, {len(others)} others "
            f"p99 {1000 * others[int(0.99 * len(others))]:.0f} ms, descriptors {before} → {peak} → {after}, "
            f"canary {100 * canary.success:.2f} % p99 {1000 * canary.p99:.0f} ms (idle {1000 * idle:.0f})"
        )
        bounded = 1 <= len(held) <= CHALLENGES_PER_NAME and len(lifetimes) == count
        in_time = held[0] >= CHALLENGE_TIMEOUT - SLACK and held[-1] <= CHALLENGE_TIMEOUT + SLACK if held else False
        return Outcome(bounded and in_time and after <= before and canary.success >= 0.999, figure)
    raise AssertionError("the block returns")
