"""What the supervisor and a worker say to each other, on a socket pair of sequenced packets.

    supervisor → worker   several `Order`s a packet; their descriptors ride on it, in order (SCM_RIGHTS)
    worker → supervisor   any number of `Report`s a packet, of fixed size

The worker answers every TAKE with TAKEN or REFUSED, and every taken stream
with one DONE, whatever ends it.  Neither side parses a stranger's bytes here,
so a breach is a bug and raises.  Byte counts do not travel in reports alone:
they live in shared memory, two 64-bit numbers a stream (`slot`), so that they
can be looked at while bytes flow and survive a worker that is killed.

Imported by workers: standard library only.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, final

ORDER_MAX: Final = 64 * 1024
"""Bytes of the largest packet; what is longer (twenty leaves with their chains) comes in parts."""
PAYLOAD_MAX: Final = 32 * 1024
"""Bytes of a payload in one order: far from what the kernel takes as one packet."""
ORDERS_PER_PACKET: Final = 16
"""Orders in one packet at most: with 32 descriptors, far from the kernel's 253."""
REPORT_BATCH: Final = 256
"""Reports in one packet at most."""
SLOT_SIZE: Final = 16
"""Bytes of shared memory for a stream: read from the left, read from the right."""

_ORDER: Final = struct.Struct("<BBHI4d")
_REPORT: Final = struct.Struct("<BBBxIdQQ64s")
REPORT_SIZE: Final = _REPORT.size


@final
class Verb(IntEnum):
    """What a worker is to do."""

    TAKE = 1
    """Pump between the two descriptors on this packet, left first."""
    CANCEL = 2
    """Abort a stream."""
    LEAF = 3
    """Show these certificates to the visitors that come from now on; a worker that ends TLS only."""
    TERMINATE = 4
    """End the TLS of the visitor on the descriptor of this packet; `first_byte` is the handshake's deadline."""
    JOIN = 5
    """Pump between that visitor and the descriptor on this packet."""


@final
class News(IntEnum):
    """What a worker reports."""

    HIRED = 1
    """It is ready for orders."""
    TAKEN = 2
    """It has the descriptors of an order; the sender's copies can be closed."""
    REFUSED = 3
    """It did not get both descriptors, or has no room; the stream is the sender's still."""
    DONE = 4
    """A stream is over and its descriptors are closed."""
    SHAKEN = 5
    """A visitor's handshake is done; `text` is the version of TLS, a space, and the protocol of ALPN or nothing."""


@final
class Finish(IntEnum):
    """How one side's bytes ended: `streams.copy.End`, as numbers."""

    NOT = 0
    FIN = 1
    RESET = 2
    DEADLINE = 3
    CANCELLED = 4
    ERROR = 5


@final
class Order(NamedTuple):
    """One order; times in seconds, infinity for none."""

    verb: Verb
    stream: int
    """The supervisor's number for it, not in use."""
    slot: int = 0
    """Where its counts are."""
    flags: int = 0
    """`LEFT_ANSWERS` or `MORE_FOLLOWS`, see below."""
    first_byte: float = 0.0
    idle: float = 0.0
    half_closed: float = 0.0
    total: float = 0.0
    payload: bytes = b""
    """Leaves, or a part of them: a secret, which `repr` leaves out."""

    def __repr__(self) -> str:
        return f"Order({self.verb.name}, stream={self.stream}, slot={self.slot}, {len(self.payload)} bytes more)"

    def encode(self) -> bytes:
        """Return the packet."""
        return (
            _ORDER.pack(
                self.verb, self.flags, self.slot, self.stream, self.first_byte, self.idle, self.half_closed, self.total
            )
            + self.payload
        )


LEFT_ANSWERS: Final = 1
"""Flag: the first byte is awaited from the left side, not from the right."""
MORE_FOLLOWS: Final = 1
"""Flag of LEAF: the payload goes on in the next order of this kind."""


def leaf_orders(encoded: bytes) -> list[Order]:
    """Return the orders that bring leaves (`leaf.encode_leaves`) to a worker; nothing may come in between."""
    last = len(encoded) - PAYLOAD_MAX
    return [
        Order(Verb.LEAF, 0, flags=MORE_FOLLOWS if start < last else 0, payload=encoded[start : start + PAYLOAD_MAX])
        for start in range(0, len(encoded), PAYLOAD_MAX)
    ]


@final
class Report(NamedTuple):
    """One report."""

    news: News
    stream: int = 0
    left: Finish = Finish.NOT
    right: Finish = Finish.NOT
    seconds: float = 0.0
    left_bytes: int = 0
    right_bytes: int = 0
    text: bytes = b""
    """At most 64 bytes, no zeros at its end: of SHAKEN, or why a handshake failed."""

    def encode(self) -> bytes:
        """Return its part of a packet."""
        return _REPORT.pack(
            self.news, self.left, self.right, self.stream, self.seconds, self.left_bytes, self.right_bytes, self.text
        )


def decode_orders(packet: bytes) -> list[Order]:
    """Return the orders in a packet; raises struct.error or ValueError for what is none.

    One with a payload (LEAF) has a packet of its own.
    """
    payload = b""
    if packet[:1] == bytes([Verb.LEAF]):
        packet, payload = packet[: _ORDER.size], packet[_ORDER.size :]
    return [
        Order(Verb(verb), stream, slot, flags, first_byte, idle, half_closed, total, payload)
        for verb, flags, slot, stream, first_byte, idle, half_closed, total in _ORDER.iter_unpack(packet)
    ]


def decode_reports(packet: bytes) -> list[Report]:
    """Return the reports in a packet; raises struct.error or ValueError for what is none."""
    return [
        Report(News(news), stream, Finish(left), Finish(right), seconds, left_bytes, right_bytes, text.rstrip(b"\0"))
        for news, left, right, stream, seconds, left_bytes, right_bytes, text in _REPORT.iter_unpack(packet)
    ]
