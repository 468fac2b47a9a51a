"""What visitors and the plain origin say to each other, apart from the pattern; the origin's docstring explains it."""

from __future__ import annotations

GREETING, GREETED = b"hi\n", b"go\n"
PAGE = b"trunnel measures itself, and others\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
CLOSING = RESPONSE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
HEAD_END = b"\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
GET_ONCE = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
