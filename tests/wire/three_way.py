"""One exam for every incremental parser: whole, byte at a time, and with bytes behind.

A test describes its parser by a *drive*: a function that feeds the given chunks
to a fresh parser and returns `Parsed`, what came out and which bytes were not
used.  It raises what the parser raises.  For example:

    def drive(chunks: Iterable[bytes]) -> Parsed:
        return drive_until_done(Parser().feed_untrusted, lambda: parser.leftover, chunks)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trunnel.errors import ErrorCode, RemoteProtocolError

TRAILING = b"\x16\x03\x01 what follows is not the parser's"
"""Bytes that a parser must leave alone."""


@dataclass(frozen=True)
class Parsed:
    """What a parser made of its input."""

    value: object
    """The parser's result; None if it wants more."""
    rest: bytes = b""
    """Bytes behind the result, untouched."""


@dataclass(frozen=True)
class Refused:
    """A parser's typed refusal, as a value that can be compared."""

    reason: str
    code: ErrorCode


Drive = Callable[[Iterable[bytes]], Parsed]


def drive_until_done(
    feed: Callable[[bytes], object | None], leftover: Callable[[], bytes], chunks: Iterable[bytes]
) -> Parsed:
    """Feed *chunks* until *feed* returns something; the leftover and all later chunks are the rest."""
    value: object | None = None
    rest = bytearray()
    for chunk in chunks:
        if value is not None:
            rest += chunk
            continue
        value = feed(chunk)
        if value is not None:
            rest += leftover()
    return Parsed(value, bytes(rest))


def outcome(drive: Drive, chunks: Iterable[bytes]) -> Parsed | Refused:
    """Return what *drive* makes of *chunks*; a RemoteProtocolError is a value, anything else escapes."""
    try:
        return drive(chunks)
    except RemoteProtocolError as exc:
        return Refused(exc.reason, exc.code)


def octets(wire: bytes) -> list[bytes]:
    """Cut *wire* into single bytes."""
    return [wire[at : at + 1] for at in range(len(wire))]


def split_at(wire: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut *wire* at the given places (any integers; those outside are ignored)."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(wire)}), len(wire)]
    return [wire[start:end] for start, end in pairwise(places)]


def check_three_ways(drive: Drive, wire: bytes, expected: object, *, trailing: bytes = TRAILING) -> None:
    """Assert that *wire* gives *expected* whole, byte at a time, in every two parts, and with *trailing* left over."""
    assert drive([wire]) == Parsed(expected)
    assert drive(octets(wire)) == Parsed(expected)
    for cut in range(1, len(wire)):
        assert drive([wire[:cut], wire[cut:]]) == Parsed(expected), f"cut at {cut}"
    assert drive([wire + trailing]) == Parsed(expected, trailing)
    assert drive(octets(wire + trailing)) == Parsed(expected, trailing)


def check_refused(drive: Drive, wire: bytes, *, reason: str = "") -> Refused:
    """Assert that *wire* is refused alike whole and byte at a time, with *reason* in the text; return the refusal."""
    whole = outcome(drive, [wire])
    assert isinstance(whole, Refused), f"accepted: {whole}"
    assert reason in whole.reason
    assert outcome(drive, octets(wire)) == whole
    return whole


def check_split_invariance(drive: Drive, wire: bytes, cuts: Sequence[int]) -> Parsed | Refused:
    """Assert that *wire* means the same whole, cut at *cuts* and byte at a time; return what it means."""
    whole = outcome(drive, [wire])
    assert outcome(drive, split_at(wire, cuts)) == whole
    assert outcome(drive, octets(wire)) == whole
    return whole
