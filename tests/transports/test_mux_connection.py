"""What the driver relies on, of each protocol: two ends and a pipe, without a clock or a task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.h2_connection import H2Connection
from trunnel.transports.h2_receive import H2Receiver
from trunnel.transports.mux_connection import Multiplexer
from trunnel.wire.muxevents import (
    BytesReceived,
    GoneAway,
    MuxEvent,
    PingAnswered,
    Role,
    StreamAborted,
    StreamEnded,
    StreamOpened,
    WindowOpened,
)
from trunnel.wire.yamux import YamuxConnection

BULK = memoryview(bytes(4 * limits.MIB))


def h2(role: Role) -> Multiplexer:
    """One end of HTTP/2."""
    connection = H2Connection(role, now=0.0)
    return Multiplexer(
        name="h2",
        title="HTTP/2",
        connection=connection,
        receiver=H2Receiver(connection),
        ping=lambda: connection.output.frame(6, 0, 0, bytes(8)),
    )


def yamux(role: Role) -> Multiplexer:
    """One end of yamux."""
    connection = YamuxConnection(role, now=0.0)
    return Multiplexer(name="yamux", title="yamux", connection=connection, receiver=connection, ping=connection.ping)


PROTOCOLS = pytest.mark.parametrize("protocol", [h2, yamux])
Protocol = Callable[[Role], Multiplexer]


def carry(source: Multiplexer, target: Multiplexer) -> list[MuxEvent]:
    """Bring what *source* has queued to *target*."""
    return target.receiver.feed_untrusted(bytes(source.connection.output.take()), now=0.0)


def opened(protocol: Protocol) -> tuple[Multiplexer, Multiplexer, int]:
    """Both ends, and a stream between them."""
    client, server = protocol(Role.CLIENT), protocol(Role.SERVER)
    carry(server, client)
    carry(client, server)
    carry(server, client)
    stream_id = client.connection.open_stream(now=0.0)
    assert carry(client, server) == [StreamOpened(stream_id)]
    carry(server, client)
    return client, server, stream_id


def fill(end: Multiplexer, stream_id: int) -> int:
    """Send until the window is closed; every call takes one frame."""
    total = 0
    while taken := end.connection.send(stream_id, BULK):
        assert taken <= limits.FRAME_MAX
        total += taken
    return total


@PROTOCOLS
def test_no_more_is_taken_than_may_be_sent(protocol: Protocol) -> None:
    client, _server, stream_id = opened(protocol)
    allowed = client.connection.sendable(stream_id)
    assert fill(client, stream_id) == allowed
    assert client.connection.sendable(stream_id) == 0


@PROTOCOLS
def test_payload_is_queued_by_send_only_so_that_a_ping_overtakes_what_was_not_taken(protocol: Protocol) -> None:
    client, server, stream_id = opened(protocol)
    client.ping()
    client.connection.send(stream_id, BULK[:5])
    before = client.connection.output.pending
    assert [event.payload for event in carry(client, server) if isinstance(event, BytesReceived)] == [bytes(5)]
    assert 0 < before < 64
    assert any(isinstance(event, PingAnswered) for event in carry(server, client))


@PROTOCOLS
def test_consumed_bytes_let_the_sender_go_on(protocol: Protocol) -> None:
    client, server, stream_id = opened(protocol)
    amount = fill(client, stream_id)
    assert sum(len(event.payload) for event in carry(client, server) if isinstance(event, BytesReceived)) == amount
    server.connection.consumed(stream_id, amount, unread=0, now=0.0)
    assert WindowOpened(stream_id) in carry(server, client)
    assert client.connection.sendable(stream_id) >= amount


@PROTOCOLS
def test_streams_whose_bytes_nobody_reads_do_not_use_up_the_connection(protocol: Protocol) -> None:
    client, server, stream_id = opened(protocol)
    for _ in range(4 * limits.SESSION_CREDIT // limits.STREAM_WINDOW_MIN):
        sent = fill(client, stream_id)
        assert sent
        carry(client, server)
        server.connection.reset(stream_id, ErrorCode.CANCEL)
        server.connection.discard(sent)
        assert StreamAborted(stream_id, ErrorCode.CANCEL) in carry(server, client)
        stream_id = client.connection.open_stream(now=0.0)
        carry(client, server)
        carry(server, client)


@PROTOCOLS
def test_a_stream_lives_until_both_have_ended_it(protocol: Protocol) -> None:
    client, server, stream_id = opened(protocol)
    client.connection.end(stream_id)
    client.connection.end(stream_id)
    assert carry(client, server) == [StreamEnded(stream_id)]
    assert client.connection.streams[stream_id].we_ended
    assert client.connection.send(stream_id, BULK) == 0
    server.connection.end(stream_id)
    assert carry(server, client) == [StreamEnded(stream_id)]
    for end in (client, server):
        assert stream_id not in end.connection.streams
        assert not end.connection.reset(stream_id, ErrorCode.CANCEL)


@PROTOCOLS
def test_a_goodbye_goes_out_and_no_stream_comes_behind_it(protocol: Protocol) -> None:
    client, server, _stream_id = opened(protocol)
    server.connection.go_away(ErrorCode.NO_ERROR)
    assert server.connection.refusing
    assert [event.code for event in carry(server, client) if isinstance(event, GoneAway)] == [ErrorCode.NO_ERROR]
    late = client.connection.open_stream(now=0.0)
    assert carry(client, server) == []
    assert carry(server, client) == [StreamAborted(late, ErrorCode.REFUSED_STREAM)]
