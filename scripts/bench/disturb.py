"""The visitors that nobody wants, beside everything that is measured: one stalls, one resets.

Reads commands from standard input, one a line, answers each with how many stall
and how many have reset so far:

    beside PORT HELLO       a visitor of this port asks for a large download and reads nothing;
                            another comes again and again, takes a little and resets
    beside PORT tls:NAME    the same over TLS, from nginx
    rest                    no more resets; whoever stalls goes on stalling
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
from contextlib import suppress

from scripts.bench.plain import GREETING

RESET_EVERY = 0.2
"""Seconds."""
TIMEOUT = 2.0
STALL = GREETING + b"down 100000000000\n"
TASTE = GREETING + b"down 200000\n"
REQUEST = b"GET /%s HTTP/1.1\r\nHost: bench\r\n\r\n"
PAGES = {STALL: b"bulk", TASTE: b"taste"}
"""What is asked of nginx instead."""
LINGER_NOT = struct.pack("ii", 1, 0)


def visitor(port: int, hello: str, command: bytes) -> socket.socket:
    """Connect and ask for more than will be read; *command* is `STALL` or `TASTE`."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    if hello.startswith("tls:"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock, server_hostname=hello.removeprefix("tls:"))
        sock.sendall(REQUEST % PAGES[command])
    else:
        sock.sendall(bytes.fromhex(hello) + command)
    return sock


def reset(sock: socket.socket) -> None:
    """Take a little, then end with RST."""
    with sock:
        sock.recv(1_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


def main() -> None:
    """Follow commands until standard input ends."""
    stalled: dict[str, socket.socket] = {}
    where: tuple[int, str] | None = None
    resets = 0
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], RESET_EVERY if where else None)
        with suppress(OSError):
            if not ready and where:
                reset(visitor(*where, TASTE))
                resets += 1
        if not ready:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        words = line.split()
        where = (int(words[1]), words[2]) if words[0] == "beside" else None
        if where and line not in stalled:
            with suppress(OSError):
                stalled[line] = visitor(*where, STALL)
        print(len(stalled), resets, flush=True)


if __name__ == "__main__":
    main()
