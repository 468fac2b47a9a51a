"""First signal: drain. Second signal: end now.

SIGINT and SIGTERM (and Ctrl-Break on Windows) are received by one task, so a
`KeyboardInterrupt` never lands in the middle of anything.  The first asks the
service to drain and the exit code is 0; the second cancels it and the exit
code is 128 + the signal's number.  Cancelled code may still be busy saying goodbye
behind a shield: after `limits.STOP_NOW` seconds the process is ended under it.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, final

import trio

from trunnel.settings import limits

STOPPED_BY_SIGNAL: Final = 128
"""Exit codes above it name the signal, by the shells' convention."""
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGBREAK")


class Drainable(Protocol):
    """A running service that can be asked to finish what it has and return."""

    def drain(self, reason: str) -> None:
        """Stop accepting, finish what is open, return; *reason* is for people."""


Service = Callable[["trio.TaskStatus[Drainable]"], Awaitable[None]]
"""Runs until drained; reports its `Drainable` when it can be asked."""


@final
class _Watch:
    """What the signals have asked for so far."""

    def __init__(self, stuck: Callable[[int], None]) -> None:
        self.status = 0
        self.service = trio.CancelScope()
        self._stuck = stuck
        self._drainable: Drainable | None = None
        self._reason: str | None = None

    def started(self, drainable: Drainable) -> None:
        """Note what to drain; drains it at once if a signal came before."""
        self._drainable = drainable
        if self._reason is not None:
            drainable.drain(self._reason)

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Act on signals until cancelled."""
        wanted = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        with trio.open_signal_receiver(*wanted) as received:
            task_status.started()
            async for number in received:
                if self._reason is not None:
                    self.status = STOPPED_BY_SIGNAL + number
                    break
                self._drain(signal.Signals(number).name)
        self.service.cancel()
        await trio.sleep(limits.STOP_NOW)
        self._stuck(self.status)

    def _drain(self, reason: str) -> None:
        self._reason = reason
        if self._drainable is None:
            self.service.cancel()  # still starting: there is nothing to finish
        else:
            self._drainable.drain(reason)


async def obey_signals(service: Service, *, stuck: Callable[[int], None]) -> int:
    """Run *service* until it returns, draining or cancelling it as signals say.

    Args:
        service: The program.
        stuck: Called with the exit code when a cancelled service has not ended
            within `limits.STOP_NOW` seconds; must end the process.

    Returns:
        0, or 128 + signal number if a second signal came.

    Raises:
        ExceptionGroup: What *service* raised, wrapped by its nurseries.
    """
    watch = _Watch(stuck)
    async with trio.open_nursery() as outer:
        await outer.start(watch.listen)
        with watch.service:
            async with trio.open_nursery() as inner:
                watch.started(await inner.start(service))
        outer.cancel_scope.cancel()
    return watch.status
