"""How a TLS connection ends: close_notify, truncation, reset; and what is never taken for an end."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from tests.streams.tls_forge import Forge, KeyLog
from tests.streams.tls_pairs import (
    Pair,
    Transports,
    lockstep_transports,
    memory_transports,
    read_all,
    settle,
    shake_hands,
    tcp_transports,
    tls_pair,
    unix_transports,
    visitor_client,
    visitor_server,
)
from trunnel.errors import ErrorCode, RemoteProtocolError, StreamReset
from trunnel.names import KeyId
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.streams.tls_peer import TRUNCATED
from trunnel.transports.base import Peer
from trunnel.transports.memory import memory_session_pair

both_engines = pytest.mark.parametrize("transports", [memory_transports, tcp_transports])
both_versions = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


async def visitor_pair(transports: Transports, version: int = SSL.TLS1_3_VERSION, *, tolerant: bool = False) -> Pair:
    return await shake_hands(
        await transports(),
        client=visitor_client(version=version),
        server=visitor_server(),
        tolerate_truncation=tolerant,
    )


@both_engines
@both_versions
async def test_bytes_on_their_way_survive_send_eof(transports: Transports, version: int) -> None:
    """The transcript that loses data with `SSLObject.unwrap`: plaintext waits, undecrypted, when we finish."""
    client, server = await visitor_pair(transports, version)
    payload = bytes(range(256)) * 200
    await client.send_all(payload)
    await server.send_eof()
    await client.send_all(b"more, after the server's close_notify")
    assert await client.receive_some() == b""
    await client.send_all(b", and after it was read")
    await client.send_eof()
    assert await read_all(server) == payload + b"more, after the server's close_notify, and after it was read"
    assert await server.receive_some() == b""
    assert not server.truncated
    await server.aclose()
    await client.aclose()


@both_versions
async def test_a_record_cut_anywhere_by_send_eof_is_read_whole(version: int) -> None:
    """Half a record is here, we finish, the other half comes: at every cut position."""
    cut = length = 1
    while cut <= length:
        client, server = await visitor_pair(memory_transports, version)
        client._connection.send(b"payload")
        record = client._connection.bio_read(65536)
        length = len(record)
        await client.transport.send_all(record[:cut])
        if cut < length:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.receive_some)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        await server.send_eof()
        await client.transport.send_all(record[cut:])
        assert await server.receive_some() == b"payload"
        await client.aclose()
        assert await server.receive_some() == b""
        await server.aclose()
        cut += 1


async def expect_truncation(client: TlsStream, server: TlsStream, received: bytes) -> None:
    """Close the client's transport under it: the server reads *received*, and no end."""
    await client.transport.aclose()
    before = bytearray()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await read_all(server, before)
    assert before == received
    assert isinstance(caught.value.__cause__, RemoteProtocolError)
    assert str(caught.value.__cause__) == TRUNCATED
    assert server.truncated
    await server.aclose()
    await client.aclose()


@both_engines
async def test_every_cut_of_a_tls_1_3_record_is_truncation(transports: Transports) -> None:
    """A FIN inside the stream, wherever, is no end; what came whole is read first."""
    cut = length = 1
    while cut <= length:
        context = visitor_client()
        keylog = KeyLog(context)
        client, server = await shake_hands(await transports(), client=context, server=visitor_server())
        forge = Forge(keylog)
        first, second = forge.record(b"first"), forge.record(b"second")
        length = len(second)
        await client.transport.send_all(first + second[:cut])
        await expect_truncation(client, server, b"firstsecond" if cut == length else b"first")
        cut += 1


async def test_every_cut_of_a_tls_1_2_record_is_truncation() -> None:
    cut = length = 1
    while cut <= length:
        client, server = await visitor_pair(memory_transports, SSL.TLS1_2_VERSION)
        await client.send_all(b"first")
        client._connection.send(b"second")
        record = client._connection.bio_read(65536)
        length = len(record)
        await client.transport.send_all(record[:cut])
        await expect_truncation(client, server, b"firstsecond" if cut == length else b"first")
        cut += 1


@both_engines
@both_versions
async def test_an_end_between_records_is_truncation_too(transports: Transports, version: int) -> None:
    client, server = await visitor_pair(transports, version)
    await client.send_all(b"first")
    await expect_truncation(client, server, b"first")


@both_engines
async def test_truncation_can_be_tolerated_and_is_still_told(transports: Transports) -> None:
    client, server = await visitor_pair(transports, tolerant=True)
    await client.send_all(b"all there is")
    await client.transport.aclose()
    assert await read_all(server) == b"all there is"
    assert server.truncated
    await server.aclose()


async def test_a_reset_is_an_error_even_where_truncation_is_tolerated() -> None:
    client, server = await visitor_pair(tcp_transports, tolerant=True)
    client.abort()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await server.receive_some()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ECONNRESET
    await server.aclose()


async def test_what_came_before_a_reset_is_read_first() -> None:
    client, server = await visitor_pair(tcp_transports)
    await client.send_all(b"x" * 50_000)
    await trio.lowlevel.wait_readable(server.transport.socket)  # type: ignore[attr-defined]
    client.abort()
    received = bytearray()
    with pytest.raises(trio.BrokenResourceError):
        await read_all(server, received)
    assert received == b"x" * 50_000
    await server.aclose()


@pytest.mark.parametrize("send_eof_first", [False, True])
@both_engines
async def test_a_close_without_reading_is_still_an_end_for_the_peer(
    transports: Transports, send_eof_first: bool
) -> None:
    """A server's tickets lie unread in every client's socket: closing over them would send RST."""
    left, right = await transports()

    async def client() -> None:
        stream = await TlsStream.handshake(left, visitor_client(), role=TlsRole.CLIENT, timeout=5)
        await gate.wait()
        await stream.send_all(b"x" * 300_000)
        if send_eof_first:
            await stream.send_eof()
        await stream.aclose()

    async def server() -> None:
        stream = await TlsStream.handshake(right, visitor_server(), role=TlsRole.SERVER, timeout=5)
        gate.set()
        assert len(await read_all(stream)) == 300_000
        await stream.aclose()

    gate = trio.Event()
    await settle(client, server)


@both_engines
async def test_an_altered_record_breaks_both_directions_of_reading(transports: Transports) -> None:
    """The reader's alert reaches the one who sent it."""
    async with tls_pair(await transports(), client=visitor_client(), server=visitor_server()) as (client, server):
        forged = b"\x17\x03\x03\x00\x20" + bytes(32)
        await client.transport.send_all(forged)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        with pytest.raises(trio.BrokenResourceError, match="alert bad record mac"):
            await client.receive_some()


@both_engines
async def test_abort_wakes_everybody_and_sends_no_close_notify(transports: Transports) -> None:
    async with tls_pair(await transports()) as (client, server):

        async def reads() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        async def aborts() -> None:
            await trio.testing.wait_all_tasks_blocked()
            client.abort(ErrorCode.CANCEL)
            client.abort()

        await settle(reads, aborts)
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        for attempt in (client.send_all(b"x"), client.send_eof(), client.receive_some()):
            with pytest.raises(trio.ClosedResourceError):
                await attempt


@both_engines
async def test_a_cancelled_aclose_sends_no_close_notify(transports: Transports) -> None:
    """What was cut must not look complete."""
    async with tls_pair(await transports()) as (client, server):
        await client.send_all(b"half of it")
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()
        assert await server.receive_some() == b"half of it"
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()


async def test_aclose_gives_up_on_a_peer_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    client, server = await shake_hands(await lockstep_transports())
    started = trio.current_time()
    await client.aclose()
    assert trio.current_time() - started == 2
    with pytest.raises(trio.ClosedResourceError):
        await client.transport.send_all(b"")
    await server.aclose()


async def test_aclose_beside_a_blocked_send_cuts_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    """The record that waits would be followed by a close_notify: a lie about the rest."""
    client, server = await shake_hands(await lockstep_transports())

    async def sends() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x" * 1000)

    async def closes() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()

    await settle(sends, closes)
    with pytest.raises(trio.BrokenResourceError):
        await read_all(server)
    await server.aclose()


async def test_a_descriptor_that_someone_else_closed_is_never_touched() -> None:
    """OpenSSL knows the number only; the number may belong to another connection by now."""
    client, server = await shake_hands(await tcp_transports())
    assert isinstance(client.transport, trio.SocketStream)
    client.transport.socket.close()
    for attempt in (client.send_all(b"x"), client.receive_some(), client.send_eof()):
        with pytest.raises(trio.ClosedResourceError):
            await attempt
    await client.aclose()
    await server.aclose()


async def test_send_eof_goes_out_on_a_socket_that_was_full() -> None:
    """close_notify waits for room like every record, and the end is an end."""
    client, server = await shake_hands(unix_transports())
    payload = b"y" * 400_000

    async def sends() -> None:
        await client.send_all(payload)
        await client.send_eof()

    async def reads() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert await read_all(server) == payload

    await settle(sends, reads)
    await client.aclose()
    await server.aclose()


async def test_abort_resets_the_tunnel_stream_below() -> None:
    """TLS inside a tunnel stream: the code reaches the other end of the tunnel, and its cause the reader."""
    peer = Peer(key_id=KeyId.of_spki(b"key"), address="memory:1")
    async with memory_session_pair(peer, peer) as (relay, agent):
        near, far = await relay.open_stream(), await agent.accept_stream()
        client, server = await shake_hands((near, far))
        client.abort(ErrorCode.ORIGIN_UNREACHABLE)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code is ErrorCode.ORIGIN_UNREACHABLE
        await server.aclose()
        await client.aclose()
