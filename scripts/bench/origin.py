"""The benchmark's origin, a process of its own: `python -m scripts.bench.origin CERT KEY BYTES`.

TLS by the standard library, blocking sockets, a thread a connection: as little
of the machine as possible.  A visitor that says `go` gets BYTES; what another
says is echoed.  Prints its port.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading

BLOCK = 256 * 1024
GO = b"go"


def serve(connection: ssl.SSLSocket, amount: int) -> None:
    """Serve one visitor."""
    chunk = connection.recv(65536)
    if chunk == GO:
        block = bytes(BLOCK)
        for _ in range(amount // BLOCK):
            connection.sendall(block)
    while chunk and chunk != GO:
        connection.sendall(chunk)
        chunk = connection.recv(65536)


def main() -> None:
    """Listen and serve until killed."""
    certificate, key, amount = sys.argv[1], sys.argv[2], int(sys.argv[3])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def one(raw: socket.socket) -> None:
        try:
            with context.wrap_socket(raw, server_side=True) as tls:
                serve(tls, amount)
        except OSError:
            return

    while True:
        raw, _peer = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=one, args=(raw,), daemon=True).start()


if __name__ == "__main__":
    main()
