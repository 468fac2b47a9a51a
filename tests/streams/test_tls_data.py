"""Bytes through TLS: exact, in any chunks, both ways at once, beside KeyUpdates, under abuse."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.tls_forge import HANDSHAKE, Forge, KeyLog
from tests.streams.tls_pairs import (
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
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.streams.tls import TlsStream

both_engines = pytest.mark.parametrize("transports", [memory_transports, tcp_transports])


@asynccontextmanager
async def forged(transports: Transports) -> AsyncIterator[tuple[TlsStream, TlsStream, Forge]]:
    """A visitor and an endpoint, and a forge that speaks for the visitor."""
    context = visitor_client()
    keylog = KeyLog(context)
    async with tls_pair(await transports(), client=context, server=visitor_server()) as (client, server):
        yield client, server, Forge(keylog)


async def small_unix_transports() -> tuple[trio.SocketStream, trio.SocketStream]:
    return unix_transports()


@both_engines
async def test_bulk_both_ways_at_once_arrives_exact(transports: Transports) -> None:
    """1.5 MiB each way: more than every buffer, so both directions wait for room."""
    payload = bytes(range(251)) * 6266

    async with tls_pair(await transports()) as pair:

        async def sends(stream: TlsStream) -> None:
            await stream.send_all(payload)
            await stream.send_eof()

        async def reads(stream: TlsStream) -> None:
            digest = hashlib.sha256()
            while chunk := await stream.receive_some():
                digest.update(chunk)
            assert digest.digest() == hashlib.sha256(payload).digest()

        async with trio.open_nursery() as nursery:
            for stream in pair:
                nursery.start_soon(sends, stream)
                nursery.start_soon(reads, stream)


@given(writes=st.lists(st.binary(max_size=40_000), max_size=6), wants=st.lists(st.integers(1, 70_000), min_size=1))
@settings(max_examples=25, deadline=None)
async def test_any_writes_and_any_reads_give_the_same_bytes(writes: list[bytes], wants: list[int]) -> None:
    async with tls_pair(await memory_transports()) as (client, server):
        for write in writes:
            await client.send_all(write)
        await client.send_eof()
        received = bytearray()
        turn = 0
        while chunk := await server.receive_some(want := wants[turn % len(wants)]):
            assert len(chunk) <= want
            received += chunk
            turn += 1
        assert bytes(received) == b"".join(writes)


@both_engines
async def test_an_empty_write_sends_nothing(transports: Transports) -> None:
    async with tls_pair(await transports()) as (client, server):
        for empty in (b"", bytearray(), memoryview(b"")):
            await client.send_all(empty)
        await client.send_all(memoryview(b"abcdef")[1:4])
        await client.send_eof()
        assert await server.receive_some() == b"bcd"
        assert await server.receive_some() == b""


@both_engines
async def test_one_read_takes_several_records(transports: Transports) -> None:
    async with tls_pair(await transports()) as (client, server):
        await client.send_all(bytes(limits.TLS_READ))
        if isinstance(server.transport, trio.SocketStream):
            while len(server.transport.socket._sock.recv(1 << 20, 2)) < limits.TLS_READ:  # type: ignore[attr-defined]
                await trio.lowlevel.checkpoint()
        assert len(await server.receive_some()) == limits.TLS_READ


@both_engines
async def test_key_updates_of_the_peer_are_followed(transports: Transports) -> None:
    """RFC 8446 §4.6.3: both keys change, no byte is lost, and we answer before our next record."""
    async with forged(transports) as (client, server, forge):
        for round_ in range(40):
            await client.transport.send_all(forge.key_update(request=bool(round_ % 2)) + forge.record(b"%d" % round_))
            assert await server.receive_some() == b"%d" % round_
            await server.send_all(b"echo")
            assert await client.receive_some() == b"echo"


@pytest.mark.parametrize("transports", [lockstep_transports, small_unix_transports, tcp_transports])
async def test_a_key_update_reaches_a_sender_that_waits_for_room(transports: Transports) -> None:
    """The reader must write an answer, while a half-written record of the sender waits."""
    payload = bytes(range(256)) * 4096
    async with forged(transports) as (client, server, forge):

        async def sends() -> None:
            await server.send_all(payload)
            await server.send_eof()

        async def reads() -> None:
            heard = b""
            while len(heard) < 11:
                heard += await server.receive_some()
            assert heard == b"onetwothree"

        async def visitor() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await client.transport.send_all(
                forge.record(b"one") + forge.key_update(request=True) + forge.record(b"two")
            )
            await trio.testing.wait_all_tasks_blocked()
            await client.transport.send_all(forge.record(b"three"))
            received = bytearray()
            while chunk := await client.receive_some():
                received += chunk
            assert received == payload

        await settle(sends, reads, visitor)


@both_engines
async def test_ten_thousand_key_updates_are_cut_short(transports: Transports) -> None:
    """LOAD-17: closed, within 0.5 s of CPU."""
    async with forged(transports) as (client, server, forge):
        flood = b"".join(forge.key_update(request=True) for _ in range(10_000))
        spent = time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.transport.send_all, flood)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await server.receive_some()
            nursery.cancel_scope.cancel()
        assert time.process_time() - spent < 0.5
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert caught.value.__cause__.code is ErrorCode.ENHANCE_YOUR_CALM


@both_engines
async def test_records_of_one_byte_are_read_in_bounded_turns(transports: Transports) -> None:
    async with forged(transports) as (client, server, forge):
        total = 3 * limits.TLS_RECORDS_PER_READ
        await client.transport.send_all(b"".join(forge.record(b"x") for _ in range(total)))
        received = 0
        while received < total:
            chunk = await server.receive_some()
            assert 1 <= len(chunk) <= limits.TLS_RECORDS_PER_READ
            received += len(chunk)


@both_engines
async def test_empty_records_without_end_are_cut_short(transports: Transports) -> None:
    async with forged(transports) as (client, server, forge):
        await client.transport.send_all(b"".join(forge.record(b"") for _ in range(1000)))
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()


@both_engines
async def test_a_second_client_hello_breaks_the_connection(transports: Transports) -> None:
    """TLS 1.3 has no renegotiation: unexpected_message."""
    async with forged(transports) as (client, server, forge):
        await client.transport.send_all(forge.record(b"\x01\x00\x00\x04" + bytes(4), HANDSHAKE))
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="alert unexpected message"):
            await client.receive_some()


async def test_a_cancelled_send_breaks_sending_and_nothing_else() -> None:
    """OpenSSL holds half a record: another one must never follow it."""
    client, server = await shake_hands(unix_transports())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(1_000_000))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    for attempt in (client.send_all(b"more"), client.send_eof(), client.wait_send_all_might_not_block()):
        with pytest.raises(trio.BrokenResourceError):
            await attempt
    await server.send_all(b"still heard")
    assert await client.receive_some() == b"still heard"
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await read_all(server)
    await server.aclose()


async def test_a_send_that_was_cancelled_before_it_began_breaks_nothing() -> None:
    async with tls_pair(await tcp_transports()) as (client, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send_all(b"never sent")
        assert scope.cancelled_caught
        await client.send_all(b"sent")
        assert await server.receive_some() == b"sent"


@both_engines
async def test_a_cancelled_read_loses_nothing(transports: Transports) -> None:
    async with tls_pair(await transports()) as (client, server):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.receive_some)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await client.send_all(b"whole")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.receive_some()
        assert await server.receive_some() == b"whole"
