"""Targets for data connections: the words of their exchange, and sealed records.

Invariants: nothing but `RemoteProtocolError` leaves a parser; what was read is
written as the same bytes; a head is refused at the byte that shows it and not
before; no MAC and no seal holds that was not made with the secret.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from trunnel.errors import RemoteProtocolError
from trunnel.settings.limits import PROXY_HEADER_MAX
from trunnel.transports.direct import Seal
from trunnel.wire.direct import (
    CHALLENGE_SIZE,
    DIRECT_VERSION,
    LENGTH,
    MAGIC,
    PREFACE_SIZE,
    SEAL_AGENT,
    SEAL_SIZE,
    Answer,
    DirectKeys,
    Refusal,
    head_version_untrusted,
    read_answer_untrusted,
    read_challenge_untrusted,
    read_preface_untrusted,
    refusal_bytes,
    sealed_length,
    sealed_length_untrusted,
)

T = TypeVar("T")

_KEYS: Final = DirectKeys.derive(bytes(32), b"a" * 32, b"r" * 32)


def _outcome(read: Callable[[bytes], T], raw: bytes) -> T | None:
    """Return what *read* makes of *raw*, None for a refusal."""
    try:
        return read(raw)
    except RemoteProtocolError as exc:
        assert exc.reason
        return None


def _holds(check: Callable[..., None], *parts: bytes) -> bool:
    """Whether a MAC is right."""
    try:
        check(*parts)
    except RemoteProtocolError:
        return False
    return True


def fuzz_direct_preface(data: bytes) -> None:
    """A preface is `PREFACE_SIZE` bytes with our head, and every one of them matters."""
    shared = next((at for at, byte in enumerate(MAGIC) if data[at : at + 1] != bytes([byte])), len(MAGIC))
    for length in range(min(len(data), len(MAGIC)) + 1):
        is_refused = False
        try:
            assert head_version_untrusted(data[:length]) is None
        except RemoteProtocolError:
            is_refused = True
        assert is_refused == (length > shared)
    for raw in (data, MAGIC + bytes([DIRECT_VERSION]) + data[: PREFACE_SIZE - len(MAGIC) - 1]):
        preface = _outcome(read_preface_untrusted, raw)
        whole = len(raw) == PREFACE_SIZE and raw.startswith(MAGIC + bytes([DIRECT_VERSION]))
        assert (preface is not None) == whole
        assert preface is None or preface.encode() == raw


def fuzz_direct_exchange(data: bytes) -> None:
    """A challenge is a nonce or a refusal; no challenge and no proof of a stranger is right."""
    verdict = _outcome(read_challenge_untrusted, data)
    if isinstance(verdict, Refusal):
        assert data[:1] == refusal_bytes(verdict)[:1]
        assert verdict is not Refusal.NONE
    elif verdict is not None:
        assert len(data) == CHALLENGE_SIZE
        assert data.startswith(b"\0" + verdict)
    assert not _holds(_KEYS.check_challenge_untrusted, b"", data)
    assert not _holds(_KEYS.check_proof_untrusted, b"", b"", data)


def fuzz_direct_records(data: bytes) -> None:
    """Lengths are those that a header can have; nothing unseals but what was sealed."""
    length = _outcome(sealed_length_untrusted, data[: LENGTH.size])
    assert length is None or sealed_length(bytes(length - SEAL_SIZE)) == data[: LENGTH.size]
    said = _outcome(read_answer_untrusted, data)
    assert (said is None) == (len(data) != 1)
    assert said is not Answer.ACCEPTED or data == b"\0"
    assert _outcome(Seal(_KEYS.seal_agent, SEAL_AGENT).unseal_untrusted, data) is None
    sealed = Seal(_KEYS.seal_agent, SEAL_AGENT).seal(data[:PROXY_HEADER_MAX])
    assert Seal(_KEYS.seal_agent, SEAL_AGENT).unseal_untrusted(sealed) == data[:PROXY_HEADER_MAX]
