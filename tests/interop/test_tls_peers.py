"""Our TLS against other people's, both roles: stdlib `ssl`, `openssl s_client` and `s_server`, curl."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import TypeAlias

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from OpenSSL import SSL

from tests.peers import require_program
from tests.streams.tls_pairs import (
    ALPN,
    HOST,
    client_identity,
    link_client,
    link_server,
    make_identity,
    make_leaf,
    read_all,
    server_identity,
    visitor_client,
    visitor_server,
    write_pem,
)
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.identity.contexts import visitor_context
from trunnel.streams.tls import TlsRole, TlsStream

pytestmark = pytest.mark.interop

Service: TypeAlias = Callable[[TlsStream], Awaitable[None]]
BULK = bytes(range(256)) * 8192
"""2 MiB."""
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@asynccontextmanager
async def our_server(context: SSL.Context, service: Service) -> AsyncIterator[int]:
    """Serve *service* to one connection on the port that is yielded; waits until it has ended."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        async def serve() -> None:
            connection, _ = await listener.accept()
            stream = await TlsStream.handshake(trio.SocketStream(connection), context, role=TlsRole.SERVER, timeout=10)
            async with stream:
                await service(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield listener.getsockname()[1]


# --- stdlib ssl, in a thread ------------------------------------------------------------------------


def stdlib_client(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def receive_until_end(connection: ssl.SSLSocket) -> bytes:
    received = bytearray()
    while chunk := connection.recv(65536):
        received += chunk
    return bytes(received)


@pytest.mark.parametrize("version", list(VERSIONS))
async def test_a_stdlib_client_sends_bulk_and_gets_it_back(version: str) -> None:
    """It cannot half-close; so the length is agreed."""

    def client(port: int) -> bytes:
        context = stdlib_client(VERSIONS[version])
        context.set_alpn_protocols(["http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname=HOST.value) as connection,
        ):
            assert connection.version() == f"TLSv{version}"
            assert connection.selected_alpn_protocol() == "http/1.1"
            connection.sendall(BULK)
            return receive_until_end(connection)

    async def service(stream: TlsStream) -> None:
        received = bytearray()
        while len(received) < len(BULK):
            received += await stream.receive_some()
        await stream.send_all(received)

    async with our_server(visitor_server(), service) as port:
        assert await trio.to_thread.run_sync(client, port) == BULK


@pytest.mark.parametrize("version", list(VERSIONS))
async def test_a_stdlib_client_that_drops_the_connection_is_truncation(version: str) -> None:
    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            connection = stdlib_client(VERSIONS[version]).wrap_socket(raw)
            connection.sendall(b"half of it")
            connection.recv(1)  # and with it the server's tickets: nothing is unread, so the close is a FIN
            connection.close()

    async def service(stream: TlsStream) -> None:
        assert await stream.receive_some() == b"half of it"
        await stream.send_all(b"!")
        with pytest.raises(trio.BrokenResourceError, match="without close_notify"):
            await stream.receive_some()
        assert stream.truncated

    async with our_server(visitor_server(), service) as port:
        await trio.to_thread.run_sync(client, port)


@pytest.mark.parametrize("kind", ["P-256", "Ed25519", "RSA"])
async def test_a_stdlib_client_proves_its_key_and_never_resumes(kind: str, tmp_path: Path) -> None:
    """SEC-03 with a client that is not ours: the saved session is offered, the certificate is asked for again."""
    key = {
        "P-256": None,
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "RSA": rsa.generate_private_key(65537, 2048),
    }[kind]
    identity = make_identity(key)
    context = stdlib_client(ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols([ALPN.decode()])
    context.load_cert_chain(write_pem(tmp_path, "agent", identity))

    def client(port: int, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, session=session) as connection,
        ):
            assert connection.recv(1) == b"!"
            assert not connection.session_reused
            saved = connection.session
            connection.unwrap()
            return saved

    async def service(stream: TlsStream) -> None:
        assert stream.peer_certificates == (identity.certificate,)
        assert stream.alpn == ALPN
        await stream.send_all(b"!")
        assert await stream.receive_some() == b""

    session: ssl.SSLSession | None = None
    for _ in range(2):
        async with our_server(link_server(), service) as port:
            session = await trio.to_thread.run_sync(client, port, session)


async def test_our_client_proves_its_key_to_a_stdlib_server(tmp_path: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(write_pem(tmp_path, "relay", server_identity()))
    server.load_verify_locations(write_pem(tmp_path, "agent", client_identity()))
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols([ALPN.decode()])

    def serve(listener: socket.socket) -> None:
        raw, _ = listener.accept()
        with server.wrap_socket(raw, server_side=True) as connection:
            certificate = connection.getpeercert(binary_form=True)
            assert certificate == client_identity().certificate.public_bytes(serialization.Encoding.DER)
            received = receive_until_end(connection)
            connection.sendall(received[::-1])
            connection.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve, listener)
            transport = await trio.open_tcp_stream(*listener.getsockname())
            async with await TlsStream.handshake(transport, link_client(), role=TlsRole.CLIENT, timeout=10) as stream:
                assert stream.alpn == ALPN
                assert stream.peer_certificates == (server_identity().certificate,)
                await stream.send_all(BULK)
                await stream.send_eof()
                assert await read_all(stream) == BULK[::-1]


# --- openssl ----------------------------------------------------------------------------------------


@asynccontextmanager
async def openssl(*arguments: str) -> AsyncIterator[trio.Process]:
    """Run `openssl`; killed at the end if it still runs."""
    command = [str(require_program("openssl")), *arguments]
    run = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(run)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def s_client(port: int, *options: str) -> AsyncIterator[trio.Process]:
    """Connect `openssl s_client` to *port*."""
    async with openssl("s_client", "-connect", f"127.0.0.1:{port}", *options) as process:
        yield process


async def read_until(stream: trio.abc.ReceiveStream | None, mark: bytes) -> bytes:
    """Read a process's output until *mark* was in it, or to its end."""
    assert stream is not None
    received = b""
    while mark not in received and (chunk := await stream.receive_some()):
        received += chunk
    return received


async def test_openssl_asks_for_new_keys_and_goes_on() -> None:
    """`K` makes it send KeyUpdate with update_requested; its bytes, and ours, go on under new keys."""
    seen = trio.Event()

    async def service(stream: TlsStream) -> None:
        assert await stream.receive_some() == b"before\n"
        await stream.send_all(b"first answer\n")
        assert await stream.receive_some() == b"after\n"
        await stream.send_all(b"second answer\n")
        await seen.wait()

    async with (
        our_server(visitor_server(), service) as port,
        s_client(port, "-tls1_3", "-servername", HOST.value) as process,
    ):
        assert process.stdin is not None
        await process.stdin.send_all(b"before\n")
        assert b"first answer" in await read_until(process.stdout, b"first answer")
        await process.stdin.send_all(b"K\n")
        assert b"KEYUPDATE" in await read_until(process.stderr, b"KEYUPDATE")
        await process.stdin.send_all(b"after\n")
        assert b"second answer" in await read_until(process.stdout, b"second answer")
        seen.set()


async def test_openssl_may_not_renegotiate() -> None:
    """LOAD-17: TLS 1.2 has it; we answer with no_renegotiation."""
    refused = trio.Event()

    async def service(stream: TlsStream) -> None:
        assert await stream.receive_some() == b"before\n"
        await stream.send_all(b"answer\n")
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            assert await stream.receive_some() != b""
        refused.set()

    async with (
        our_server(visitor_server(), service) as port,
        s_client(port, "-tls1_2", "-servername", HOST.value) as process,
    ):
        assert process.stdin is not None
        await process.stdin.send_all(b"before\n")
        assert b"answer" in await read_until(process.stdout, b"answer")
        await process.stdin.send_all(b"R\n")
        assert b"no renegotiation" in await read_until(process.stderr, b"no renegotiation")
        await refused.wait()


async def test_openssl_without_certificate_is_told_so() -> None:
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

        async def serve() -> None:
            with pytest.raises(ConnectError, match="did not return a certificate"):
                await TlsStream.handshake(await listener.accept(), link_server(), role=TlsRole.SERVER, timeout=10)

        nursery.start_soon(serve)
        async with s_client(listener.socket.getsockname()[1], "-alpn", ALPN.decode(), "-ign_eof") as process:
            assert b"alert certificate required" in await read_until(process.stderr, b"certificate required")
        await listener.aclose()


async def test_openssl_cannot_resume_a_link(tmp_path: Path) -> None:
    """SEC-03 with the tool's own session file; the second time it proves its key again."""
    agent = write_pem(tmp_path, "agent", client_identity())
    session = tmp_path / "session.pem"
    options = ["-cert", str(agent), "-key", str(agent), "-alpn", ALPN.decode(), "-ign_eof"]

    async def service(stream: TlsStream) -> None:
        assert stream.peer_certificates == (client_identity().certificate,)
        await stream.send_all(b"welcome\n")

    for saved in (["-sess_out", str(session)], ["-sess_in", str(session)]):
        async with (
            our_server(link_server(), service) as port,
            s_client(port, *options, *saved) as process,
        ):
            assert process.stdout is not None
            said = await read_all(process.stdout)
            assert b"welcome" in said
            assert b"Reused" not in said
    assert session.exists()


@asynccontextmanager
async def s_server(pem: Path, *options: str) -> AsyncIterator[int]:
    """Run `openssl s_server` on a port of the system's choice; yields it."""
    async with openssl("s_server", "-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem), *options) as process:
        said = b""
        while b"ACCEPT 127.0.0.1:" not in said or not said.rstrip(b" ").endswith(b"\n"):
            said += await read_until(process.stdout, b"\n")
        yield int(said.split(b"ACCEPT 127.0.0.1:")[1].split()[0])


async def connect(port: int, context: SSL.Context) -> TlsStream:
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    return await TlsStream.handshake(transport, context, role=TlsRole.CLIENT, server_name=HOST, timeout=10)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_our_client_talks_to_an_openssl_server(version: str, tmp_path: Path) -> None:
    pem = write_pem(tmp_path, "server", server_identity())
    number = SSL.TLS1_2_VERSION if version == "-tls1_2" else SSL.TLS1_3_VERSION
    async with (
        s_server(pem, version, "-rev", "-alpn", "http/1.1") as port,
        await connect(port, visitor_client(version=number, alpn=[b"http/1.1"])) as stream,
    ):
        assert stream.alpn == b"http/1.1"
        await stream.send_all(b"stressed\n")
        assert await stream.receive_some() == b"desserts\n"


async def test_our_client_learns_that_an_openssl_server_refused_its_certificate(tmp_path: Path) -> None:
    pem = write_pem(tmp_path, "server", server_identity())
    async with s_server(pem, "-tls1_3", "-Verify", "1", "-verify_return_error", "-alpn", ALPN.decode()) as port:
        stream = await connect(port, link_client())
        with pytest.raises(trio.BrokenResourceError, match="alert") as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        await stream.aclose()


# --- curl -------------------------------------------------------------------------------------------


async def read_head(stream: TlsStream) -> tuple[bytes, bytes]:
    """Read a request's head; returns it and what came behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


async def run_curl(port: int, pem: Path, *options: str) -> bytes:
    command = [str(require_program("curl")), "-sS", "--noproxy", "*", "--cacert", str(pem)]
    command += ["--resolve", f"{HOST}:{port}:127.0.0.1", *options, f"https://{HOST}:{port}/"]
    return (await trio.run_process(command, capture_stdout=True)).stdout


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl_downloads(version: str, tmp_path: Path) -> None:
    """Curl verifies the leaf, offers h2 and http/1.1, gets http/1.1; the end of the body is our close_notify."""
    pem = tmp_path / "leaf.pem"
    pem.write_bytes(server_identity().certificate.public_bytes(serialization.Encoding.PEM))

    async def service(stream: TlsStream) -> None:
        assert stream.alpn == b"http/1.1"
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        await stream.send_all(BULK)

    context = visitor_context(make_leaf(server_identity()), alpn=[b"http/1.1"])
    async with our_server(context, service) as port:
        body = await run_curl(port, pem, f"--tlsv{version}", "--tls-max", version)
    assert hashlib.sha256(body).digest() == hashlib.sha256(BULK).digest()


async def test_curl_uploads(tmp_path: Path) -> None:
    pem = tmp_path / "leaf.pem"
    pem.write_bytes(server_identity().certificate.public_bytes(serialization.Encoding.PEM))
    upload = tmp_path / "upload"
    upload.write_bytes(BULK)

    async def service(stream: TlsStream) -> None:
        _, received = await read_head(stream)
        while len(received) < len(BULK):
            received += await stream.receive_some()
        digest = hashlib.sha256(received).hexdigest().encode()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 64\r\n\r\n" + digest)

    async with our_server(visitor_server(), service) as port:
        answer = await run_curl(port, pem, "-H", "Expect:", "--data-binary", f"@{upload}")
    assert answer.decode() == hashlib.sha256(BULK).hexdigest()
