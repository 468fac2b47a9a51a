"""Mutations of ClientHellos: most keep the lengths around a change consistent, so that it lies deep.

A byte flipped at random nearly always breaks an outer length and is refused at
the door.  So a hello is taken apart (`dissect`), one or more things in it are
changed, and it is put together again with right lengths, or with one wrong
length, and cut into records anew.  Everything is decided by the `random.Random`
that the caller gives: the same seed makes the same streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from tests.wire import hello_builder as build
from tests.wire.hello_builder import Extension, Hello

_INTERESTING: Final = (0, 1, 2, 3, 4, 5, 16, 22, 31, 32, 33, 127, 128, 254, 255)
_NAMES: Final = (
    b"a.example",
    b"b.example",
    b"A.Example.",
    b"",
    b"192.0.2.1",
    b"a.example\x00.evil.example",
    b"\xe2\x84\xaa.example",
    b"x" * 63 + b".y",
    b"x." * 127 + b"y",
    b"y" * 256,
)


def dissect(stream: bytes) -> Hello | None:
    """Take a stream apart, or return None if it is not one well-shaped hello."""
    message, _ = build.split_records(stream)
    body = message[4:]
    parts: list[bytes] = []
    at = 34
    for size in (1, 2, 1):
        length = int.from_bytes(body[at : at + size], "big")
        parts.append(body[at + size : at + size + length])
        at += size + length
    extensions: list[Extension] = []
    at += 2
    while at + 4 <= len(body):
        kind, length = (int.from_bytes(body[at + skip : at + skip + 2], "big") for skip in (0, 2))
        extensions.append((kind, body[at + 4 : at + 4 + length]))
        at += 4 + length
    hello = Hello(
        legacy_version=int.from_bytes(body[:2], "big"),
        random=body[2:34],
        session_id=parts[0],
        ciphers=parts[1],
        compression=parts[2],
        extensions=tuple(extensions),
    )
    try:
        return hello if hello.message() == message else None
    except OverflowError:
        return None


def mutate(seed: bytes, rng: Random) -> bytes:
    """Return a stream like *seed* with some changes; never longer than it plus some kilobytes."""
    hello = dissect(seed) if rng.random() < 0.85 else None
    if hello is None:
        return _flip(seed, rng)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            hello = rng.choice(_CHANGES)(hello, rng)
        message = hello.message()
    except OverflowError:  # a change made a vector too long for its length
        return _flip(seed, rng)
    if rng.random() < 0.1:
        message = _flip(message, rng)
    return _into_records(message, rng)


def _into_records(message: bytes, rng: Random) -> bytes:
    """Put *message* into one record (mostly), or into many, now and then with trailing bytes."""
    if rng.random() < 0.7 and len(message) <= 1 << 14:
        stream = build.record(message)
    else:
        cuts = [rng.randrange(len(message) + 1) for _ in range(rng.choice((1, 2, 5, 40)))]
        stream = build.fragment(message, cuts, version=rng.choice((0x0301, 0x0303, 0x0304)))
    return stream + bytes(5) if rng.random() < 0.03 else stream


def _flip(octets: bytes, rng: Random) -> bytes:
    """Change, insert or remove a few bytes anywhere."""
    changed = bytearray(octets)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        action = rng.randrange(4)
        if action == 0:
            changed[at:at] = bytes([rng.choice(_INTERESTING)])
        elif action == 1:
            del changed[at : at + rng.choice((1, 2, 4))]
        elif at < len(changed):
            changed[at] = rng.choice(_INTERESTING) if action == 2 else changed[at] ^ (1 << rng.randrange(8))
    return bytes(changed)


# --- changes to one hello ---------------------------------------------------------------------


def _change_body(hello: Hello, rng: Random) -> Hello:
    """Flip bytes in one extension; the lengths around it stay right."""
    extensions = list(hello.extensions or ())
    if extensions:
        at = rng.randrange(len(extensions))
        kind, body = extensions[at]
        extensions[at] = (kind, _flip(body, rng))
    return replace(hello, extensions=tuple(extensions))


def _change_vector(hello: Hello, rng: Random) -> Hello:
    """Put an invented vector, of any length, into a known extension; every length is right."""
    kind = rng.choice(_KINDS)
    content = bytes(rng.choice(_INTERESTING) for _ in range(rng.choice((0, 1, 2, 3, 4, 6, 8, 33))))
    body = rng.choice(
        (
            content,
            build.vector(1, content),
            build.vector(2, content),
            build.vector(2, build.vector(1, content)),
            build.vector(2, build.vector(2, content)),
            build.vector(2, b"\x00" + build.vector(2, content)),
            b"\x01" + build.vector(2, content) + build.vector(2, b""),
            b"\x01" + build.vector(2, b"") + build.vector(2, content),
        )
    )
    return hello.replacing(kind, body)


def _change_name(hello: Hello, rng: Random) -> Hello:
    names = [rng.choice(_NAMES) for _ in range(rng.choice((1, 1, 1, 2)))]
    kinds = [rng.choice((0, 0, 0, 1, 255)) for _ in names]
    return hello.replacing(
        *build.sni(*names, kinds=kinds, lie=rng.choice((0, 0, 0, 0, 1)), tail=bytes(rng.choice((0, 0, 0, 1))))
    )


def _reorder(hello: Hello, rng: Random) -> Hello:
    extensions = list(hello.extensions or ())
    rng.shuffle(extensions)
    return replace(hello, extensions=tuple(extensions))


def _drop_or_double(hello: Hello, rng: Random) -> Hello:
    extensions = list(hello.extensions or ())
    if extensions:
        at = rng.randrange(len(extensions))
        if rng.random() < 0.7:
            del extensions[at]
        else:
            extensions.insert(rng.randrange(len(extensions) + 1), extensions[at])
    return replace(hello, extensions=tuple(extensions))


def _retype(hello: Hello, rng: Random) -> Hello:
    extensions = list(hello.extensions or ())
    if extensions:
        at = rng.randrange(len(extensions))
        extensions[at] = (rng.choice(_KINDS), extensions[at][1])
    return replace(hello, extensions=tuple(extensions))


def _lie(hello: Hello, rng: Random) -> Hello:
    off_by = rng.choice((-2, -1, 1, 2, 255))
    if rng.random() < 0.5:
        return replace(hello, block_lie=max(off_by, -2))
    return replace(hello, message_lie=off_by)


def _change_field(hello: Hello, rng: Random) -> Hello:
    return rng.choice(
        (
            replace(hello, session_id=bytes(rng.choice((0, 1, 31, 32, 33, 255)))),
            replace(hello, ciphers=_flip(hello.ciphers, rng)),
            replace(hello, compression=rng.choice((b"", b"\x00", b"\x01", b"\x01\x00"))),
            replace(hello, legacy_version=rng.choice((0x0002, 0x0300, 0x0301, 0x0303, 0x0304, 0xFFFF))),
            replace(hello, extensions=rng.choice((None, ()))),
            replace(hello, tail=bytes(rng.choice((1, 2, 3)))),
            replace(hello, message_type=rng.choice((0, 1, 1, 2))),
            hello.replacing(*build.versions(*rng.choices((0x0301, 0x0302, 0x0303, 0x0304, 0x3A3A), k=2))),
        )
    )


_CHANGES: Final[tuple[Callable[[Hello, Random], Hello], ...]] = (
    _change_body,
    _change_body,
    _change_body,
    _change_vector,
    _change_vector,
    _change_name,
    _reorder,
    _drop_or_double,
    _retype,
    _lie,
    _change_field,
)

_KINDS: Final = (
    *(0, 0, 0, 1, 5, 10, 11, 12, 13, 14, 16, 18, 19, 20, 21, 22, 23, 27, 28, 35, 41, 42, 43, 44, 45, 47, 49, 50, 51),
    *(0x3374, 0xFE0D, 0xFF01),
)
