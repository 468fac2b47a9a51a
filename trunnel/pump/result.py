"""What became of a pumped stream."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from trunnel.streams.copy import End


@final
class Way(StrEnum):
    """Who moved the bytes."""

    SPLICE = "splice"
    """A worker process, from socket to socket."""
    TLS = "tls"
    """A worker process that ended the visitor's TLS."""
    COPY = "copy"
    """This process."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PumpResult:
    """What was moved and how it ended; `left_bytes` were read from the left side."""

    left_bytes: int
    right_bytes: int
    left_end: End
    right_end: End
    seconds: float
    way: Way
