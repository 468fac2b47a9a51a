"""The origin of the plain scenarios, a process of its own: `python -m scripts.bench.origin` prints its port.

One epoll loop, as few system calls as there can be, because what the origin
costs is missing to what is measured.  A connection may begin with one TLS
record, a visitor's ClientHello, which is swallowed; then come lines:

    hi           answered with `go`
    down N       N bytes of the pattern, then FIN
    up N         N bytes of the pattern follow; answered with `ok` or `bad`, then FIN
    echo         whatever follows comes back
    GET ...      a short HTTP response; with `Connection: close` also FIN
"""

from __future__ import annotations

import resource
import select
import socket
from collections.abc import Callable

from scripts.bench.pattern import CHUNK, block, matches
from scripts.bench.plain import CLOSING, GREETED, HEAD_END, RESPONSE

BACKLOG = 4_096
TLS_HANDSHAKE = 0x16
RECORD_HEADER = 5
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
DONTWAIT = socket.MSG_DONTWAIT


class Connection:
    """One visitor, as the origin sees it."""

    __slots__ = ("bad", "fresh", "moved", "on_ready", "size", "sock", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.on_ready: Callable[[Connection], bool] = lines
        """What to do when the socket is ready; returns whether the connection goes on."""
        self.fresh = True
        """Whether a ClientHello may still come."""
        self.waiting = b""
        """Bytes of a line, or of a hello, that is not complete."""
        self.moved = 0
        self.size = 0
        self.bad = False


poll = select.epoll()
connections: dict[int, Connection] = {}
buffer = bytearray(CHUNK)
view = memoryview(buffer)


def swallow_hello(connection: Connection, chunk: bytes) -> bytes | None:
    """Return what follows the hello, None while it is not complete."""
    if chunk[0] == TLS_HANDSHAKE:
        end = RECORD_HEADER + int.from_bytes(chunk[3:5], "big")
        if len(chunk) < max(end, RECORD_HEADER):
            return None
        chunk = chunk[end:]
    connection.fresh = False
    return chunk


def lines(connection: Connection) -> bool:
    """Read commands."""
    chunk = connection.sock.recv(16_384, DONTWAIT)
    if not chunk:
        return False
    if connection.waiting:
        chunk = connection.waiting + chunk
    if connection.fresh:
        rest = swallow_hello(connection, chunk)
        connection.waiting = chunk if rest is None else b""
        if not rest:
            return True
        chunk = rest
    return command(connection, chunk)


def command(connection: Connection, chunk: bytes) -> bool:
    """Do what the visitor asks for; returns whether the connection goes on."""
    if chunk.startswith(b"GET "):
        return respond(connection, chunk)
    line, newline, rest = chunk.partition(b"\n")
    connection.waiting = b"" if newline else chunk
    if not newline:
        return True
    word, _, amount = line.partition(b" ")
    if word == b"hi":
        connection.sock.send(GREETED, DONTWAIT)
        return command(connection, rest) if rest else True
    return transfer(connection, word, int(amount or 0), rest)


def respond(connection: Connection, chunk: bytes) -> bool:
    """Answer HTTP requests; returns whether the connection goes on."""
    if not chunk.endswith(HEAD_END):
        connection.waiting = chunk
        return True
    connection.waiting = b""
    goes_on = b"Connection: close" not in chunk
    connection.sock.send(RESPONSE * chunk.count(HEAD_END) if goes_on else CLOSING, DONTWAIT)
    return goes_on


def transfer(connection: Connection, word: bytes, amount: int, rest: bytes) -> bool:
    """Begin what lasts, with what came behind the command; returns whether the connection goes on."""
    connection.size = amount
    if word == b"down":
        connection.on_ready = download
        connection.sock.setblocking(False)
        poll.modify(connection.sock, WRITE)
        return download(connection)
    if word == b"up":
        connection.on_ready = upload
        connection.waiting = rest
    else:
        connection.on_ready = echo
        connection.sock.sendall(rest)
    return True


def echo(connection: Connection) -> bool:
    """Send back what comes: it is short, so the socket takes it."""
    chunk = connection.sock.recv(CHUNK, DONTWAIT)
    if chunk:
        connection.sock.sendall(chunk)
    return bool(chunk)


def download(connection: Connection) -> bool:
    """Send the pattern."""
    left = connection.size - connection.moved
    if left:
        connection.moved += connection.sock.send(block(connection.moved, min(left, CHUNK)))
    return connection.moved < connection.size


def upload(connection: Connection) -> bool:
    """Take the pattern."""
    if connection.waiting:
        count = len(connection.waiting)
        view[:count] = connection.waiting
        connection.waiting = b""
    else:
        count = connection.sock.recv_into(buffer, CHUNK, DONTWAIT)
    connection.bad = connection.bad or not matches(view[:count], connection.moved)
    connection.moved += count
    if count and connection.moved < connection.size:
        return True
    exact = connection.moved == connection.size and not connection.bad
    connection.sock.send(b"ok\n" if exact else b"bad\n", DONTWAIT)
    return False


def serve(connection: Connection) -> bool:
    """Let a connection go on; returns whether it does."""
    try:
        return connection.on_ready(connection)
    except BlockingIOError:
        return True
    except OSError:
        return False


def accept(listener: socket.socket) -> None:
    """Take everybody who has come; who has said everything already is served at once."""
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        connection = Connection(sock)
        poll.register(sock, READ)
        if serve(connection):
            connections[sock.fileno()] = connection
        else:
            sock.close()


def main() -> None:
    """Serve until killed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(listener.getsockname()[1], flush=True)
    poll.register(listener, READ)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                accept(listener)
            elif not serve(connections[descriptor]):
                connections.pop(descriptor).sock.close()


if __name__ == "__main__":
    main()
