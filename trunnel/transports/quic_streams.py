"""The open streams of one QUIC connection, and the order in which they are served.

aioquic walks every open stream twice for every packet that it writes.  Here it
is shown only those with work: `StreamTable.values()` gives the streams whose
MAX_STREAM_DATA has to go out, and `StreamTable.next_turn` the streams that can
put bytes, a FIN, a RESET_STREAM or a STOP_SENDING into the next packet, in
turns.  So the work for a packet depends on what is in it, and not on how many
streams are open, idle, or waiting for the peer's credit.

A stream is *queued* while it stands in the order of service or in aioquic's own
list (the turn).  It leaves when it has nothing that could be sent, and every
way in which that can change calls `wake`: a write, a reset, a stop, a frame
declared lost, credit of the peer, the end of both halves (aioquic then forgets
the stream).

The private names of aioquic that are used are listed in `quic_credit`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import final

from aioquic.quic.stream import QuicStream

from trunnel.settings import limits
from trunnel.transports.quic_halves import ReceivingHalf, SendingHalf, receiving_half, sending_half
from trunnel.wire.credit import CreditBudget
from trunnel.wire.flood import FloodGuard


@final
class StreamTable(dict[int, QuicStream]):
    """aioquic's table of open streams, with the order in which they are served."""

    def __init__(self, *, parity: int) -> None:
        """Start empty; *parity* is the lowest bit of the ids of our own streams (client 0, server 1)."""
        super().__init__()
        self._parity = parity
        self._waiting: deque[int] = deque()
        self._starved: set[int] = set()
        self.now = -math.inf
        """Seconds: when the packet came that is being read; set by the connection."""
        self.guard = FloodGuard(now=self.now)
        self.undelivered = 0
        """Bytes of credit that reset streams never used; taken by the connection."""
        self.budget = CreditBudget()
        self.announcing: dict[int, QuicStream] = {}
        """Streams whose MAX_STREAM_DATA has to go out."""
        self.progress: set[int] = set()
        """Streams of which bytes were sent or acknowledged, or that got credit, since somebody looked."""
        self.buffered = 0
        """Bytes written and not acknowledged, all streams."""
        self.unsent = 0
        """Bytes written and never sent, all streams."""
        self.opened_here = 0
        """Streams open that we opened."""

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.sender = SendingHalf(stream_id, self, writable=not stream.sender.is_finished)
        stream.receiver = ReceivingHalf(stream_id, self, readable=not stream.receiver.is_finished)
        self.opened_here += self.is_ours(stream_id)
        super().__setitem__(stream_id, stream)

    def pop(self, stream_id: int) -> QuicStream:  # type: ignore[override]
        """Forget a stream that ended both ways."""
        stream = super().pop(stream_id)
        self.opened_here -= self.is_ours(stream_id)
        self.announcing.pop(stream_id, None)
        self.progress.add(stream_id)
        sender, receiver = sending_half(stream), receiving_half(stream)
        if receiver.window is not None:
            receiver.window.release()
        if max(receiver.highest_offset, sender.highest_offset) > limits.QUIC_EMPTY_STREAM:
            self.guard.ended()
            if sender.completed and not receiver.aborted:
                self.guard.worked()
        return stream

    def clear(self) -> None:
        """Forget all streams: the connection has ended."""
        super().clear()
        self._waiting.clear()
        self._starved.clear()
        self.announcing.clear()
        self.buffered = self.unsent = self.opened_here = 0

    def values(self) -> list[QuicStream]:  # type: ignore[override]
        """Return the streams that aioquic has to write MAX_STREAM_DATA for, as many as fit a packet."""
        if not self.announcing:
            return []
        return list(self.announcing.values())[: limits.QUIC_TURN_MAX]

    def is_ours(self, stream_id: int) -> bool:
        """Whether we opened a stream."""
        return stream_id & 1 == self._parity

    # --- the order of service ---------------------------------------------------------------------

    def wake(self, stream_id: int, *, first: bool = False) -> None:
        """Queue a stream that has something to send, or that ended.

        Args:
            stream_id: The stream; nothing happens if it is forgotten or queued.
            first: Serve it before the others: it sends again what was lost.
        """
        stream = self.get(stream_id)
        if stream is None:
            return
        sender = sending_half(stream)
        if not sender.queued:
            sender.queued = True
            if first:
                self._waiting.appendleft(stream_id)
            else:
                self._waiting.append(stream_id)

    def wake_starved(self) -> None:
        """Queue the streams that waited for the connection's credit."""
        while self._starved:
            self.wake(self._starved.pop())

    def next_turn(self, last: list[QuicStream], *, credit: int, size: int) -> list[QuicStream]:
        """Choose the streams that fill the next packet.

        Args:
            last: The turn before; those that got nothing come first again.
            credit: Bytes never sent before that the peer takes on all streams.
            size: Bytes that a packet holds.
        """
        waiting = self._waiting
        if not waiting and len(last) == 1 and self._goes_on(last[0], credit=credit):
            return last
        for stream in reversed(last):
            sender = sending_half(stream)
            if sender.stream_id not in self:
                continue
            if sender.served:
                sender.served = False
                waiting.append(sender.stream_id)
            else:
                waiting.appendleft(sender.stream_id)
        turn: list[QuicStream] = []
        filled = 0
        while waiting and filled < size and len(turn) < limits.QUIC_TURN_MAX:
            stream_id = waiting.popleft()
            chosen = self[stream_id]
            sender = sending_half(chosen)
            amount = 0 if chosen.is_blocked else sender.sendable(chosen.max_stream_data_remote, credit)
            if amount or sender.reset_pending or chosen.receiver.stop_pending or chosen.is_finished:
                turn.append(chosen)
                filled += amount
            else:
                sender.queued = False
                if sender.unsent and not credit:
                    self._starved.add(stream_id)
        return turn

    def _goes_on(self, stream: QuicStream, *, credit: int) -> bool:
        """Whether the only stream with work has bytes for one more packet."""
        sender = sending_half(stream)
        sender.served = False
        return sender.sendable(stream.max_stream_data_remote, credit) > 0 and not stream.is_blocked
