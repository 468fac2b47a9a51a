"""Where hypothesis gets its bytes: from nothing, from a seed's head, and from mutated seeds.

Plain random bytes rarely pass the first length field.  A true prefix followed
by noise reaches the states behind it, and small edits of true input reach the
checks that a parser forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import strategies as st

NOISE_MAX: Final = 512
"""Bytes of random input at once; longer input comes from seeds."""
EDITS_MAX: Final = 4
"""Edits of one seed."""
EDGE_BYTES: Final = (0x00, 0x01, 0x7F, 0x80, 0xFF)
"""Values at which length and sign checks turn."""

_noise = st.binary(max_size=NOISE_MAX)


def inputs_for(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy of inputs around *seeds* (there may be none)."""
    if not seeds:
        return _noise
    return st.one_of(_noise, _headed(seeds), _edited(seeds))


@st.composite
def _headed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed's first bytes, then noise."""
    seed = draw(st.sampled_from(seeds))
    return seed[: draw(st.integers(0, len(seed)))] + draw(_noise)


@st.composite
def _edited(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with one to four edits."""
    edited = draw(st.sampled_from(seeds))
    for edit in draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=EDITS_MAX)):
        edited = edit(draw, edited, seeds)
    return edited


def _cut(draw: st.DrawFn, octets: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Remove a slice."""
    start, end = sorted((draw(st.integers(0, len(octets))), draw(st.integers(0, len(octets)))))
    return octets[:start] + octets[end:]


def _replace(draw: st.DrawFn, octets: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Set one byte."""
    at = draw(st.integers(0, len(octets)))
    value = draw(st.one_of(st.sampled_from(EDGE_BYTES), st.integers(0, 255)))
    return octets[:at] + bytes([value]) + octets[at + 1 :]


def _nudge(draw: st.DrawFn, octets: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Change one byte by one: the off-by-one of every length field."""
    if not octets:
        return octets
    at = draw(st.integers(0, len(octets) - 1))
    step = draw(st.sampled_from((-1, 1)))
    return octets[:at] + bytes([(octets[at] + step) % 256]) + octets[at + 1 :]


def _insert(draw: st.DrawFn, octets: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Insert noise."""
    at = draw(st.integers(0, len(octets)))
    return octets[:at] + draw(st.binary(max_size=16)) + octets[at:]


def _repeat(draw: st.DrawFn, octets: bytes, _seeds: Sequence[bytes]) -> bytes:
    """Repeat a slice in place."""
    start, end = sorted((draw(st.integers(0, len(octets))), draw(st.integers(0, len(octets)))))
    return octets[:end] + octets[start:]


def _splice(draw: st.DrawFn, octets: bytes, seeds: Sequence[bytes]) -> bytes:
    """Go on with the tail of another seed."""
    other = draw(st.sampled_from(seeds))
    return octets[: draw(st.integers(0, len(octets)))] + other[draw(st.integers(0, len(other))) :]


Edit = Callable[[st.DrawFn, bytes, Sequence[bytes]], bytes]
EDITS: Final[tuple[Edit, ...]] = (_cut, _replace, _nudge, _insert, _repeat, _splice)
