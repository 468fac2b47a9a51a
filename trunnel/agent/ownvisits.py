"""Tell our own visits (`verify`) from visitors when they arrive here: no event, nothing counted.

Nothing on the way may tell them apart, or a relay could treat them better.  So a
visit carries no mark; we remember the 32 random bytes of its ClientHello, which
are anybody's to the relay (RFC 8446 §4.1.2), and look for them in the first bytes
of who comes meanwhile.  That takes a look at nobody while no visit is under way,
and one at each visitor while one is, which is milliseconds in a quarter of an
hour.  A hello that comes in crumbs is a visitor's.

Each number counts once: what comes again is not ours but somebody's copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, final

import trio
from trio import socket as tsocket

from trunnel import capabilities
from trunnel.settings import limits

_RANDOM: Final = slice(11, 43)
"""Where it is: behind the headers of record and message (5 and 4 bytes) and the legacy version (RFC 8446 §5.1, §4)."""


@final
class OwnVisits:
    """The visits of ours that are under way and have not arrived."""

    __slots__ = ("_expected",)

    def __init__(self) -> None:
        self._expected: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._expected)

    @contextmanager
    def under_way(self, hello: bytes) -> Iterator[None]:
        """Expect the visit that begins with *hello*, our ClientHello's first record, while the body runs."""
        random = hello[_RANDOM]
        self._expected.add(random)
        try:
            yield
        finally:
            self._expected.discard(random)

    def arrived(self, head: bytes) -> bool:
        """Return whether who begins with *head* is one of them, which is expected no more then."""
        random = head[_RANDOM]
        if random not in self._expected:
            return False
        self._expected.remove(random)
        return True


async def first_bytes(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """Wait for what comes first, a handshake's time at most.

    Returns:
        What came, and how much of that was taken out of *stream*: of a socket nothing.  That
        the stream has broken is for those to find who use it next.

    Cancellation: nothing was taken.
    """
    with trio.move_on_after(limits.HANDSHAKE_TIMEOUT), suppress(OSError, trio.BrokenResourceError):
        if not isinstance(stream, trio.SocketStream):
            head = bytes(await stream.receive_some(limits.TLS_READ))
            return head, head
        if capabilities.HAS_MSG_PEEK:  # otherwise workers, who need it whole, are worth more than the count
            return await stream.socket.recv(_RANDOM.stop, tsocket.MSG_PEEK), b""
    return b"", b""
