"""Control messages as values: the form of every field, what they mean, and their order."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from tests.wire.control_cases import (
    DIRECT,
    ENDPOINT,
    HELLO,
    INSTANCE,
    KEY,
    LIMITS,
    SAMPLES,
    WELCOME,
    changed,
    decode,
    drive,
    frame,
)
from tests.wire.three_way import check_refused
from trunnel.errors import LocalProtocolError, RejectCode, RemoteProtocolError
from trunnel.names import HOSTNAME_MAX
from trunnel.settings.agent import DataChoice
from trunnel.settings.limits import (
    CONTROL_ENDPOINTS_MAX,
    CONTROL_LIST_MAX,
    CONTROL_MESSAGE_MAX,
    CONTROL_SECONDS_MAX,
    CONTROL_TEXT_MAX,
    RETRY_HINT_MAX,
)
from trunnel.wire.control import (
    PROTOCOL_VERSION,
    TRANSITIONS,
    DataPath,
    Drain,
    Endpoint,
    Endpoints,
    Hello,
    Message,
    Phase,
    Ping,
    Probe,
    Probed,
    Rejected,
    Welcome,
    advance_untrusted,
    pick_version,
    printable,
)
from trunnel.wire.control_codec import encode

# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (HELLO, {"versions": []}),
        (HELLO, {"versions": [0]}),
        (HELLO, {"versions": [256]}),
        (HELLO, {"versions": [1] * (CONTROL_LIST_MAX + 1)}),
        (HELLO, {"instance": INSTANCE[1:]}),
        (HELLO, {"instance": INSTANCE.upper()}),
        (HELLO, {"instance": INSTANCE + "\n"}),
        (HELLO, {"agent": "x" * (CONTROL_TEXT_MAX + 1)}),
        (HELLO, {"where": "a\u2028b"}),
        (HELLO, {"name": ""}),
        (HELLO, {"name": "a.b"}),
        (HELLO, {"name": "A"}),
        (HELLO, {"name": "a" * 64}),
        (HELLO, {"name": "a\n"}),
        (HELLO, {"share": 1}),
        (HELLO, {"session": ""}),
        (HELLO, {"session": "a b"}),
        (HELLO, {"session": "a" * 65}),
        (HELLO, {"session": "a\n"}),
        (HELLO, {"alone": None}),
        (HELLO, {"alone": 0}),
        (HELLO, {"data": "fast"}),
        (HELLO, {"data": None}),
        (WELCOME, {"version": 0}),
        (WELCOME, {"session": ""}),
        (WELCOME, {"session": "a b"}),
        (WELCOME, {"session": "a" * 65}),
        (WELCOME, {"relay": KEY[1:]}),
        (WELCOME, {"relay": KEY.upper()}),
        (WELCOME, {"label": "\x7f"}),
        (WELCOME, {"suffixes": ["a"] * (CONTROL_LIST_MAX + 1)}),
        (WELCOME, {"suffixes": ["Example.com"]}),
        (WELCOME, {"suffixes": ["example.com."]}),
        (WELCOME, {"suffixes": ["1.2.3.4"]}),
        (WELCOME, {"suffixes": [""]}),
        (WELCOME, {"public_port": 0}),
        (WELCOME, {"public_port": 65536}),
        (WELCOME, {"endpoints": [{"hostname": "a", "url": "https://a"}] * (CONTROL_ENDPOINTS_MAX + 1)}),
        (WELCOME, {"endpoints": [{"hostname": "a b", "url": "https://a"}]}),
        (WELCOME, {"endpoints": [{"hostname": "a", "url": "https://a b"}]}),
        (WELCOME, {"endpoints": [{"hostname": "a", "url": "https://\u00fc"}]}),
        (WELCOME, {"endpoints": [{"hostname": "a", "url": "javascript:alert(1)"}]}),
        (WELCOME, {"endpoints": [{"hostname": "a", "url": "https://" + "a" * 300}]}),
        (WELCOME, {"limits": {**msgspec.to_builtins(LIMITS), "heartbeat": 0}}),
        (WELCOME, {"limits": {**msgspec.to_builtins(LIMITS), "dead_after": CONTROL_SECONDS_MAX + 1}}),
        (WELCOME, {"limits": {**msgspec.to_builtins(LIMITS), "streams": 0}}),
        (WELCOME, {"limits": {}}),
        (WELCOME, {"direct": {}}),
        (WELCOME, {"direct": {"secret": DIRECT.secret}}),
        (WELCOME, {"direct": {"secret": DIRECT.secret[1:], "parked": 1}}),
        (WELCOME, {"direct": {"secret": DIRECT.secret.upper(), "parked": 1}}),
        (WELCOME, {"direct": {"secret": DIRECT.secret + "\n", "parked": 1}}),
        (WELCOME, {"direct": {"secret": DIRECT.secret, "parked": 0}}),
        (Rejected("overloaded", ""), {"code": "Not a word"}),
        (Rejected("overloaded", ""), {"code": ""}),
        (Rejected("overloaded", ""), {"reason": "x" * (CONTROL_TEXT_MAX + 1)}),
        (Drain(1.0), {"grace": -0.1}),
        (Drain(1.0), {"grace": CONTROL_SECONDS_MAX + 1}),
        (Probe(1), {"id": -1}),
        (Probe(1), {"path": "auto"}),
        (Probed(1), {"id": None}),
        (Probed(1), {"failure": "x" * (CONTROL_TEXT_MAX + 1)}),
        (Probed(1), {"failure": "\x1b[2J"}),
        (Probed(1), {"failure": None}),
        (Endpoints([]), {"endpoints": None}),
    ],
)
def test_a_value_out_of_its_form_is_refused(message: Message, fields: dict[str, object]) -> None:
    check_refused(drive, changed(message, **fields), reason="control: ")


def test_values_at_their_limits_are_fine_and_fit() -> None:
    """The largest welcome that the rules allow is smaller than the largest message."""
    longest = ".".join(["a" * 63] * 3 + ["a" * (HOSTNAME_MAX - 192)])
    endpoints = [Endpoint(longest, f"https://{longest}:65535")] * CONTROL_ENDPOINTS_MAX
    welcome = msgspec.structs.replace(
        WELCOME,
        label="\U0001f600" * CONTROL_TEXT_MAX,
        suffixes=[longest] * CONTROL_LIST_MAX,
        endpoints=endpoints,
        direct=DIRECT,
    )
    assert decode(encode(welcome)) == welcome


@pytest.mark.parametrize(
    "make",
    [
        lambda: Drain(math.nan),
        lambda: Drain(math.inf),
        lambda: Ping(-1),
        lambda: Endpoints([ENDPOINT] * (CONTROL_ENDPOINTS_MAX + 1)),
        lambda: Rejected("overloaded", "x" * (CONTROL_TEXT_MAX + 1)),
        lambda: msgspec.structs.replace(HELLO, versions=[]),
        lambda: msgspec.structs.replace(HELLO, where="\U0001f600" * CONTROL_MESSAGE_MAX),
    ],
)
def test_we_do_not_send_what_the_peer_would_refuse(make: object) -> None:
    assert callable(make)
    with pytest.raises(LocalProtocolError):
        encode(make())


def test_a_hello_of_before_there_were_sessions_to_join_asks_for_a_new_one() -> None:
    """And what an older relay reads of a newer hello is what it always was."""
    body = {"kind": "hello", "versions": [1], "instance": INSTANCE, "agent": "0.1.0"}
    hello = decode(frame(json.dumps(body)))
    assert isinstance(hello, Hello)
    assert (hello.session, hello.alone, hello.data) == (None, False, DataChoice.SESSION)


def test_a_peer_of_before_there_were_data_connections_stays_inside_the_session() -> None:
    body = msgspec.to_builtins(WELCOME)
    del body["direct"]
    welcome = decode(frame(json.dumps(body)))
    assert isinstance(welcome, Welcome)
    assert welcome.direct is None
    assert decode(frame('{"kind":"probe","id":1}')) == Probe(1, DataPath.SESSION)


def test_the_secret_of_data_connections_is_sent_and_never_shown() -> None:
    welcome = msgspec.structs.replace(WELCOME, direct=DIRECT)
    received = decode(encode(welcome))
    assert isinstance(received, Welcome)
    assert received.direct is not None
    assert received.direct.key == bytes.fromhex(DIRECT.secret)
    for shown in (repr(received), f"{received.direct}", pretty_repr(received), pretty_repr(received.direct)):
        assert DIRECT.secret[:8] not in shown
        assert "64" in shown


def test_wrong_arguments_are_value_errors() -> None:
    with pytest.raises(ValueError, match="printable"):
        Rejected("overloaded", "\x1b[2J")
    with pytest.raises(ValueError, match="not a host name"):
        Endpoint("a b", "https://a")


@given(st.text(max_size=CONTROL_TEXT_MAX + 50))
@example("\x00\u202e\ud800\u2028")
def test_any_text_can_be_made_printable(text: str) -> None:
    assert decode(encode(Drain(0.0, printable(text)))) == Drain(0.0, printable(text))
    if text.isprintable() and len(text) <= CONTROL_TEXT_MAX:
        assert printable(text) == text


# --- meaning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "picked"), [([1], 1), ([1, 2, 9], PROTOCOL_VERSION), ([9, 1, 1], 1), ([2], None), ([], None)]
)
def test_the_highest_shared_version_is_picked(offered: list[int], picked: int | None) -> None:
    assert pick_version(offered) == picked


@pytest.mark.parametrize("code", RejectCode)
def test_a_refusal_becomes_the_error_of_its_code(code: RejectCode) -> None:
    error = Rejected(code, "No.", 7.0).to_error()
    assert (error.code, error.reason, error.retry_after) == (code, "No.", 7.0)


def test_a_refusal_of_a_later_version_may_be_retried() -> None:
    error = Rejected("quota-of-2031", "No.").to_error()
    assert error.code is RejectCode.PROTOCOL
    assert error.retryable
    assert error.retry_after is None


def test_the_hint_of_a_hostile_relay_is_cut() -> None:
    error = Rejected("overloaded", "No.", 1e308).to_error()
    assert error.retry_after == RETRY_HINT_MAX


@pytest.mark.parametrize(("phase", "message"), list(product(Phase, SAMPLES)), ids=str)
def test_every_message_is_allowed_or_refused_in_every_phase(phase: Phase, message: Message) -> None:
    following = TRANSITIONS.get((phase, type(message)))
    if following is None:
        with pytest.raises(RemoteProtocolError, match=str(phase)):
            advance_untrusted(phase, message)
    else:
        assert advance_untrusted(phase, message) is following


def test_the_table_is_complete() -> None:
    """Every kind is received somewhere, every phase is reached, and a conversation can end from every open phase."""
    assert {kind for _, kind in TRANSITIONS} == set(get_args(Message)) == {type(sample) for sample in SAMPLES}
    assert {Phase.EXPECT_HELLO, Phase.EXPECT_ANSWER, *TRANSITIONS.values()} == set(Phase)
    assert not [phase for phase, _ in TRANSITIONS if phase is Phase.ENDED]
    assert [phase for (phase, kind) in TRANSITIONS if kind is Hello] == [Phase.EXPECT_HELLO]
