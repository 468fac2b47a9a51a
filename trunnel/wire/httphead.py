"""Does a visitor speak HTTP/1?  Told from its first bytes.

Sans-IO and stateless: give all bytes received so far, get YES, NO or
NEED_MORE.  Used only to choose how to fail politely (a 502 page or a plain
close, a 400 on a TLS port): no routing decision may rest on it, and nothing
of the request is interpreted.

The rule: a method token, one space, and the beginning of a request target as
a server sees it, that is `/`, `*` or `http` (RFC 9112 §3, §3.2).  The target
is part of the rule because other protocols also begin with a word and a space
(`EHLO example.org`, `SSH-2.0-x comment`).  `PRI * HTTP/2.0` is the beginning
of HTTP/2 and therefore NO.

At most `HTTP_HEAD_PEEK` bytes matter, so the work is bounded however much is
given.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, final

from trunnel.settings import limits

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What an HTTP/2 client sends first (RFC 9113 §3.4)."""

_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""Bytes of a token (RFC 9110 §5.6.2)."""
_TARGET_STARTS: Final = (b"/", b"*", b"http")
"""How the request targets begin that a client sends to a server: origin, asterisk and absolute form."""
_HTTP2_METHOD: Final = b"PRI"
"""Reserved for the preface of HTTP/2 (RFC 9113 §11.6)."""
_CONNECT: Final = b"CONNECT"
"""The method whose target is a host and a port (RFC 9112 §3.2.3)."""


@final
class HttpVerdict(StrEnum):
    """What the first bytes look like."""

    YES = "yes"
    NO = "no"
    NEED_MORE = "need-more"


def is_http2_preface(head: bytes) -> bool:
    """Tell whether *head*, the first bytes of a connection, begins with the preface of HTTP/2.

    Source: RFC 9113 §3.4.
    """
    return head.startswith(HTTP2_PREFACE)


def looks_like_http1_untrusted(head: bytes) -> HttpVerdict:
    """Tell whether *head*, the first bytes of a connection, begins an HTTP/1 request.

    Returns:
        YES: method, space and the beginning of a target are there.
        NEED_MORE: it may still become a request.
        NO: it cannot, or `HTTP_HEAD_PEEK` bytes have not shown it.

    Source: RFC 9112 §3.
    """
    looked_at = head[: limits.HTTP_HEAD_PEEK]
    verdict = _head_verdict(looked_at)
    if verdict is HttpVerdict.NEED_MORE and len(looked_at) == limits.HTTP_HEAD_PEEK:
        return HttpVerdict.NO  # no more will be looked at
    return verdict


def _head_verdict(head: bytes) -> HttpVerdict:
    """Judge the bytes that are looked at."""
    method, space, target = head.partition(b" ")
    if not _TOKEN.issuperset(method):
        return HttpVerdict.NO
    if not space:
        return HttpVerdict.NEED_MORE
    if not method or method == _HTTP2_METHOD:
        return HttpVerdict.NO
    return _target_verdict(method, target.lower())


def _target_verdict(method: bytes, target: bytes) -> HttpVerdict:
    """Judge the bytes after the method and its space."""
    if method == _CONNECT and target:
        return HttpVerdict.YES
    if target.startswith(_TARGET_STARTS):
        return HttpVerdict.YES
    agrees = not target or any(start.startswith(target) for start in _TARGET_STARTS)
    return HttpVerdict.NEED_MORE if agrees else HttpVerdict.NO
