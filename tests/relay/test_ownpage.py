"""The relay's own page: a head in, a response out, whatever the head is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.relay.ownpage import answer_untrusted
from trunnel.settings import limits

TAIL = b" HTTP/1.1\r\nHost: relay.example\r\n\r\n"


def parts(response: bytes | None) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, fields and body."""
    assert response
    head, _, body = response.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    assert line.startswith(b"HTTP/1.1 ")
    return int(line.split(b" ")[1]), {each.partition(b": ")[0]: each.partition(b": ")[2] for each in lines}, body


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /", 200, b"trunnel relay\n"),
        (b"GET /?from=somewhere", 200, b"trunnel relay\n"),
        (b"GET /healthz", 200, b"ok\n"),
        (b"GET https://relay.example/healthz", 200, b"ok\n"),
        (b"GET https://relay.example", 200, b"trunnel relay\n"),
        (b"GET /healthz/", 404, None),
        (b"GET //", 404, None),
        (b"GET /..%2f/healthz", 404, None),
        (b"POST /", 405, None),
        (b"OPTIONS *", 405, None),
        (b"CONNECT relay.example:443", 405, None),
        (b"get /", 405, None),
    ],
)
def test_two_pages_and_nothing_else(request_line: bytes, status: int, body: bytes | None) -> None:
    found, fields, text = parts(answer_untrusted(request_line + TAIL))
    assert found == status
    assert body is None or text == body
    assert int(fields[b"Content-Length"]) == len(text)
    assert fields[b"Connection"] == b"close"
    assert (b"Allow" in fields) is (status == 405)


@pytest.mark.parametrize("path", [b"/", b"/healthz", b"/none"])
def test_head_says_the_same_without_the_body(path: bytes) -> None:
    assert parts(answer_untrusted(b"HEAD " + path + TAIL)) == (*parts(answer_untrusted(b"GET " + path + TAIL))[:2], b"")


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/2.0", b"GET /", b"GET / /x HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /a\tb HTTP/1.1"]
)
def test_what_is_no_request_line_is_a_400(line: bytes) -> None:
    assert parts(answer_untrusted(line + b"\r\n\r\n"))[0] == 400


def test_a_head_that_goes_on_is_waited_for_until_it_is_too_long() -> None:
    begun = b"GET / HTTP/1.1\r\nX: "
    assert answer_untrusted(begun) is None
    assert answer_untrusted(begun + bytes([120]) * (limits.OWN_REQUEST_MAX - len(begun) - 1)) is None
    assert parts(answer_untrusted(begun + bytes([120]) * limits.OWN_REQUEST_MAX))[0] == 431


@pytest.mark.parametrize("begin", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01"])
def test_who_speaks_something_else_gets_no_word(begin: bytes) -> None:
    assert answer_untrusted(begin) == b""


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_whatever_comes_is_waited_for_or_answered_and_more_bytes_change_no_answer(first: bytes, more: bytes) -> None:
    answer = answer_untrusted(first)
    if answer is not None:
        assert answer_untrusted(first + more) == answer
    if answer:
        parts(answer)
