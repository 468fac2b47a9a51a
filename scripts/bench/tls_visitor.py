"""Visitors of the carriers' chapter: blocking sockets, standard library.

    python -m scripts.bench.tls_visitor download PORT HOST BYTES     prints bytes and seconds
    python -m scripts.bench.tls_visitor keep-downloading PORT HOST BYTES     the same, again and again
    python -m scripts.bench.tls_visitor exchange PORT HOST SECONDS   prints latencies, one JSON list

Bytes count from the first that comes; latencies are in seconds.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time


def connect(port: int, host: str) -> ssl.SSLSocket:
    """Open TLS to the visitors' port; what is measured is speed, so the certificate is not judged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(raw, server_hostname=host)


def download(port: int, host: str, amount: int) -> None:
    """Fetch and count."""
    with connect(port, host) as tls:
        tls.sendall(b"go %d" % amount)
        buffer = bytearray(65536)
        total = tls.recv_into(buffer)
        print("started", flush=True)
        begun = time.perf_counter()
        while total < amount and (count := tls.recv_into(buffer)):
            total += count
        print(total, time.perf_counter() - begun, flush=True)


def exchange(port: int, host: str, seconds: float) -> None:
    """Send 100 bytes and wait for them, every 10 ms."""
    message = bytes(100)
    latencies: list[float] = []
    with connect(port, host) as tls:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            begun = time.perf_counter()
            tls.sendall(message)
            got = 0
            while got < len(message):
                got += len(tls.recv(len(message) - got))
            latencies.append(time.perf_counter() - begun)
            time.sleep(0.01)
    print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    kind, port, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if kind == "exchange":
        exchange(port, host, float(sys.argv[4]))
    elif kind == "download":
        download(port, host, int(sys.argv[4]))
    while kind == "keep-downloading":
        download(port, host, int(sys.argv[4]))
