"""A prober of the relay's front door, a process of its own: `python -m scripts.rows.prober PORT`.

Every 50 ms it connects, sends the ClientHello of nobody's visitor, and waits
for the verdict: a TLS alert.  Prints one JSON line a time, as the canary does:
`seconds`, or `error`.  What it measures is accept, peek and verdict; no agent
is needed for that.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time

SOURCE = "127.0.0.98"
EVERY = 0.05
TIMEOUT = 30.0
ALERT = 21
"""The content type of a TLS record that is an alert."""


def hello() -> bytes:
    """Return a ClientHello for a name that nobody has."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="nobody.localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


def probe(port: int, said: bytes) -> dict[str, object]:
    """Ask once; returns what is printed of it."""
    begun = time.perf_counter()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT, source_address=(SOURCE, 0)) as raw:
            raw.sendall(said)
            if raw.recv(7)[:1] != bytes([ALERT]):
                return {"event": "visit", "error": "no verdict"}
    except OSError as exc:
        return {"event": "visit", "error": f"{type(exc).__name__}: {exc}"}
    return {"event": "visit", "seconds": time.perf_counter() - begun}


def main(port: int) -> None:
    """Probe until killed."""
    said = hello()
    while True:
        begun = time.perf_counter()
        print(json.dumps(probe(port, said)), flush=True)
        time.sleep(max(0.0, begun + EVERY - time.perf_counter()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
