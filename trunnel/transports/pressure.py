"""Which streams to give up when a session runs out of receive buffer, pure.

When the bytes that lie unread take up the session's credit
(`SESSION_PRESSURE`), streams whose consumer would need `STALLED_AFTER` or
longer for what it has are chosen, the fullest first, until the others can
move again: a hundred visitors that only sip must not stop everybody else.
Shared by every transport with credit of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypeVar

from trunnel.settings import limits


class Buffered(Protocol):
    """What is asked of a stream."""

    @property
    def unread(self) -> int:
        """Bytes received and not consumed."""
        ...

    @property
    def taken(self) -> int:
        """Bytes that the consumer has taken in all."""
        ...


BufferedStream = TypeVar("BufferedStream", bound=Buffered)


def stalled_streams(
    streams: Collection[BufferedStream], taken_before: Mapping[BufferedStream, int]
) -> list[BufferedStream]:
    """Return the streams to reset now, often none.

    Args:
        streams: All open streams of the session.
        taken_before: What each stream's consumer had taken `PRESSURE_LOOK` ago; a stream that is not in it is spared.
    """
    excess = sum(stream.unread for stream in streams) - limits.SESSION_PRESSURE
    if excess < 0:
        return []
    patience = limits.STALLED_AFTER / limits.PRESSURE_LOOK
    slow = [s for s in streams if s in taken_before and s.unread > patience * (s.taken - taken_before[s])]
    chosen: list[BufferedStream] = []
    for stream in sorted(slow, key=lambda stream: stream.unread, reverse=True):
        if excess < 0:
            break
        excess -= stream.unread
        chosen.append(stream)
    return chosen
