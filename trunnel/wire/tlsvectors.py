"""Read TLS presentation language: numbers and vectors that must fit exactly (RFC 8446 §3).

One cursor for everything inside a ClientHello.  Whatever does not fit raises
`RemoteProtocolError` with the name of the thing that was read; nothing else
leaves this file, and nothing is looked at twice.
"""

from __future__ import annotations

import struct
from typing import Final, Never, final

from trunnel.errors import RemoteProtocolError

UINT8: Final = 1
UINT16: Final = 2
UINT32: Final = 4
_PAIR_HEADER: Final = struct.Struct(">HH")


def malformed(reason: str) -> Never:
    """Refuse the ClientHello."""
    raise RemoteProtocolError(f"malformed ClientHello: {reason}")


@final
class VectorReader:
    """A cursor over *octets*; *what* names them in errors."""

    __slots__ = ("_at", "_octets", "_what")

    def __init__(self, octets: bytes, what: str) -> None:
        self._octets = octets
        self._what = what
        self._at = 0

    def __bool__(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._octets)

    def take(self, count: int) -> bytes:
        """Take *count* bytes."""
        end = self._at + count
        if end > len(self._octets):
            malformed(f"{self._what} ends early")
        taken = self._octets[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        """Take an unsigned number of *size* bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Take a vector: its length in *size* bytes, then so many bytes."""
        return self.take(self.number(size))

    def end(self) -> None:
        """Refuse bytes that are left over."""
        if self:
            malformed(f"{self._what} has bytes left over")


def only_vector(body: bytes, size: int, what: str) -> bytes:
    """Return the content of a body that is one non-empty vector and nothing else."""
    reader = VectorReader(body, what)
    content = reader.vector(size)
    reader.end()
    if not content:
        malformed(f"{what} is empty")
    return content


def numbers16(content: bytes, what: str) -> tuple[int, ...]:
    """Return the 16-bit numbers in the content of a vector that must hold at least one."""
    count, odd = divmod(len(content), UINT16)
    if odd or not count:
        malformed(f"{what} has {len(content)} bytes, not a whole number of 16-bit values")
    return struct.unpack(f">{count}H", content)


# The next two are loops over up to 16 KiB of a stranger's bytes, so they do without the cursor.


def split_vectors(content: bytes, size: int, what: str) -> list[bytes]:
    """Split *content* into vectors whose lengths have *size* bytes."""
    found: list[bytes] = []
    at, end = 0, len(content)
    while at < end:
        start = at + size
        at = start + int.from_bytes(content[at:start], "big")
        found.append(content[start:at])
    if at != end:
        malformed(f"{what} ends early")
    return found


def split_pairs(content: bytes, what: str) -> list[tuple[int, bytes]]:
    """Split *content* into pairs of a 16-bit number and a vector with a 16-bit length."""
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(content)
    while at < end:
        start = at + _PAIR_HEADER.size
        if start > end:
            malformed(f"{what} ends early")
        number, length = _PAIR_HEADER.unpack_from(content, at)
        at = start + length
        found.append((number, content[start:at]))
    if at != end:
        malformed(f"{what} ends early")
    return found
