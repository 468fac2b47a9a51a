"""What `h2_receive.H2Receiver` reports, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from trunnel.errors import ErrorCode


@final
@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Payload for a stream; its length goes to `H2Connection.consumed` once it is read."""

    stream_id: int
    payload: bytes


@final
@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on a stream (FIN)."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class StreamAborted:
    """The stream was reset: by the peer, or by us for the peer's mistake."""

    stream_id: int
    code: ErrorCode


@final
@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent on a stream; 0 means on any."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The peer answered a ping with the same eight bytes."""

    payload: bytes


@final
@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer opens and accepts no more streams (GOAWAY)."""

    code: ErrorCode
    last_stream_id: int
    debug: bytes


H2Event = StreamOpened | BytesReceived | StreamEnded | StreamAborted | WindowOpened | PingAnswered | GoneAway
