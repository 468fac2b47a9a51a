"""Fuzz targets for the look at a visitor's first bytes, and for requests to the relay's own page.

Invariants of the look: a verdict, never an exception; once YES or NO, more bytes do not
change it; NEED_MORE never beyond the bytes that are looked at.

Invariants of the page: an answer is one whole response with the length that it
names, the same however many bytes follow; more is never waited for beyond the cap.
"""

from __future__ import annotations

from trunnel.relay.ownpage import HEAD_END, answer_untrusted
from trunnel.settings.limits import HTTP_HEAD_PEEK, OWN_REQUEST_MAX
from trunnel.wire.httphead import HttpVerdict, is_http2_preface, looks_like_http1_untrusted


def fuzz_http_head(data: bytes) -> None:
    """Check every prefix of the input."""
    final: HttpVerdict | None = None
    for length in range(len(data[: 2 * HTTP_HEAD_PEEK]) + 1):
        verdict = looks_like_http1_untrusted(data[:length])
        assert final is None or verdict is final
        if verdict is not HttpVerdict.NEED_MORE:
            final = verdict
        assert verdict is not HttpVerdict.NEED_MORE or length < HTTP_HEAD_PEEK
    if is_http2_preface(data):
        assert looks_like_http1_untrusted(data) is HttpVerdict.NO


def fuzz_own_page(data: bytes) -> None:
    """Ask for a page, in one piece and with more behind it."""
    answer = answer_untrusted(data)
    if answer is None:
        assert len(data) < OWN_REQUEST_MAX
        assert answer_untrusted(data + bytes(OWN_REQUEST_MAX)) is not None
        return
    assert answer_untrusted(data + b"more") == answer
    if answer:
        head, _, body = answer.partition(HEAD_END)
        assert head.startswith(b"HTTP/1.1 ")
        assert b"\r\nConnection: close" in head
        assert not body or b"\r\nContent-Length: %d\r\n" % len(body) in head
