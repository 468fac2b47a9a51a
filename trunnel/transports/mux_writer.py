"""The writing half of a multiplexer's session: the only task that sends on the carrier.

Streams offer their bytes and wait.  The writer goes round them, one frame
each, until a batch has gathered, and hands it to the carrier.  What is no
payload (pings, answers, credit) was queued before and leaves first.

What has been handed over cannot be overtaken: a ping that comes up a moment
later leaves behind it.  A fast carrier wants large batches, because each costs
a turn of the writer and of TLS; on a carrier of 1 Mbit/s the same 256 KiB
would hold a ping back for two seconds.  So the batch follows the time that the
carrier takes for it: cut to what would have gone out in time when it was slow,
doubled when a full one was quick.

A batch never exceeds its size, frame headers included: a batch of a few bytes
more than whole TLS records costs a record, and a system call, for those.
"""

from __future__ import annotations

from typing import final

import trio

from trunnel.settings import limits
from trunnel.transports.mux_connection import MuxConnection
from trunnel.transports.mux_stream import MuxStream


@final
class WritePace:
    """The size of the next batch, pure."""

    __slots__ = ("batch",)

    def __init__(self) -> None:
        self.batch = limits.WRITE_BATCH
        """Bytes to gather for one send."""

    def sent(self, amount: int, seconds: float) -> None:
        """Take note of a send.

        Args:
            amount: Bytes of the batch.
            seconds: How long the carrier took to accept them.
        """
        if seconds > limits.WRITE_SLOW:
            fitting = int(amount * limits.WRITE_SLOW / seconds)
            self.batch = max(limits.WRITE_BATCH_MIN, min(fitting, self.batch // 2))
        elif seconds < limits.WRITE_QUICK and amount > self.batch - limits.FRAME_HEADROOM:
            self.batch = min(limits.WRITE_BATCH, self.batch * 2)


@final
class MuxWriter:
    """See the module's head; `run` is one task of the session."""

    __slots__ = ("_connection", "_finishing", "_offers", "_pace", "_queued", "_wake", "sent")

    def __init__(self, connection: MuxConnection) -> None:
        self._connection = connection
        self._pace = WritePace()
        self._offers: list[MuxStream] = []
        self._queued: set[MuxStream] = set()
        self._wake = trio.Event()
        self._finishing = False
        self.sent = 0
        """Bytes of payload taken from streams."""

    def offer(self, stream: MuxStream) -> None:
        """Put a stream with pending bytes into the round."""
        if stream not in self._queued:
            self._queued.add(stream)
            self._offers.append(stream)
            self._wake.set()

    def wake(self) -> None:
        """Look for frames."""
        self._wake.set()

    def finish(self) -> None:
        """Send what is queued, then end."""
        self._finishing = True
        self._wake.set()

    async def run(self, carrier: trio.abc.SendStream) -> None:
        """Send until `finish` was called and nothing is left.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: The carrier is lost.

        Cancellation: an unknown part of a batch was sent; the carrier must be closed.
        """
        while True:
            if batch := self._gather():
                begun = trio.current_time()
                await carrier.send_all(batch)
                self._pace.sent(len(batch), trio.current_time() - begun)
            elif self._finishing:
                return
            else:
                await self._wake.wait()
            if self._wake.is_set():
                self._wake = trio.Event()

    def _gather(self) -> bytearray:
        """Take a batch: what is queued, then payload, one frame a stream and round."""
        connection, output = self._connection, self._connection.output
        size = self._pace.batch - limits.FRAME_HEADROOM
        while self._offers and (room := size - output.pending) > 0:
            stream = self._offers.pop(0)
            if not stream.pending:
                self._queued.discard(stream)
                continue
            share = min(room, limits.FRAME_SHARE) if self._offers else room  # alone, it keeps nobody waiting
            taken = connection.send(stream.stream_id, stream.pending[:share])
            self.sent += taken
            stream.pending = stream.pending[taken:]
            if stream.pending and taken:
                self._offers.append(stream)
                continue
            self._queued.discard(stream)
            if not stream.pending:
                stream.notify_taken()  # else it waits for WindowOpened
        return output.take()
