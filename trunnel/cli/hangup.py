"""SIGHUP to a relay: start a new process that takes over (`relay.takeover`).

The new process is this one's own command line once more, with `--takeover`:
the same interpreter and program by the same paths, so that a new version that
has been put there is what starts.  It inherits environment and standard streams.
If it ends, or does not take over in time, this one goes on.

Where the relay has a terminal, SIGHUP means that the terminal has gone: it is
asked to stop.  Where it is ignored already (`nohup`), it stays ignored.  The
first process of a container cannot leave its place to another: its end is the
container's, so it goes on and says so.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess  # noqa: TID251 - its constants; the process is trio's
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final, final

import trio

from trunnel import capabilities
from trunnel.relay.bound import BoundRelay
from trunnel.settings import limits

logger = logging.getLogger(__name__)

TAKEOVER: Final = "--takeover"
_FIRST_PROCESS: Final = 1


def command_of_successor(arguments: Sequence[str], executable: str) -> list[str]:
    """Return the command line of the next process.

    Args:
        arguments: Of this one, the interpreter's name first (`sys.orig_argv`).
        executable: The interpreter's path.
    """
    rest = [word for word in arguments[1:] if word != TAKEOVER]
    return [executable, *rest, TAKEOVER]


def has_terminal() -> bool:
    """Return whether one of the standard streams is a terminal."""
    streams: tuple[IO[str] | None, ...] = (sys.stdin, sys.stdout, sys.stderr)
    return any(stream is not None and not stream.closed and stream.isatty() for stream in streams)


@contextmanager
def hangups() -> Iterator[AsyncIterator[int]]:
    """Receive SIGHUP instead of ending by it; nothing is received where it is ignored, or does not exist."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield _Never()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as received:
        yield received


@final
class _Never:
    """No signal, ever."""

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await trio.sleep_forever()


async def obey_hangups(received: AsyncIterator[int], relay: BoundRelay, *, terminal: bool) -> None:
    """Act on SIGHUP for ever.

    Args:
        received: From `hangups`.
        relay: The one that runs.
        terminal: Whether it has, or had, a terminal.

    Cancellation: a process that was just started goes on alone, and finds whatever relay there is then.
    """
    async for _ in received:
        if terminal:
            relay.drain("SIGHUP")
        elif relay.is_draining:
            logger.info("no_takeover", extra={"reason": "this relay is about to end"})
        elif os.getpid() == _FIRST_PROCESS:
            logger.warning("no_takeover", extra={"reason": "the container ends with its first process, this one"})
        elif not capabilities.HAS_SOCKET_PASSING:
            logger.warning("no_takeover", extra={"reason": "sockets cannot be handed over on this system"})
        else:
            await _start_successor(relay)


async def _start_successor(relay: BoundRelay) -> None:
    """Start a process that takes over; returns once the relay drains, or the process has failed."""
    command = command_of_successor(sys.orig_argv, sys.executable)
    try:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    except OSError as exc:
        logger.error("takeover_failed", extra={"reason": f"{command[0]}: {exc.strerror}"})  # noqa: TRY400 - no bug
        return
    logger.info("takeover_started", extra={"pid": process.pid})
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limits.TAKEOVER_READY

        async def watch() -> None:
            await process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await relay.wait_drain()
        nursery.cancel_scope.cancel()
    if relay.is_draining:
        return
    late = process.poll() is None
    if late:
        process.kill()
        await process.wait()
    reason = "it did not take over in time" if late else f"it ended with {process.returncode}"
    logger.error("takeover_failed", extra={"pid": process.pid, "reason": reason})
