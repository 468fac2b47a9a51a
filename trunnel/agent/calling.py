"""Calling one relay: dials, and the waits between them, neither of which outlives the network they began on.

Another network, or waking from sleep, ends a dial at once, and it begins anew;
it also ends a wait, but for what the relay asked.  News that come between the
two are not lost: a wait that follows them is none.

Without a relay that was named, the one on loopback is looked for, during
`DEFAULT_RELAY_TIMEOUT`: a newcomer may start the two programs in either order.
"""

from __future__ import annotations

from typing import Final, final

import trio

from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.errors import ConnectError
from trunnel.settings import limits
from trunnel.transports.race import Chosen

_NOBODY_ON_LOOPBACK: Final = """\
no relay answers on {server} ({reason})
1. start one here, in a second terminal: trunnel serve
2. or name yours: --server HOST
3. or see how to run one on a public host: trunnel serve --help"""
"""What to do when no relay was named and none is found."""


@final
class Caller:
    """See the module's head; one for each supervisor."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._dialling = trio.CancelScope()
        self._news = trio.Event()  # of the network, since the last dial began

    def hurry(self) -> None:
        """Take note that the network has changed, or the machine has slept."""
        self._news.set()
        self._dialling.cancel()

    async def call(self) -> Chosen[Carrier]:
        """Dial, anew whenever the network has changed meanwhile; raises and is cancelled as `Reach.first`."""
        while True:
            self._news = trio.Event()
            with trio.CancelScope() as self._dialling:
                return await self._reach.first()

    async def look(self) -> Chosen[Carrier]:
        """Dial again and again, for a relay that may just be starting.

        Raises:
            ConnectError: Nobody answers in time; says what a newcomer does then.
            RelayIdentityError, ConfigError: As `call`.

        Cancellation: nothing stays open.
        """
        reason = "it does not answer"
        with trio.move_on_after(limits.DEFAULT_RELAY_TIMEOUT):
            while True:
                try:
                    return await self.call()
                except ConnectError as exc:
                    if not exc.retryable:
                        raise
                    reason = str(exc)
                await trio.sleep(limits.DEFAULT_RELAY_PAUSE)
        error = ConnectError(_NOBODY_ON_LOOPBACK.format(server=self._reach.server, reason=reason))
        error.retryable = False
        raise error

    async def pause(self, delay: float, *, at_least: float) -> bool:
        """Wait *delay* seconds; return whether news ended that, once *at_least* seconds were over.

        Cancellation: no effect.
        """
        await trio.sleep(at_least)
        with trio.move_on_after(max(0.0, delay - at_least)) as waiting:
            await self._news.wait()
        return not waiting.cancelled_caught
