"""What the peer does to streams, in any order: which are new, which are forgotten, and whose credit comes back."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from trunnel.errors import ErrorCode
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_receiving import Head, Receiving
from trunnel.transports.quic_sending import Sending
from trunnel.transports.quic_stream import QuicStream

NOW = 0.0


class Connection:
    """A connection that counts credit; we are the client (even numbers)."""

    def __init__(self) -> None:
        self.returned = 0
        self.stopped: dict[int, int] = {}

    def get_next_available_stream_id(self) -> int:
        return 0

    def consumed(self, stream_id: int, amount: int, *, unread: int, now: float) -> None:
        self.returned += amount

    def discard(self, stream_id: int, amount: int) -> None:
        self.returned += amount

    def writable(self, stream_id: int) -> bool:
        return True

    def stop_stream(self, stream_id: int, code: int) -> None:
        self.stopped[stream_id] = code

    def send_stream_data(self, stream_id: int, octets: bytes, end: bool) -> None:
        """Lost."""


class Link:
    """A link that is never settled."""

    def __init__(self) -> None:
        self.connection = Connection()
        self.alarm = 0.0

    def touch(self) -> None:
        """Nothing to settle."""


class Hall:
    """Takes streams while there are places."""

    def __init__(self) -> None:
        self.places = 100
        self.arrived: list[QuicStream] = []
        self.goodbyes = 0

    def arrive(self, stream: QuicStream) -> bool:
        if len(self.arrived) < self.places:
            self.arrived.append(stream)
            return True
        return False

    def note_goaway(self) -> None:
        self.goodbyes += 1


class Stage:
    """A `Receiving` and what surrounds it."""

    def __init__(self) -> None:
        self.link = Link()
        self.hall = Hall()
        link = cast("QuicLink", self.link)
        self.receiving = Receiving(link, Sending(link))

    def take(self, *events: QuicEvent) -> None:
        """Let events happen."""
        for event in events:
            self.receiving.take_event(event, NOW, hall=self.hall)

    @property
    def arrived(self) -> list[int]:
        """Numbers of the streams that were taken."""
        return [stream.stream_id for stream in self.hall.arrived]


def came(stream_id: int, octets: bytes, *, end: bool = False) -> StreamDataReceived:
    """Bytes of a stream."""
    return StreamDataReceived(data=octets, end_stream=end, stream_id=stream_id)


async def test_streams_arrive_with_their_head_in_any_order() -> None:
    stage = Stage()
    stage.take(came(9, b"\0nine"), came(1, b"\0"), came(5, b"\0five"))
    assert stage.arrived == [9, 1, 5]
    assert await stage.hall.arrived[0].receive_some() == b"nine"


async def test_a_forgotten_stream_does_not_come_back() -> None:
    stage = Stage()
    stage.take(came(1, b"\0x"))
    await stage.hall.arrived[0].aclose()
    stage.take(came(1, b"late", end=True), StreamReset(error_code=8, stream_id=1), StopSendingReceived(8, 1))
    assert stage.arrived == [1]
    assert stage.receiving.streams == {}
    assert stage.link.connection.returned == len(b"\0x" + b"late")
    assert stage.receiving.unread == 0


async def test_an_abort_may_come_before_the_head() -> None:
    """STOP_SENDING first, then the bytes: the stream is seen, and it is broken for sending."""
    stage = Stage()
    stage.take(StopSendingReceived(error_code=ErrorCode.DEADLINE, stream_id=1))
    assert stage.arrived == []
    stage.take(came(1, b"\0bytes"))
    (stream,) = stage.hall.arrived
    assert stream.reset_code is ErrorCode.DEADLINE
    assert await stream.receive_some() == b"bytes"
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


@pytest.mark.parametrize("head", [0x02, 0x7F, 0xFF])
async def test_an_unknown_head_gives_its_credit_back(head: int) -> None:
    stage = Stage()
    octets = bytes([head]) + b"content"
    stage.take(came(1, octets), came(1, b"more", end=True))
    assert stage.link.connection.returned == len(octets + b"more")
    assert stage.link.connection.stopped == {1: ErrorCode.PROTOCOL_ERROR}
    assert (stage.receiving.streams, stage.receiving.unread) == ({}, 0)


async def test_a_stream_without_a_place_is_refused() -> None:
    stage = Stage()
    stage.hall.places = 0
    stage.take(came(1, b"\0content"))
    assert stage.link.connection.stopped == {1: ErrorCode.REFUSED_STREAM}
    assert stage.link.connection.returned == len(b"\0content")


async def test_goaway_is_heard_and_leaves_nothing() -> None:
    stage = Stage()
    stage.take(came(1, bytes([Head.GOAWAY]) + b"ignored", end=True))
    assert stage.hall.goodbyes == 1
    assert (stage.arrived, stage.receiving.streams) == ([], {})


async def test_bytes_stay_readable_when_all_ends() -> None:
    stage = Stage()
    stage.take(came(1, b"\0read me"))
    stage.receiving.end(ConnectionError("gone"))
    (stream,) = stage.hall.arrived
    assert await stream.receive_some() == b"read me"
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
