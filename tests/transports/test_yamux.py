"""A whole session over yamux: what the driver and the protocol do together, frame by frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY
from tests.transports.mux_pairs import yamux_of, yamux_pair
from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.transports.mux import MuxSession
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux_frames import (
    ACK,
    FIN,
    HEADER_BYTES,
    RST,
    SYN,
    FrameHeader,
    FrameType,
    GoAwayCode,
    encode_header,
    parse_header_untrusted,
)
from trunnel.wire.yamux_session import INITIAL_WINDOW

BOTH = pytest.mark.parametrize("role", list(Role))


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    """A DATA frame."""
    return encode_header(FrameType.DATA, flags, stream_id, len(payload)) + payload


def ping(value: int = 1, flags: int = SYN) -> bytes:
    """A PING."""
    return encode_header(FrameType.PING, flags, 0, value)


def go_away(code: int) -> bytes:
    """A GO_AWAY."""
    return encode_header(FrameType.GO_AWAY, 0, 0, code)


def read_headers(wire: bytes) -> list[FrameHeader]:
    """The headers of the whole frames in *wire*."""
    found: list[FrameHeader] = []
    at = 0
    while at + HEADER_BYTES <= len(wire):
        header = parse_header_untrusted(wire, at)
        found.append(header)
        at += HEADER_BYTES + (header.length if header.kind == FrameType.DATA else 0)
    return found


def goodbye(found: list[FrameHeader]) -> int | None:
    """The code of the last GO_AWAY."""
    codes = [header.length for header in found if header.kind == FrameType.GO_AWAY]
    return codes[-1] if codes else None


class RawPeer:
    """The far end of a carrier, byte by byte in the test's hand."""

    def __init__(self, carrier: trio.abc.HalfCloseableStream, role: Role) -> None:
        self.carrier = carrier
        self.first = 1 if role is Role.CLIENT else 2
        """The first stream that this end may open."""

    async def until_closed(self) -> list[FrameHeader]:
        """Read to the end and return the frames."""
        received = bytearray()
        while chunk := await self.carrier.receive_some(65_536):
            received += chunk
        return read_headers(bytes(received))

    async def open(self, number: int = 0, payload: bytes = b"") -> int:
        """Open a stream with its first bytes."""
        stream_id = self.first + 2 * number
        await self.carrier.send_all(data(stream_id, payload, SYN))
        return stream_id


@asynccontextmanager
async def raw_pair(role: Role, *, lockstep: bool = False) -> AsyncIterator[tuple[MuxSession, RawPeer]]:
    """A session in *role* and its peer; in lockstep the carrier takes nothing that is not read."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    left, right = make()
    async with open_yamux_session(left, role, AGENT if role is Role.CLIENT else RELAY) as session:
        yield session, RawPeer(right, Role.SERVER if role is Role.CLIENT else Role.CLIENT)


async def broken(stream: Stream) -> ErrorCode:
    """The code with which *stream* breaks, whatever it still gives."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        while await stream.receive_some():
            pass
    assert isinstance(caught.value.__cause__, StreamReset)
    return caught.value.__cause__.code


# --- how a session ends -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (ErrorCode.CANCEL, GoAwayCode.INTERNAL_ERROR),
        (ErrorCode.NO_ERROR, GoAwayCode.NORMAL),
        (ErrorCode.ENHANCE_YOUR_CALM, GoAwayCode.PROTOCOL_ERROR),
    ],
)
async def test_abort_says_goodbye_and_closes_the_carrier(role: Role, code: ErrorCode, said: GoAwayCode) -> None:
    async with raw_pair(role) as (session, peer):
        assert session.transport == "yamux"
        session.abort("over", code=code, retryable=False)
        closed = await session.wait_closed()
        assert (closed.reason, closed.code, closed.retryable) == ("over", code, False)
        assert goodbye(await peer.until_closed()) == said


@BOTH
async def test_a_peer_that_breaks_the_protocol_is_told_so(role: Role) -> None:
    async with raw_pair(role) as (session, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.carrier.send_all, b"\x01" + bytes(HEADER_BYTES - 1))
        await peer.carrier.send_eof()
        assert goodbye(await peer.until_closed()) == GoAwayCode.PROTOCOL_ERROR
        assert "the peer broke yamux: yamux version 1" in (await session.wait_closed()).reason


@BOTH
async def test_a_goodbye_with_an_error_ends_the_session(role: Role) -> None:
    async with raw_pair(role) as (session, peer):
        await peer.carrier.send_all(go_away(GoAwayCode.INTERNAL_ERROR))
        assert (await session.wait_closed()).code is ErrorCode.INTERNAL_ERROR


async def test_a_peaceful_goodbye_ends_only_the_opening_of_streams() -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        stream = await session.open_stream()
        await peer.carrier.send_all(go_away(GoAwayCode.NORMAL) + data(stream.stream_id, b"goes on", ACK))
        assert await stream.receive_some() == b"goes on"
        with pytest.raises(SessionClosed, match="goodbye"):
            await session.open_stream()
        assert session.closed is None


async def test_stream_numbers_that_are_used_up_end_the_session_rather_than_come_again() -> None:
    async with yamux_pair() as (relay, _agent):
        yamux_of(relay)._next_id = 2**32 + 1
        with pytest.raises(SessionClosed) as caught:
            await relay.open_stream()
        assert caught.value.retryable


# --- streams ------------------------------------------------------------------------------------------


async def test_both_ends_may_open_streams() -> None:
    async with yamux_pair() as (relay, agent):
        for opener, accepter in ((relay, agent), (agent, relay)):
            near = await opener.open_stream()
            far = await accepter.accept_stream()
            assert far.stream_id == near.stream_id
            await near.send_all(b"hello")
            assert await far.receive_some() == b"hello"


async def test_a_relay_ends_a_carrier_on_which_the_agent_opens_a_stream() -> None:
    """Nobody accepts there: such streams could lie full as long as the agent likes."""
    left, right = trio.testing.memory_stream_pair()
    async with (
        open_yamux_session(left, Role.CLIENT, AGENT, accepting=False) as relay,
        open_yamux_session(right, Role.SERVER, RELAY) as agent,
    ):
        await agent.open_stream()
        assert (await relay.wait_closed()).code is ErrorCode.PROTOCOL_ERROR


async def test_a_stream_is_acknowledged_when_it_is_accepted() -> None:
    async with raw_pair(Role.SERVER) as (session, peer):
        await trio.testing.wait_all_tasks_blocked()
        await peer.carrier.receive_some(65_536)
        stream_id = await peer.open()
        await trio.testing.wait_all_tasks_blocked()
        await session.accept_stream()
        assert read_headers(bytes(await peer.carrier.receive_some(65_536))) == [
            FrameHeader(FrameType.WINDOW_UPDATE, ACK, stream_id, 0)
        ]


async def test_an_opener_waits_while_nobody_accepts() -> None:
    """The backlog of the specification: no more than `YAMUX_BACKLOG` streams that the peer has not accepted."""
    async with yamux_pair() as (relay, agent), trio.open_nursery() as nursery:
        for _ in range(limits.YAMUX_BACKLOG):
            await relay.open_stream()
        nursery.start_soon(relay.open_stream)
        await trio.testing.wait_all_tasks_blocked()
        assert relay.statistics().streams_open == limits.YAMUX_BACKLOG
        await agent.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert relay.statistics().streams_open == limits.YAMUX_BACKLOG + 1


@pytest.mark.parametrize("code", [ErrorCode.ORIGIN_UNREACHABLE, ErrorCode.PEER_ABORTED, ErrorCode.DEADLINE])
async def test_our_codes_cross_a_reset(code: ErrorCode) -> None:
    async with yamux_pair() as (relay, agent):
        near = await relay.open_stream()
        far = await agent.accept_stream()
        near.reset(code)
        assert await broken(far) is code


async def test_a_reset_of_another_implementation_is_cancel() -> None:
    async with raw_pair(Role.SERVER) as (session, peer):
        stream_id = await peer.open(payload=b"read me first")
        stream = await session.accept_stream()
        await peer.carrier.send_all(encode_header(FrameType.WINDOW_UPDATE, RST, stream_id, 0))
        assert await stream.receive_some() == b"read me first"
        assert await broken(stream) is ErrorCode.CANCEL


async def test_a_fin_may_ride_on_bytes() -> None:
    async with raw_pair(Role.SERVER) as (session, peer):
        await peer.carrier.send_all(data(1, b"all there is", SYN | FIN))
        stream = await session.accept_stream()
        assert await stream.receive_some() == b"all there is"
        assert await stream.receive_some() == b""


# --- liveness and bounds ------------------------------------------------------------------------------


@BOTH
async def test_a_silent_peer_is_dead_after_twenty_seconds(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(role) as (session, _peer):
        start = session.last_heard
        closed = await session.wait_closed()
        assert trio.current_time() - start == pytest.approx(limits.DEAD_AFTER)
        assert (closed.code, closed.retryable) == (ErrorCode.DEADLINE, True)


async def test_the_answer_is_the_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        asked = read_headers(bytes(await peer.carrier.receive_some(65_536)))
        (question,) = [header for header in asked if header.kind == FrameType.PING]
        await trio.sleep(0.25)
        await peer.carrier.send_all(ping(question.length, ACK))
        await trio.testing.wait_all_tasks_blocked()
        assert session.round_trip == pytest.approx(0.25)


async def test_pings_are_answered() -> None:
    async with raw_pair(Role.SERVER) as (_session, peer):
        await peer.carrier.send_all(ping(7))
        await trio.testing.wait_all_tasks_blocked()
        assert FrameHeader(FrameType.PING, ACK, 0, 7) in read_headers(bytes(await peer.carrier.receive_some(65_536)))


async def test_a_peer_that_sends_and_never_reads_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    """LOAD-10: its answers are not kept without bound."""
    async with raw_pair(Role.SERVER, lockstep=True) as (session, peer):

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.carrier.send_all(ping() * 100)
                    assert session.statistics().unsent < limits.UNSENT_CONTROL_MAX + 3_000
                    await trio.sleep(2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM


async def test_rapid_resets_end_the_session_with_a_reason() -> None:
    """LOAD-07."""
    async with raw_pair(Role.SERVER) as (session, peer):
        for number in range(limits.RESETS_MAX):
            stream_id = peer.first + 2 * number
            await peer.carrier.send_all(
                encode_header(FrameType.WINDOW_UPDATE, SYN, stream_id, 0)
                + encode_header(FrameType.WINDOW_UPDATE, RST, stream_id, 0)
            )
        await peer.carrier.send_eof()
        assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM


async def test_under_pressure_stalled_streams_are_reset_and_others_live(autojump_clock: trio.testing.MockClock) -> None:
    """Yamux has no window for the session: `SESSION_PRESSURE` is what bounds it."""
    count = limits.SESSION_PRESSURE // INITIAL_WINDOW + 4
    async with raw_pair(Role.SERVER) as (session, peer):
        streams: list[Stream] = []
        for number in range(count):
            await peer.open(number, bytes(INITIAL_WINDOW))
            streams.append(await session.accept_stream())
        await trio.testing.wait_all_tasks_blocked()
        assert session.statistics().unread > limits.SESSION_PRESSURE
        await trio.sleep(2 * limits.STALLED_AFTER)
        assert limits.SESSION_PRESSURE - INITIAL_WINDOW <= session.statistics().unread < limits.SESSION_PRESSURE
        gone = [stream for stream in streams if not stream.unread]  # type: ignore[attr-defined]
        assert {await broken(stream) for stream in gone} == {ErrorCode.SLOW_CONSUMER}
