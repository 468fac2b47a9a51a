"""The canary, a process of its own: `python -m scripts.rows.canary HOST PORT CERT`.

It visits a healthy tunnel every 50 ms over verified TLS, each time on a new
connection, and prints one JSON line a visit: `seconds`, or `error`.  Its clock
is its own: an attacker that keeps another process busy does not slow it, so
that its p99 is the tunnel's latency.  Blocking sockets, standard library.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time

SOURCE = "127.0.0.99"
"""Its address, no attacker's: limits per address are told from harm to others."""
EVERY = 0.05
"""Seconds from visit to visit, where a visit is not slower."""
TIMEOUT = 30.0
"""Seconds that one read or write may take."""


def visit(host: str, port: int, context: ssl.SSLContext) -> None:
    """Fetch the short page; raises OSError where that fails."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT, source_address=(SOURCE, 0))
    with raw, context.wrap_socket(raw, server_hostname=host) as tls:
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := tls.recv(65_536):
            answer += chunk
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(ascii(answer[:80]))


def outcome(host: str, port: int, context: ssl.SSLContext) -> dict[str, object]:
    """Visit once; returns what is printed of it."""
    begun = time.perf_counter()
    try:
        visit(host, port, context)
    except OSError as exc:
        return {"event": "visit", "error": f"{type(exc).__name__}: {exc}"}
    return {"event": "visit", "seconds": time.perf_counter() - begun}


def main(host: str, port: int, certificate: str) -> None:
    """Visit until killed."""
    context = ssl.create_default_context(cafile=certificate)
    while True:
        begun = time.perf_counter()
        print(json.dumps(outcome(host, port, context)), flush=True)
        time.sleep(max(0.0, begun + EVERY - time.perf_counter()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
