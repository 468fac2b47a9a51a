"""Our HTTP/2 against hyper-h2, another implementation, in both roles over loopback TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY
from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.transports.mux import MuxSession

pytestmark = pytest.mark.interop

BOTH = pytest.mark.parametrize("role", list(Role))
BULK = bytes(range(256)) * 4_096
"""One MiB."""
REQUEST = [(":method", "POST"), (":scheme", "https"), (":path", "/trunnel"), (":authority", "relay")]


class Hyper:
    """A hyper-h2 connection on a socket, driven one event at a time."""

    def __init__(self, carrier: trio.SocketStream, *, client: bool, frame_max: int) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        self.carrier = carrier
        self.stream_id = 0
        self._client = client
        self._frame_max = frame_max
        self.received = bytearray()
        self.ended = False
        self.reset_code: int | None = None
        self.goodbye: int | None = None
        self.acknowledge = True

    async def start(self) -> None:
        """Send preface and settings; a client opens a stream, a server answers the first."""
        self.h2.local_settings = h2.settings.Settings(
            client=self._client,
            initial_values={
                h2.settings.SettingCodes.MAX_FRAME_SIZE: self._frame_max,
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self.h2.initiate_connection()
        self.h2.max_inbound_frame_size = self._frame_max
        if self._client:
            self.stream_id = 1
            self.h2.send_headers(1, REQUEST)
        await self.flush()
        while not self.stream_id or (self._client and not self.answered):
            await self.step()

    answered = False

    async def flush(self) -> None:
        """Write what has gathered."""
        if outgoing := self.h2.data_to_send():
            await self.carrier.send_all(outgoing)

    async def step(self) -> None:
        """Read once and take the events."""
        chunk = await self.carrier.receive_some(65_536)
        if not chunk:
            raise trio.EndOfChannel
        for event in self.h2.receive_data(chunk):
            self._take(event)
        await self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream_id):
                assert stream_id is not None
                self.stream_id = stream_id
                assert (b":path", b"/trunnel") in (event.headers or [])
                self.h2.send_headers(stream_id, [(":status", "200")])
            case h2.events.ResponseReceived():
                assert event.headers == [(b":status", b"200")]
                self.answered = True
            case h2.events.DataReceived():
                self.received += event.data or b""
                if self.acknowledge and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, self.stream_id)
            case h2.events.StreamEnded():
                self.ended = True
            case h2.events.StreamReset():
                self.reset_code = int(event.error_code or 0)
            case h2.events.ConnectionTerminated():
                self.goodbye = int(event.error_code or 0)
            case _:
                pass

    async def send_all(self, payload: bytes) -> None:
        """Send *payload* as flow control lets us."""
        at = 0
        while at < len(payload):
            room = min(self.h2.local_flow_control_window(self.stream_id), self.h2.max_outbound_frame_size)
            if not room:
                await self.step()
                continue
            self.h2.send_data(self.stream_id, payload[at : at + room])
            at += room
            await self.flush()

    async def send_eof(self) -> None:
        """Send END_STREAM."""
        self.h2.end_stream(self.stream_id)
        await self.flush()

    async def until_ended(self) -> None:
        """Read to the peer's END_STREAM."""
        while not self.ended:
            await self.step()


@asynccontextmanager
async def hyper_pair(role: Role, *, frame_max: int = 16_384) -> AsyncIterator[tuple[MuxSession, Stream, Hyper]]:
    """Our session in *role*, one open stream, and hyper-h2 at the other end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialled = await trio.testing.open_stream_to_socket_listener(listener)
        accepted = await listener.accept()
    async with dialled, open_h2_session(accepted, role, AGENT if role is Role.CLIENT else RELAY) as session:
        hyper = Hyper(dialled, client=role is Role.SERVER, frame_max=frame_max)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hyper.start)
            stream = await (session.open_stream() if role is Role.CLIENT else session.accept_stream())
        yield session, stream, hyper


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while chunk := await stream.receive_some():
        received += chunk
    return bytes(received)


@BOTH
@pytest.mark.parametrize("frame_max", [16_384, 65_536])
async def test_bulk_goes_both_ways_and_each_side_ends_by_itself(role: Role, frame_max: int) -> None:
    async with hyper_pair(role, frame_max=frame_max) as (session, stream, hyper):
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(BULK)
                await stream.send_eof()

            nursery.start_soon(send)
            await hyper.until_ended()
        assert hyper.received == BULK
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                got.append(await read_all(stream))

            nursery.start_soon(receive)
            await hyper.send_all(BULK)
            await hyper.send_eof()
        assert got == [BULK]
        await stream.aclose()
        assert session.statistics().streams_open == 0
        assert session.closed is None


@BOTH
async def test_their_end_leaves_our_direction_open(role: Role) -> None:
    async with hyper_pair(role) as (_session, stream, hyper):
        await hyper.send_all(b"request")
        await hyper.send_eof()
        assert await read_all(stream) == b"request"
        await stream.send_all(b"answer")
        await stream.send_eof()
        await hyper.until_ended()
        assert hyper.received == b"answer"


@BOTH
@pytest.mark.parametrize("code", [ErrorCode.CANCEL, ErrorCode.PEER_ABORTED, ErrorCode.SLOW_CONSUMER])
async def test_our_reset_carries_its_code_behind_the_bytes(role: Role, code: ErrorCode) -> None:
    async with hyper_pair(role) as (_session, stream, hyper):
        await stream.send_all(b"first")
        stream.reset(code)
        while hyper.reset_code is None:
            await hyper.step()
        assert bytes(hyper.received) == b"first"
        assert hyper.reset_code == code.value


@BOTH
async def test_their_reset_carries_its_code(role: Role) -> None:
    async with hyper_pair(role) as (session, stream, hyper):
        await hyper.send_all(b"first")
        hyper.h2.reset_stream(hyper.stream_id, ErrorCode.ORIGIN_UNREACHABLE)
        await hyper.flush()
        assert await stream.receive_some() == b"first"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        assert stream.reset_code is ErrorCode.ORIGIN_UNREACHABLE
        assert session.closed is None


@BOTH
async def test_a_consumer_that_stops_stops_the_sender_at_one_window(role: Role) -> None:
    async with hyper_pair(role) as (session, stream, hyper):
        while room := min(hyper.h2.local_flow_control_window(hyper.stream_id), 16_384):
            hyper.h2.send_data(hyper.stream_id, bytes(room))
            await hyper.flush()
            await trio.testing.wait_all_tasks_blocked()
        assert stream.unread <= limits.STREAM_WINDOW_MIN  # type: ignore[attr-defined]
        received = 0
        while received < limits.STREAM_WINDOW_MIN:
            received += len(await stream.receive_some())
        while not hyper.h2.local_flow_control_window(hyper.stream_id):
            await hyper.step()
        assert session.closed is None


@BOTH
async def test_a_peer_that_does_not_acknowledge_stops_our_sender(role: Role) -> None:
    async with hyper_pair(role) as (_session, stream, hyper):
        hyper.acknowledge = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, BULK)
            while len(hyper.received) < 65_535:
                await hyper.step()
            assert len(hyper.received) == 65_535
            hyper.h2.increment_flow_control_window(len(BULK), hyper.stream_id)
            hyper.h2.increment_flow_control_window(len(BULK))
            await hyper.flush()
            while len(hyper.received) < len(BULK):
                await hyper.step()
        assert hyper.received == BULK


@BOTH
async def test_a_goodbye_is_understood_both_ways(role: Role) -> None:
    async with hyper_pair(role) as (session, _stream, hyper):
        session.abort("over", code=ErrorCode.ENHANCE_YOUR_CALM)
        while hyper.goodbye is None:
            await hyper.step()
        assert hyper.goodbye == ErrorCode.ENHANCE_YOUR_CALM
    async with hyper_pair(role) as (session, stream, hyper):
        hyper.h2.close_connection(ErrorCode.INTERNAL_ERROR)
        await hyper.flush()
        assert (await session.wait_closed()).code is ErrorCode.INTERNAL_ERROR
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, SessionClosed)


@BOTH
async def test_pings_are_answered(role: Role) -> None:
    async with hyper_pair(role) as (session, _stream, hyper):
        hyper.h2.ping(b"12345678")
        await hyper.flush()
        await hyper.step()
        assert session.closed is None
