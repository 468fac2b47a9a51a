"""Telling HTTP/1 from its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.settings import limits
from trunnel.wire.httphead import HTTP2_PREFACE, HttpVerdict, is_http2_preface, looks_like_http1_untrusted

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /submit?x=1 HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET http://example.org/ HTTP/1.1\r\n\r\n",
    b"GET HTTPS://example.org/ HTTP/1.1\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
    b"VERSION-CONTROL /x HTTP/1.1\r\n\r\n",
    b"UPDATEREDIRECTREF /x HTTP/1.1\r\n\r\n",
    b"M-SEARCH * HTTP/1.1\r\n\r\n",
    b"get / HTTP/1.1\r\n\r\n",
]
OTHERS = [
    b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
    b"EHLO mail.example.org\r\n",
    b"HELO h\r\n",
    b"USER anonymous\r\n",
    b"NICK tester\r\n",
    b"* OK IMAP4 ready\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"*1\r\n$4\r\nPING\r\n",
    b" GET / HTTP/1.1\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET\t/ HTTP/1.1\r\n",
    b"GET(/) / HTTP/1.1\r\n",
    b"A" * 64,
    HTTP2_PREFACE,
]


@pytest.mark.parametrize("head", REQUESTS)
def test_requests_are_told_whole_and_byte_by_byte(head: bytes) -> None:
    """Never NO on the way, YES in time, and YES for ever after."""
    verdicts = [looks_like_http1_untrusted(head[:end]) for end in range(len(head) + 1)]
    first = verdicts.index(HttpVerdict.YES)
    assert set(verdicts[:first]) == {HttpVerdict.NEED_MORE}
    assert set(verdicts[first:]) == {HttpVerdict.YES}
    assert first <= limits.HTTP_HEAD_PEEK


@pytest.mark.parametrize("head", OTHERS)
def test_other_protocols_are_not_http(head: bytes) -> None:
    """Also those that begin with a word and a space; and never YES on the way."""
    assert looks_like_http1_untrusted(head) is HttpVerdict.NO
    assert HttpVerdict.YES not in {looks_like_http1_untrusted(head[:end]) for end in range(len(head))}


def test_the_http2_preface_is_told() -> None:
    """Whole, and with bytes behind it; a part of it is not enough."""
    assert is_http2_preface(HTTP2_PREFACE)
    assert is_http2_preface(HTTP2_PREFACE + b"\x00\x00\x00\x04\x00")
    assert not is_http2_preface(HTTP2_PREFACE[:-1])
    assert not is_http2_preface(b"GET / HTTP/1.1\r\n\r\nSM\r\n\r\n")


@given(head=st.binary(max_size=64) | st.builds(bytes.__add__, st.sampled_from(REQUESTS), st.binary(max_size=9)))
def test_a_final_verdict_never_changes(head: bytes) -> None:
    """Any bytes, any cut: once YES or NO, always so; only our verdicts, no exception."""
    final: HttpVerdict | None = None
    for end in range(len(head) + 1):
        verdict = looks_like_http1_untrusted(head[:end])
        assert final is None or verdict is final
        if verdict is not HttpVerdict.NEED_MORE:
            final = verdict
    assert final is not None or len(head) < limits.HTTP_HEAD_PEEK
