"""The words of a data connection: sizes, who proves what, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings.limits import PROXY_HEADER_MAX, STREAM_NAME_MAX
from trunnel.wire.direct import (
    ANSWER_SIZE,
    CHALLENGE_SIZE,
    DIRECT_VERSION,
    MAGIC,
    PREFACE_SIZE,
    PROOF_SIZE,
    SEAL_SIZE,
    Answer,
    DirectKeys,
    Preface,
    Refusal,
    head_version_untrusted,
    read_answer_untrusted,
    read_challenge_untrusted,
    read_preface_untrusted,
    refusal_bytes,
    relay_digest,
    sealed_length,
    sealed_length_untrusted,
    session_tag,
)

SPKI = b"a relay's key"
SECRET = bytes(range(32))
NONCE_A = b"a" * 32
NONCE_R = b"r" * 32
PREFACE = Preface(relay_digest(KeyId.of_spki(SPKI)), session_tag("s-1"), NONCE_A)
SAID = PREFACE.encode()
KEYS = DirectKeys.derive(SECRET, NONCE_A, NONCE_R)
CHALLENGE = KEYS.challenge(SAID, NONCE_R)
PROOF = KEYS.proof(SAID, CHALLENGE)


def flipped(raw: bytes, bit: int) -> bytes:
    """Return *raw* with one bit changed."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- preface ----------------------------------------------------------------------------------


@given(*[st.binary(min_size=32, max_size=32)] * 3)
def test_a_preface_reads_back(relay: bytes, session: bytes, nonce: bytes) -> None:
    raw = Preface(relay, session, nonce).encode()
    assert len(raw) == PREFACE_SIZE
    assert read_preface_untrusted(raw) == Preface(relay, session, nonce)


def test_the_relay_is_named_by_the_digest_that_its_id_spells() -> None:
    assert relay_digest(KeyId.of_spki(SPKI)) == hashlib.sha256(SPKI).digest()


def test_a_session_of_the_longest_id_has_a_tag_of_its_own() -> None:
    tags = {session_tag(name) for name in ("s-1", "s-2", "s" * STREAM_NAME_MAX)}
    assert len(tags) == 3


def test_the_first_byte_is_that_of_no_tls_record_and_of_no_text() -> None:
    """RFC 8446 §5.1: record types are 20 to 24; a method is ASCII."""
    assert MAGIC[0] not in range(20, 25)
    assert MAGIC[0] > 127


@pytest.mark.parametrize("length", range(len(MAGIC) + 1))
def test_the_head_of_a_preface_is_waited_for(length: int) -> None:
    assert head_version_untrusted(SAID[:length]) is None
    assert head_version_untrusted(SAID[: len(MAGIC) + 1]) == DIRECT_VERSION


@pytest.mark.parametrize("bit", range(8 * len(MAGIC)))
def test_a_wrong_head_is_refused_at_the_byte_that_shows_it(bit: int) -> None:
    wrong = flipped(SAID, bit)
    head_version_untrusted(wrong[: bit // 8])
    for length in (bit // 8 + 1, len(MAGIC), PREFACE_SIZE):
        with pytest.raises(RemoteProtocolError):
            head_version_untrusted(wrong[:length])


def test_another_version_is_told_from_the_head_and_has_no_preface() -> None:
    later = MAGIC + b"\x02" + bytes(200)
    assert head_version_untrusted(later) == 2
    for raw in (later, later[:PREFACE_SIZE]):
        with pytest.raises(RemoteProtocolError):
            read_preface_untrusted(raw)


@pytest.mark.parametrize("raw", [b"", SAID[:-1], SAID + b"x", b"\x16" + SAID[1:]])
def test_what_is_no_preface_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_preface_untrusted(raw)


# --- proof ------------------------------------------------------------------------------------


def test_both_sides_prove_that_they_know_the_secret() -> None:
    assert (len(CHALLENGE), len(PROOF)) == (CHALLENGE_SIZE, PROOF_SIZE)
    assert read_challenge_untrusted(CHALLENGE) == NONCE_R
    KEYS.check_challenge_untrusted(SAID, CHALLENGE)
    KEYS.check_proof_untrusted(SAID, CHALLENGE, PROOF)


@pytest.mark.parametrize("bit", range(0, 8 * PREFACE_SIZE, 7))
def test_every_bit_of_the_preface_is_proved(bit: int) -> None:
    said = flipped(SAID, bit)
    with pytest.raises(RemoteProtocolError):
        KEYS.check_challenge_untrusted(said, CHALLENGE)
    with pytest.raises(RemoteProtocolError):
        KEYS.check_proof_untrusted(said, CHALLENGE, PROOF)


@pytest.mark.parametrize("bit", range(8 * CHALLENGE_SIZE))
def test_every_bit_of_the_challenge_is_proved(bit: int) -> None:
    challenge = flipped(CHALLENGE, bit)
    with pytest.raises(RemoteProtocolError):
        KEYS.check_challenge_untrusted(SAID, challenge)
    with pytest.raises(RemoteProtocolError):
        KEYS.check_proof_untrusted(SAID, challenge, PROOF)


@pytest.mark.parametrize("bit", range(8 * PROOF_SIZE))
def test_every_bit_of_the_proof_counts(bit: int) -> None:
    with pytest.raises(RemoteProtocolError):
        KEYS.check_proof_untrusted(SAID, CHALLENGE, flipped(PROOF, bit))


def test_a_mac_of_another_length_is_wrong() -> None:
    for proof in (b"", PROOF[:-1], PROOF + b"\0"):
        with pytest.raises(RemoteProtocolError):
            KEYS.check_proof_untrusted(SAID, CHALLENGE, proof)


@pytest.mark.parametrize(
    "other",
    [
        DirectKeys.derive(flipped(SECRET, 0), NONCE_A, NONCE_R),
        DirectKeys.derive(SECRET, flipped(NONCE_A, 0), NONCE_R),
        DirectKeys.derive(SECRET, NONCE_A, flipped(NONCE_R, 0)),
        DirectKeys.derive(SECRET, NONCE_R, NONCE_A),
    ],
    ids=["secret", "nonce_a", "nonce_r", "exchanged"],
)
def test_keys_of_anything_else_prove_nothing(other: DirectKeys) -> None:
    """Another session, a replayed preface, and what one side said sent back to it."""
    with pytest.raises(RemoteProtocolError):
        other.check_challenge_untrusted(SAID, CHALLENGE)
    with pytest.raises(RemoteProtocolError):
        other.check_proof_untrusted(SAID, CHALLENGE, PROOF)
    assert not set(dataclasses.astuple(other)) & set(dataclasses.astuple(KEYS))


def test_each_purpose_and_direction_has_a_key_of_its_own() -> None:
    assert len(set(dataclasses.astuple(KEYS))) == 4


def test_keys_are_not_shown() -> None:
    assert repr(KEYS) == "DirectKeys()"


@pytest.mark.parametrize("refusal", [refusal for refusal in Refusal if refusal])
def test_a_refusal_reads_back_and_tells_nothing_else(refusal: Refusal) -> None:
    raw = refusal_bytes(refusal)
    assert raw == bytes([refusal]) + bytes(CHALLENGE_SIZE - 1)
    assert read_challenge_untrusted(raw) is refusal


def test_refusals_have_reasons_for_people() -> None:
    assert len({refusal.reason for refusal in Refusal}) == len(Refusal)


@pytest.mark.parametrize("raw", [b"", CHALLENGE[:-1], CHALLENGE + b"x", b"\x06" + bytes(64), b"\xff" + bytes(64)])
def test_what_is_no_challenge_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_challenge_untrusted(raw)


# --- taking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, PROXY_HEADER_MAX])
def test_the_length_ahead_is_that_of_the_sealed_header(size: int) -> None:
    assert sealed_length_untrusted(sealed_length(bytes(size))) == size + SEAL_SIZE


@pytest.mark.parametrize("size", [0, PROXY_HEADER_MAX + 1])
def test_we_seal_no_header_that_the_agent_would_refuse(size: int) -> None:
    with pytest.raises(LocalProtocolError):
        sealed_length(bytes(size))


@pytest.mark.parametrize("length", [0, SEAL_SIZE, PROXY_HEADER_MAX + SEAL_SIZE + 1, 65535])
def test_a_length_that_no_header_has_is_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        sealed_length_untrusted(length.to_bytes(2))


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0\x20\0"])
def test_a_length_has_two_bytes(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        sealed_length_untrusted(raw)


@pytest.mark.parametrize("number", range(256))
def test_every_answer_means_something(number: int) -> None:
    """One that we do not know is a failure, never an acceptance."""
    answer = read_answer_untrusted(bytes([number]))
    assert answer == number or answer is Answer.FAILED
    assert (answer.code is ErrorCode.NO_ERROR) == (number == 0)


@pytest.mark.parametrize("plain", [b"", b"\0\0"])
def test_an_answer_is_one_byte(plain: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_answer_untrusted(plain)
    assert ANSWER_SIZE == 1 + SEAL_SIZE
