"""The handshake: what it agrees on, how it fails, and what it leaves behind."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from tests.streams.tls_pairs import (
    ALPN,
    HANDSHAKE_TIMEOUT,
    HOST,
    Transports,
    client_identity,
    link_client,
    link_server,
    memory_transports,
    read_all,
    send_for_ever,
    server_identity,
    settle,
    shake_hands,
    tcp_transports,
    tls_pair,
    visitor_client,
    visitor_server,
)
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.streams.tls import TlsRole, TlsStream

NOT_A_HELLO = b"\x17\x03\x01\x00\x05hello"
"""A record of application data, where a handshake must come."""

both_engines = pytest.mark.parametrize("transports", [memory_transports, tcp_transports])


async def client_handshake(transport: trio.abc.HalfCloseableStream, context: SSL.Context) -> TlsStream:
    return await TlsStream.handshake(transport, context, role=TlsRole.CLIENT, timeout=HANDSHAKE_TIMEOUT)


async def server_handshake(transport: trio.abc.HalfCloseableStream, context: SSL.Context) -> TlsStream:
    return await TlsStream.handshake(transport, context, role=TlsRole.SERVER, timeout=HANDSHAKE_TIMEOUT)


@both_engines
async def test_a_link_is_tls_1_3_with_both_certificates_and_alpn(transports: Transports) -> None:
    async with tls_pair(await transports()) as (client, server):
        assert client.tls_version == server.tls_version == "TLSv1.3"
        assert client.alpn == server.alpn == ALPN
        assert client.peer_certificates == (server_identity().certificate,)
        assert server.peer_certificates == (client_identity().certificate,)
        assert client.engine == server.engine == ("memory" if transports is memory_transports else "socket")


@both_engines
async def test_a_link_refuses_tls_1_2(transports: Transports) -> None:
    left, right = await transports()

    async def client() -> None:
        with pytest.raises(ConnectError, match="protocol version"):
            await client_handshake(left, visitor_client(version=SSL.TLS1_2_VERSION))

    async def server() -> None:
        with pytest.raises(ConnectError, match="unsupported protocol"):
            await server_handshake(right, link_server())

    await settle(client, server)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@both_engines
async def test_visitors_may_speak_tls_1_2_and_1_3(transports: Transports, version: int) -> None:
    async with tls_pair(await transports(), client=visitor_client(version=version), server=visitor_server()) as (
        client,
        server,
    ):
        assert server.tls_version == {SSL.TLS1_2_VERSION: "TLSv1.2", SSL.TLS1_3_VERSION: "TLSv1.3"}[version]
        assert client.alpn is server.alpn is None
        assert server.peer_certificates == ()


@both_engines
async def test_visitors_may_not_speak_tls_1_1(transports: Transports) -> None:
    left, right = await transports()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_1_VERSION)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")

    async def client() -> None:
        with pytest.raises(ConnectError):
            await client_handshake(left, context)

    async def server() -> None:
        with pytest.raises(ConnectError, match="unsupported protocol"):
            await server_handshake(right, visitor_server())

    await settle(client, server)


@both_engines
async def test_a_client_without_protocol_in_common_gets_the_alert(transports: Transports) -> None:
    left, right = await transports()

    async def client() -> None:
        with pytest.raises(ConnectError, match="alert no application protocol"):
            await client_handshake(left, visitor_client(alpn=[b"h2", b"spdy/1"]))

    async def server() -> None:
        with pytest.raises(ConnectError, match=r"no application protocol in common \(offered: b'h2, spdy/1'\)"):
            await server_handshake(right, visitor_server())

    await settle(client, server)


@both_engines
async def test_a_client_without_certificate_learns_why_on_its_first_read(transports: Transports) -> None:
    """With TLS 1.3 the client has finished before the server looks; the alert names the reason."""
    left, right = await transports()

    async def client() -> None:
        stream = await client_handshake(left, visitor_client(alpn=[ALPN]))
        await stream.send_all(b"the server never reads this")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert "alert certificate required" in str(caught.value.__cause__)
        with pytest.raises(trio.BrokenResourceError, match="alert certificate required"):
            await stream.receive_some()
        await stream.aclose()

    async def server() -> None:
        with pytest.raises(ConnectError, match="did not return a certificate"):
            await server_handshake(right, link_server())

    await settle(client, server)


@both_engines
async def test_a_handshake_has_a_deadline(transports: Transports) -> None:
    left, right = await transports()
    with pytest.raises(ConnectError, match=r"longer than 0\.05 s"):
        await TlsStream.handshake(right, link_server(), role=TlsRole.SERVER, timeout=0.05)
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await send_for_ever(left)
    await left.aclose()


async def test_the_deadline_counts_from_the_start_not_from_the_last_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = await memory_transports()

    async def dribble() -> None:
        for byte in b"\x16\x03\x01\x10\x00\x01" + bytes(4):
            await left.send_all(bytes([byte]))
            await trio.sleep(0.9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        started = trio.current_time()
        with pytest.raises(ConnectError, match="longer than 10 s"):
            await TlsStream.handshake(right, link_server(), role=TlsRole.SERVER, timeout=10)
        assert trio.current_time() - started == 10


@both_engines
async def test_the_peer_going_away_fails_the_handshake(transports: Transports) -> None:
    left, right = await transports()
    await left.aclose()
    with pytest.raises(ConnectError, match="handshake failed"):
        await server_handshake(right, link_server())


@both_engines
async def test_bytes_that_are_not_tls_fail_the_handshake(transports: Transports) -> None:
    left, right = await transports()

    async def client() -> None:
        await left.send_all(NOT_A_HELLO)
        answer = await read_all(left)
        assert answer[:1] == b"\x15", "the answer is an alert"
        await left.aclose()

    async def server() -> None:
        with pytest.raises(ConnectError, match="unexpected message"):
            await server_handshake(right, link_server())

    await settle(client, server)


@both_engines
async def test_a_cancelled_handshake_closes_the_transport(transports: Transports) -> None:
    left, right = await transports()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server_handshake, right, link_server())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await right.receive_some()
    await left.aclose()


async def test_a_failed_handshake_closes_the_descriptor() -> None:
    left, right = await tcp_transports()

    async def client() -> None:
        await left.send_all(NOT_A_HELLO)
        await read_all(left)
        await left.aclose()

    async def server() -> None:
        with pytest.raises(ConnectError):
            await server_handshake(right, link_server())
        assert right.socket.fileno() == -1

    await settle(client, server)


async def test_a_peer_that_keeps_a_refused_connection_open_is_waited_for_2_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = await memory_transports()
    started = trio.current_time()
    await left.send_all(NOT_A_HELLO)
    with pytest.raises(ConnectError):
        await server_handshake(right, link_server())
    assert trio.current_time() - started == 2


async def test_bytes_read_before_are_given_as_prefix() -> None:
    """The start of the ClientHello was read from the socket: the memory engine takes over."""
    left, right = await tcp_transports()

    async def client() -> None:
        stream = await client_handshake(left, link_client())
        assert await stream.receive_some() == b"hello"
        assert await stream.receive_some() == b""
        await stream.aclose()

    async def server() -> None:
        prefix = await right.receive_some(100)
        stream = await TlsStream.handshake(
            right, link_server(), role=TlsRole.SERVER, prefix=prefix, timeout=HANDSHAKE_TIMEOUT
        )
        assert stream.engine == "memory"
        await stream.send_all(b"hello")
        await stream.aclose()

    await settle(client, server)


async def test_the_server_name_is_sent() -> None:
    left, right = await memory_transports()
    seen: list[bytes | None] = []
    server = SSL.Connection(link_server())
    server.set_accept_state()

    async def client() -> None:
        with pytest.raises(ConnectError):
            await TlsStream.handshake(left, link_client(), role=TlsRole.CLIENT, server_name=HOST, timeout=1)

    async def look() -> None:
        server.bio_write(await right.receive_some())
        with pytest.raises(SSL.WantReadError):
            server.do_handshake()
        seen.append(server.get_servername())
        await right.aclose()

    await settle(client, look)
    assert seen == [b"a.example"]


async def test_tls_inside_tls_inside_a_socket() -> None:
    """The memory engine runs over the socket engine, and abort reaches the socket."""
    outer_client, outer_server = await shake_hands(await tcp_transports())
    client, server = await shake_hands((outer_client, outer_server), client=visitor_client(), server=visitor_server())
    assert (client.engine, outer_client.engine) == ("memory", "socket")
    await client.send_all(b"in two envelopes")
    assert await server.receive_some() == b"in two envelopes"
    client.abort()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await outer_client.receive_some()
    await server.aclose()
