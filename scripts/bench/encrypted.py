"""The visitors of the encrypted scenarios: wrk for requests and new connections, OpenSSL in Python for bulk.

python -m scripts.bench.encrypted PORT NAME BYTES     prints one JSON object
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from scripts.bench.launch import CannotMeasureError, find
from scripts.bench.peers import Place

Figures = dict[str, float]
SCRIPT = Path(__file__).with_name("wrk.lua")
READ = 256 * 1024
TIMEOUT = 15.0
HEAD_MAX = 4_096


def wrk(place: Place, seconds: float, connections: int, *, close: bool = False) -> Figures:
    """Ask for a short page over TLS for whole seconds; with *close* each time on a new connection."""
    program = find("wrk")
    if program is None:
        raise CannotMeasureError("wrk is not installed")
    words = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT)]
    words += ["-H", "Connection: close"] if close else []
    done = subprocess.run(
        [*words, f"https://{place.host}:{place.port}/"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise CannotMeasureError(f"wrk: {done.stderr or done.stdout}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return {**figures, "rate": figures["count"] / figures["seconds"]}


def download(port: int, name: str, amount: int) -> dict[str, float | str]:
    """Fetch `/bulk` as often as it takes for *amount* bytes; its bytes are zeros, and TLS vouches for them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    buffer = bytearray(READ)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_hostname=name) as tls:
            cipher = tls.cipher()
            begun = time.perf_counter()
            got = failed = 0
            while got < amount and not failed:
                tls.sendall(b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n")
                head = tls.recv(HEAD_MAX)
                while b"\r\n\r\n" not in head:
                    head += tls.recv(HEAD_MAX)
                fields, _, beyond = head.partition(b"\r\n\r\n")
                length = int(fields.lower().partition(b"content-length:")[2].split()[0])
                left = length - len(beyond)
                while left > 0 and (count := tls.recv_into(buffer, min(READ, left))):
                    left -= count
                failed += left != 0 or b" 200 " not in fields[:16]
                got += length
            seconds = time.perf_counter() - begun
    suite = f"{cipher[1]} {cipher[0]}" if cipher else ""
    return {"bytes": got, "seconds": seconds, "rate": got / seconds, "failed": failed, "suite": suite}


if __name__ == "__main__":
    print(json.dumps(download(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
