"""The origin of the carriers' chapter, a process of its own: `python -m scripts.bench.tls_origin CERT KEY`.

TLS by the standard library, blocking sockets, a thread a connection: as little
of the machine as possible.  A visitor that says `go BYTES` gets so many; what
another says is echoed.  Prints its port.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading

BLOCK = 256 * 1024
GO = b"go "


def serve(connection: ssl.SSLSocket) -> None:
    """Serve one visitor."""
    chunk = connection.recv(65536)
    if chunk.startswith(GO):
        amount = int(chunk.removeprefix(GO))
        block = bytes(BLOCK)
        for start in range(0, amount, BLOCK):
            connection.sendall(block[: amount - start])
        return
    while chunk:
        connection.sendall(chunk)
        chunk = connection.recv(65536)


def main() -> None:
    """Listen and serve until killed."""
    certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def one(raw: socket.socket) -> None:
        try:
            with context.wrap_socket(raw, server_side=True) as tls:
                serve(tls)
        except OSError:
            return

    while True:
        raw, _peer = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=one, args=(raw,), daemon=True).start()


if __name__ == "__main__":
    main()
