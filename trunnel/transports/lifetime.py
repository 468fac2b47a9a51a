"""How a session ends, and the streams of the peer that nobody has taken yet: what every `Session` has.

The first reason to end stands.  Whoever asks later gets an exception of their
own: one object raised by many tasks would gather all their tracebacks.  Streams
that had arrived before the end can still be accepted; they are broken, but
what they had received is readable.
"""

from __future__ import annotations

from typing import Generic, TypeVar, final

import trio

from trunnel.errors import LocalProtocolError, SessionClosed
from trunnel.transports.base import Stream

S = TypeVar("S", bound=Stream)


@final
class Lifetime(Generic[S]):
    """The end of one session, and its accept queue."""

    __slots__ = ("_arrival", "_arrived", "_ended", "closed", "leaving")

    def __init__(self) -> None:
        self.closed: SessionClosed | None = None
        """Why the session ended, or None while it lives."""
        self.leaving: SessionClosed | None = None
        """Why no new streams are opened while those that are open go on, or None."""
        self._ended = trio.Event()
        self._arrived: list[S] = []  # short; an empty deque is 624 bytes, and idle sessions are many
        self._arrival = trio.Event()

    def close(self, reason: SessionClosed) -> bool:
        """End the session; returns False if it had ended before, with the reason of then."""
        if self.closed is not None:
            return False
        self.closed = reason
        self._ended.set()
        self._arrival.set()
        return True

    def leave(self, reason: SessionClosed) -> None:
        """Open no new streams from now on; the first reason stands."""
        self.leaving = self.leaving or reason

    def refusal(self) -> SessionClosed | None:
        """Return what to raise instead of opening a stream, or None if one may be opened."""
        reason = self.closed or self.leaving
        return None if reason is None else _again(reason)

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end and return why.

        Cancellation: no effect.
        """
        await self._ended.wait()
        if self.closed is None:
            raise LocalProtocolError("ended without a reason")
        return self.closed

    # --- streams of the peer ------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Streams that have arrived and that nobody has accepted."""
        return len(self._arrived)

    def arrive(self, stream: S) -> None:
        """Queue a stream of the peer; the caller keeps `waiting` bounded."""
        self._arrived.append(stream)
        self._arrival.set()

    async def accept(self) -> S:
        """Return the next stream of the peer; always a checkpoint.

        Raises:
            SessionClosed: The session has ended, and no stream is left.

        Cancellation: no effect.
        """
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self.closed is not None:
                raise _again(self.closed)
            if self._arrival.is_set():  # else somebody waits for it, too
                self._arrival = trio.Event()
            await self._arrival.wait()
        return self._arrived.pop(0)

    def take_left(self) -> list[S]:
        """Return the streams that nobody has accepted, and forget them."""
        left = list(self._arrived)
        self._arrived.clear()
        return left


def _again(reason: SessionClosed) -> SessionClosed:
    return SessionClosed(reason.reason, retryable=reason.retryable, code=reason.code)
