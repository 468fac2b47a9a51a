"""Carriers with a speed and a distance, by the virtual clock."""

from __future__ import annotations

from collections import deque

import trio

PACKET = 4_096
"""Bytes that arrive together."""


class _Line:
    """One direction: bytes leave at *rate* and arrive *delay* later; *buffer* bytes may wait to leave."""

    def __init__(self, *, rate: float, delay: float, buffer: int) -> None:
        self._rate = rate
        self._delay = delay
        self._buffer = buffer
        self._free_at = 0.0  # when the last byte accepted will have left
        self._arrivals: deque[tuple[float, bytes]] = deque()
        self._news = trio.Event()
        self.ended = False

    async def send(self, octets: bytes) -> None:
        """Return when all but `buffer` bytes have left, as a socket's send does."""
        for start in range(0, len(octets), PACKET):
            part = octets[start : start + PACKET]
            self._free_at = max(self._free_at, trio.current_time()) + len(part) / self._rate
            self._arrivals.append((self._free_at + self._delay, part))
            self._news.set()
            await trio.sleep_until(self._free_at - self._buffer / self._rate)

    def end(self) -> None:
        """No more comes."""
        self.ended = True
        self._news.set()

    async def receive(self) -> bytes:
        """Return all that has arrived, at least a part; b"" at the end."""
        while not self._arrivals and not self.ended:
            self._news = trio.Event()
            await self._news.wait()
        if not self._arrivals:
            return b""
        await trio.sleep_until(self._arrivals[0][0])
        taken: list[bytes] = []
        while self._arrivals and self._arrivals[0][0] <= trio.current_time():
            taken.append(self._arrivals.popleft()[1])
        return b"".join(taken)


class LinePipe(trio.abc.HalfCloseableStream):
    """One end of a carrier between two places."""

    def __init__(self, outgoing: _Line, incoming: _Line) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._rest = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        await self._outgoing.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self._outgoing.end()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._rest:
            self._rest = await self._incoming.receive()
        taken, self._rest = self._rest[:max_bytes], self._rest[max_bytes or len(self._rest) :]
        return taken

    async def aclose(self) -> None:
        self._outgoing.end()
        self._incoming.end()
        await trio.lowlevel.checkpoint()


def line_pair(*, rate: float, round_trip: float, buffer: int) -> tuple[LinePipe, LinePipe]:
    """Return both ends of a carrier.

    Args:
        rate: Bytes a second, each way.
        round_trip: Seconds.
        buffer: Bytes that each sender's kernel takes before a send waits.
    """
    one, other = (_Line(rate=rate, delay=round_trip / 2, buffer=buffer) for _ in range(2))
    return LinePipe(one, other), LinePipe(other, one)
