"""Pairs of TLS streams for tests: over memory, over real sockets, and clogged ones.

Contexts are made once and shared: a frozen context is what the program uses, too.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TypeAlias

import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL

from trunnel.identity.certstore import Leaf
from trunnel.identity.contexts import link_client_context, link_server_context, visitor_context
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream

HANDSHAKE_TIMEOUT = 5.0
ALPN = b"trunnel-h2/1"
HOST = Hostname("a.example")

AnyKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
Transport: TypeAlias = trio.abc.HalfCloseableStream
Pair: TypeAlias = tuple[TlsStream, TlsStream]
Transports: TypeAlias = Callable[[], Awaitable[tuple[Transport, Transport]]]


@dataclass(frozen=True)
class Identity:
    """A key with a self-signed certificate."""

    key: AnyKey
    certificate: x509.Certificate


def make_identity(key: AnyKey | None = None, *, name: str = HOST.value, valid: tuple[int, int] = (-1, 1)) -> Identity:
    """Return a self-signed identity; *valid* is its validity in days from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=valid[0]))
        .not_valid_after(now + timedelta(days=valid[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Identity(key, builder.sign(key, algorithm))


@cache
def server_identity() -> Identity:
    """The relay's, or an endpoint's."""
    return make_identity()


@cache
def client_identity() -> Identity:
    """The agent's."""
    return make_identity(name="agent.example")


def write_pem(folder: Path, name: str, identity: Identity) -> Path:
    """Write key and certificate into one file, and return its path."""
    path = folder / f"{name}.pem"
    key = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(key + identity.certificate.public_bytes(serialization.Encoding.PEM))
    return path


def make_leaf(identity: Identity) -> Leaf:
    """Return *identity* as the leaf of an endpoint."""
    return Leaf(
        private_key=identity.key, chain=(identity.certificate,), path=Path("leaf.pem"), fingerprint="", names=(HOST,)
    )


@cache
def link_client(alpn: tuple[bytes, ...] = (ALPN,)) -> SSL.Context:
    """The agent's context."""
    identity = client_identity()
    assert not isinstance(identity.key, rsa.RSAPrivateKey)
    return link_client_context(identity.key, identity.certificate, alpn=alpn)


@cache
def link_server(alpn: tuple[bytes, ...] = (ALPN,)) -> SSL.Context:
    """The relay's context."""
    identity = server_identity()
    return link_server_context(identity.key, [identity.certificate], alpn=alpn)


@cache
def visitor_server(alpn: tuple[bytes, ...] = (b"http/1.1",)) -> SSL.Context:
    """An endpoint's context."""
    return visitor_context(make_leaf(server_identity()), alpn=alpn)


def visitor_client(*, version: int = SSL.TLS1_3_VERSION, alpn: Sequence[bytes] = ()) -> SSL.Context:
    """Return a visitor: verifies nothing, speaks exactly one version."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.clear_mode(0x1)
    if alpn:
        context.set_alpn_protos(list(alpn))
    return context


# --- transports ------------------------------------------------------------------------------------


async def memory_transports() -> tuple[Transport, Transport]:
    """Streams with room for everything."""
    return trio.testing.memory_stream_pair()


async def lockstep_transports() -> tuple[Transport, Transport]:
    """Streams without any room: a send waits for the receive."""
    return trio.testing.lockstep_stream_pair()


async def tcp_transports() -> tuple[trio.SocketStream, trio.SocketStream]:
    """A TCP connection over loopback."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = trio.socket.socket()
        await client.connect(listener.getsockname())
        server, _ = await listener.accept()
    return trio.SocketStream(client), trio.SocketStream(server)


def unix_transports(*, buffer: int = 8192) -> tuple[trio.SocketStream, trio.SocketStream]:
    """A unix socket pair with small buffers."""
    left, right = trio.socket.socketpair(trio.socket.AF_UNIX)
    for sock in (left, right):
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, buffer)
    return trio.SocketStream(left), trio.SocketStream(right)


# --- pairs -----------------------------------------------------------------------------------------


async def shake_hands(
    transports: tuple[Transport, Transport],
    *,
    client: SSL.Context | None = None,
    server: SSL.Context | None = None,
    server_name: Hostname | None = None,
    tolerate_truncation: bool = False,
) -> Pair:
    """Return (client, server) after a handshake over *transports*; links by default.

    One byte goes to the client and is read, so that the server's tickets are out of the way.
    """
    streams: dict[TlsRole, TlsStream] = {}

    async def one(transport: Transport, context: SSL.Context, role: TlsRole) -> None:
        stream = streams[role] = await TlsStream.handshake(
            transport,
            context,
            role=role,
            server_name=server_name,
            timeout=HANDSHAKE_TIMEOUT,
            tolerate_truncation=tolerate_truncation,
        )
        if role is TlsRole.SERVER:
            await stream.send_all(b"!")
        else:
            assert await stream.receive_some() == b"!"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, transports[0], client or link_client(), TlsRole.CLIENT)
        nursery.start_soon(one, transports[1], server or link_server(), TlsRole.SERVER)
    return streams[TlsRole.CLIENT], streams[TlsRole.SERVER]


@contextlib.asynccontextmanager
async def tls_pair(
    transports: tuple[Transport, Transport],
    *,
    client: SSL.Context | None = None,
    server: SSL.Context | None = None,
    server_name: Hostname | None = None,
) -> AsyncIterator[Pair]:
    """Like `shake_hands`; both are aborted at the end."""
    pair = await shake_hands(transports, client=client, server=server, server_name=server_name)
    try:
        yield pair
    finally:
        for stream in pair:
            stream.abort()


async def read_all(stream: trio.abc.ReceiveStream, into: bytearray | None = None) -> bytes:
    """Read to the end; what came before an error is *into*."""
    received = bytearray() if into is None else into
    while chunk := await stream.receive_some():
        received += chunk
    return bytes(received)


async def send_for_ever(stream: trio.abc.SendStream) -> None:
    """Send until it fails."""
    while True:
        await stream.send_all(b"x" * 1000)


async def refused_client(transport: Transport, context: SSL.Context, *, server_name: Hostname | None = None) -> None:
    """Be the client of a server that refuses: fails in the handshake, or with the first read (TLS 1.3)."""
    stream = await TlsStream.handshake(
        transport, context, role=TlsRole.CLIENT, server_name=server_name, timeout=HANDSHAKE_TIMEOUT
    )
    try:
        await stream.receive_some()
    finally:
        stream.abort()


async def settle(tasks: Callable[[], Awaitable[None]], *more: Callable[[], Awaitable[None]]) -> None:
    """Run the given coroutine functions together."""
    async with trio.open_nursery() as nursery:
        for task in (tasks, *more):
            nursery.start_soon(task)


def clog(stream: TlsStream) -> None:
    """Fill the kernel's buffer of a unix socket with whole TLS records, to where the next one has no room.

    A unix socket takes a write as long as what is queued is less than
    SO_SNDBUF, and takes it whole; so no record is ever cut.
    """
    import fcntl
    import termios

    transport = stream.transport
    assert isinstance(transport, trio.SocketStream)
    sock = transport.socket
    room = sock.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF)
    while struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0] < room:
        stream._connection.send(b"c" * 256)
