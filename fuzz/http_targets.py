"""Fuzz target for the look at a visitor's first bytes.

Invariants: a verdict, never an exception; once YES or NO, more bytes do not
change it; NEED_MORE never beyond the bytes that are looked at.
"""

from __future__ import annotations

from trunnel.settings.limits import HTTP_HEAD_PEEK
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
