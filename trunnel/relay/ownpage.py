"""The page of the relay's own names: a request's head in, a whole response out (RFC 9110, RFC 9112).

Sans-IO.  Static, and the same for everybody: no header of the request is
interpreted, no connection serves a second one, and a body is not read.  Who
looks for a tunnel learns that its name is not here; who checks the relay's
health gets `ok`.
"""

from __future__ import annotations

import re
from typing import Final

from trunnel.settings import limits
from trunnel.wire.httphead import HttpVerdict, looks_like_http1_untrusted

HEAD_END: Final = b"\r\n\r\n"
"""Ends a request's head (RFC 9112 §2.1)."""
_PAGES: Final = {b"/": "trunnel relay\n", b"/healthz": "ok\n"}
_METHODS: Final = (b"GET", b"HEAD")
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.[01]", re.ASCII)
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.ASCII | re.IGNORECASE)


def answer_untrusted(received: bytes) -> bytes | None:
    """Return the response to the request that begins with *received*.

    Args:
        received: All bytes so far.

    Returns:
        1. None: more must come.
        2. b"": it is no HTTP/1; there is nothing to say.
        3. The response, whole; the connection ends with it.

    Source: RFC 9112 §3, RFC 9110 §9.3.1, §9.3.2, §15.
    """
    verdict = looks_like_http1_untrusted(received)
    if verdict is not HttpVerdict.YES:
        return b"" if verdict is HttpVerdict.NO else None
    if received.find(HEAD_END, 0, limits.OWN_REQUEST_MAX) < 0:
        return _TOO_LONG if len(received) >= limits.OWN_REQUEST_MAX else None
    line = _LINE.fullmatch(received.split(b"\r\n", 1)[0])
    if line is None:
        return _response("400 Bad Request", "no request line of HTTP/1.1\n")
    method, target = line.groups()
    with_body = method != b"HEAD"
    if method not in _METHODS:
        return _response("405 Method Not Allowed", "GET or HEAD\n", "Allow: GET, HEAD\r\n")
    page = _PAGES.get(_path_of(target))
    if page is None:
        return _response("404 Not Found", "this is a trunnel relay; there is no such page\n", with_body=with_body)
    return _response("200 OK", page, with_body=with_body)


def _path_of(target: bytes) -> bytes:
    """Return the path of a request target in origin or absolute form (RFC 9112 §3.2)."""
    return _ABSOLUTE.sub(b"", target, count=1).split(b"?", 1)[0] or b"/"


def _response(status: str, text: str, fields: str = "", *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\n"
        f"{fields}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    return (head + (text if with_body else "")).encode("ascii")


_TOO_LONG: Final = _response("431 Request Header Fields Too Large", "the request's head is too long\n")
"""RFC 6585 §5."""
