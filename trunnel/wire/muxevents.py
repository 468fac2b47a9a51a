"""What the state machine of a multiplexed connection reports, as values.

HTTP/2 and yamux report the same things, so that one driver serves both.  A
carrier's end, the events of one stream in order:

    StreamOpened? -> BytesReceived* -> (StreamEnded -> StreamAborted?) | StreamAborted

`StreamOpened` only where the peer opened it, nothing once both sides have
ended, and nothing after `StreamAborted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

from trunnel.errors import ErrorCode


@final
class Role(Enum):
    """Which end of a multiplexed connection we are."""

    CLIENT = "client"
    """The relay: opens streams, with odd numbers."""
    SERVER = "server"
    """The agent: accepts them."""


@final
@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Payload for a stream; its length goes to the connection's `consumed` once it is read."""

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
    """The stream was reset: by the peer, or by us for what the peer did."""

    stream_id: int
    code: ErrorCode


@final
@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent on a stream; 0 means on any, and that a stream may be opened."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The peer answered a ping with the same opaque bytes."""

    payload: bytes


@final
@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer opens and accepts no more streams (GOAWAY)."""

    code: ErrorCode
    last_stream_id: int
    debug: bytes


MuxEvent = StreamOpened | BytesReceived | StreamEnded | StreamAborted | WindowOpened | PingAnswered | GoneAway
