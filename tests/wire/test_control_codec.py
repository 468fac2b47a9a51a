"""Control messages on the wire: framing, and what a hostile peer can send."""

from __future__ import annotations

import json
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.wire_targets import fuzz_control
from tests.wire.control_cases import (
    SAMPLES,
    WELCOME,
    decode,
    drive,
    frame,
)
from tests.wire.three_way import Parsed, Refused, check_refused, octets, outcome, split_at
from trunnel.errors import RejectCode, RemoteProtocolError
from trunnel.settings.limits import (
    CONTROL_LIST_MAX,
    CONTROL_MESSAGE_MAX,
    CONTROL_SECONDS_MAX,
    CONTROL_TEXT_MAX,
)
from trunnel.wire.control import Drain, Endpoint, Endpoints, Hello, Message, Ping, Pong, Probe, Probed, Rejected
from trunnel.wire.control_codec import ControlDecoder, encode

# --- framing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_reads_back_however_it_was_cut(message: Message) -> None:
    wire = encode(message)
    behind = b"\x00\x00\x00\x10{"
    for chunks in ([wire], octets(wire), *([wire[:cut], wire[cut:]] for cut in range(1, len(wire)))):
        assert drive(chunks) == Parsed([message])
    for chunks in ([wire + behind], octets(wire + behind)):
        assert drive(chunks) == Parsed([message], behind)


def test_a_chunk_may_hold_many_messages() -> None:
    assert drive([b"".join(map(encode, SAMPLES))]) == Parsed(SAMPLES)


@pytest.mark.parametrize("length", [0, CONTROL_MESSAGE_MAX + 1, 2**31, 2**32 - 1])
def test_a_length_out_of_range_is_refused_from_its_four_bytes(length: int) -> None:
    check_refused(drive, struct.pack("!I", length), reason=f"{length} bytes")


@pytest.mark.parametrize("length", [1, CONTROL_MESSAGE_MAX - 1, CONTROL_MESSAGE_MAX])
def test_a_length_in_range_waits_for_its_body(length: int) -> None:
    decoder = ControlDecoder()
    assert decoder.feed_untrusted(struct.pack("!I", length) + b" " * (length - 1)) == []
    assert decoder.pending == 4 + length - 1
    with pytest.raises(RemoteProtocolError):
        decoder.feed_untrusted(b" ")


def test_the_largest_message_is_read() -> None:
    body = b'{"kind":"ping","id":1,"later":"%s"}'
    body %= b"x" * (CONTROL_MESSAGE_MAX - len(body) + 2)
    assert len(body) == CONTROL_MESSAGE_MAX
    assert decode(frame(body)) == Ping(1)


def test_nothing_beyond_the_limit_is_kept_of_a_chunk() -> None:
    """A large chunk behind a bad length is refused before it is copied."""
    chunk = struct.pack("!I", 2**32 - 1) + bytes(8_000_000)
    decoder = ControlDecoder()
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decoder.feed_untrusted(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < CONTROL_MESSAGE_MAX
    assert decoder.pending == 0


def test_a_decoder_that_refused_keeps_refusing() -> None:
    decoder = ControlDecoder()
    for chunk in (bytes(4), encode(Ping(1)), b""):
        with pytest.raises(RemoteProtocolError, match="0 bytes"):
            decoder.feed_untrusted(chunk)


# --- JSON of a hostile peer -------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"ping"', id="a string"),
        pytest.param(b'{"kind":"ping","id":1} x', id="something behind"),
        pytest.param(b'{"kind":"ping","id":1}{"kind":"ping","id":1}', id="two values"),
        pytest.param(b'\xef\xbb\xbf{"kind":"ping","id":1}', id="a byte order mark"),
        pytest.param(b'{"id":1}', id="no kind"),
        pytest.param(b'{"kind":"reboot"}', id="unknown kind"),
        pytest.param(b'{"kind":1,"id":1}', id="kind of another type"),
        pytest.param(b'{"kind":"Ping","id":1}', id="kind in another case"),
        pytest.param(b'{"kind":"ping","id":1,"kind":"pong"}', id="two kinds"),
        pytest.param(b'{"kind":"ping"}', id="field missing"),
        pytest.param(b'{"kind":"ping","id":null}', id="null for a number"),
        pytest.param(b'{"kind":"ping","id":-1}', id="negative"),
        pytest.param(b'{"kind":"ping","id":1.5}', id="a fraction"),
        pytest.param(b'{"kind":"ping","id":true}', id="a truth value"),
        pytest.param(b'{"kind":"ping","id":"1"}', id="a number in quotes"),
        pytest.param(b'{"kind":"ping","id":9007199254740992}', id="2^53"),
        pytest.param(b'{"kind":"ping","id":18446744073709551617}', id="2^64 + 1"),
        pytest.param(b'{"kind":"ping","id":' + b"9" * 60_000 + b"}", id="60,000 digits"),
        pytest.param(b'{"kind":"drain","grace":' + b"9" * 60_000 + b"}", id="60,000 digits for a float"),
        pytest.param(b'{"kind":"drain","grace":NaN}', id="NaN"),
        pytest.param(b'{"kind":"drain","grace":Infinity}', id="Infinity"),
        pytest.param(b'{"kind":"drain","grace":1e999}', id="1e999"),
        pytest.param(b'{"kind":"rejected","code":"x","reason":"","retry_after":1e999}', id="1e999 to wait"),
        pytest.param(b'{"kind":"rejected","code":"x","reason":"","retry_after":-1}', id="less than nothing to wait"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\\udc00abcdef"}', id="the other half"),
        pytest.param(b'{"kind":"ping","id":1,"later":"\xff"}', id="invalid UTF-8 in an unknown field"),
        pytest.param(b'{"kind":"ping","id":1,"later":' + b"[" * 60_000, id="60,000 lists"),
        pytest.param(b'{"kind":"ping","id":1,"later":' + b'{"a":' * 12_000, id="12,000 objects"),
        pytest.param(b"[" * 60_000, id="60,000 lists at the top"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\\u001b[2J"}', id="an escape sequence"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"a\\nb"}', id="a line end"),
        pytest.param(b'{"kind":"drain","grace":1,"reason":"\\u202eabc"}', id="reversed text"),
    ],
)
def test_what_is_no_message_of_ours_is_refused(body: bytes) -> None:
    refusal = check_refused(drive, frame(body), reason="control: ")
    assert refusal.reason.isprintable()
    assert len(refusal.reason) <= CONTROL_TEXT_MAX + len("control: ")


def test_an_error_about_a_kind_does_not_repeat_it_at_length() -> None:
    refusal = check_refused(drive, frame(json.dumps({"kind": "\x1b]0;" + "x" * 60_000})))
    assert refusal.reason.isprintable()
    assert len(refusal.reason) < 2 * CONTROL_TEXT_MAX


def test_unknown_fields_are_ignored_and_of_two_the_last_counts() -> None:
    assert decode(frame('{"later":{"a":[1,null,1e99999]},"id":1,"kind":"ping","id":2,"more":"\\u00fc"}')) == Ping(2)
    assert decode(frame(' {"kind" : "ping",\n "id":3}\t')) == Ping(3)


# --- properties -------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=30)
SECONDS = st.floats(0.1, CONTROL_SECONDS_MAX)
ENDPOINTS = st.lists(
    st.from_regex(r"\A[a-z]{1,9}(\.[a-z]{1,9}){0,2}\Z").map(lambda name: Endpoint(name, f"https://{name}")), max_size=4
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, st.integers(0, 2**53 - 1)),
    st.builds(Pong, st.integers(0, 2**53 - 1)),
    st.builds(Probe, st.integers(0, 2**53 - 1)),
    st.builds(Probed, st.integers(0, 2**53 - 1), TEXT),
    st.builds(Drain, st.floats(0, CONTROL_SECONDS_MAX), TEXT),
    st.builds(Rejected, st.sampled_from(RejectCode).map(str), TEXT, st.none() | st.floats(0, allow_infinity=False)),
    st.builds(Endpoints, ENDPOINTS),
    st.builds(
        lambda versions, instance, agent, where, session, flags: Hello(
            versions=versions,
            instance=instance,
            agent=agent,
            where=where,
            session=session,
            share=flags[0],
            alone=flags[1],
        ),
        st.lists(st.integers(1, 255), min_size=1, max_size=CONTROL_LIST_MAX),
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        TEXT,
        TEXT,
        st.none() | st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"),
        st.tuples(st.booleans(), st.booleans()),
    ),
    st.builds(lambda endpoints: msgspec.structs.replace(WELCOME, endpoints=endpoints), ENDPOINTS),
)


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(0, 2000)))
def test_any_conversation_reads_back_however_it_was_cut(messages: list[Message], cuts: list[int]) -> None:
    wire = b"".join(map(encode, messages))
    assert drive(split_at(wire, cuts)) == drive(octets(wire)) == Parsed(messages)
    assert b"".join(map(encode, messages)) == wire


@st.composite
def damaged_messages(draw: st.DrawFn) -> bytes:
    """Draw the JSON of a message with some bytes changed, cut out or put in."""
    body = bytearray(encode(draw(MESSAGES))[4:])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b'"', b"{", b"[", b"9e9", b"\\", b"\xff", b",", b"null"])
        )
    return bytes(body)


@given(damaged_messages() | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"kind":"ping","id":1}')
@example(encode(Ping(1)) + bytes(4))
def test_hostile_bytes_meet_the_invariants_of_the_fuzz_target(body: bytes) -> None:
    fuzz_control(body)


def test_a_refusal_means_the_same_however_the_bytes_came() -> None:
    """Messages of the same chunk go with it; the refusal itself does not depend on the cuts."""
    wire = encode(Ping(1)) + frame("{}")
    refusals = {outcome(drive, split_at(wire, [cut])) for cut in range(len(wire))}
    assert len(refusals) == 1
    assert all(isinstance(refusal, Refused) for refusal in refusals)
