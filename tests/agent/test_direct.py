"""The data connections of one session: parked, taken, replaced, given up, and longer-lived than carriers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_lot import FarLot, echo, pooled, settled
from tests.agent.stage import NAME, PREFACE, VISITOR
from tests.tunnels import read_to_end
from trunnel.agent.parking import pause_after
from trunnel.agent.visitor import VisitorInfo
from trunnel.errors import ConnectError
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.transports.direct import DirectRefused
from trunnel.wire.direct import Answer, Refusal
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

FLOOR = 4


@pytest.fixture(autouse=True)
def floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are those of any floor; this one leaves room to see them."""
    monkeypatch.setattr(limits, "PARKED_FLOOR", FLOOR)


# --- parked and taken -------------------------------------------------------------------------------


async def test_the_floor_is_parked_and_a_canary_says_that_it_serves(clock: MockClock) -> None:
    async with pooled() as play:
        await play.pool.wait_known()
        assert play.told == [""]
        await settled()
        assert play.pool.parked == len(play.lot.alive) == FLOOR


async def test_one_that_is_taken_is_replaced_at_once(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        started = trio.current_time()
        await play.lot.visit()
        await settled()
        assert play.pool.parked == len(play.lot.alive) == FLOOR
        assert play.lot.dials[FLOOR:] == [pytest.approx(started, abs=0.01)]


async def test_a_visitor_is_served_as_inside_the_session(clock: MockClock) -> None:
    async with pooled(origin=echo) as play:
        await settled()
        stream = await play.lot.visit(first=b"hello ")
        await stream.send_all(b"world")
        await stream.send_eof()
        assert list(play.pool.visits.open) == ["stream-1"]
        assert await read_to_end(stream) == b"hello world"
        await settled()
        (record,) = play.records
        assert (record.data_path, record.visitor, record.hostname) == ("direct", str(VISITOR), NAME.value)
        assert (record.bytes_in, record.bytes_out) == (11, 11)
        assert (record.visitor_end, record.origin_end) == ("fin", "fin")


async def test_the_relays_canary_comes_back(clock: MockClock) -> None:
    """Nobody is told of it, and it is no visitor."""
    preface = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream="c", kind=StreamKind.CANARY)
    async with pooled() as play:
        await settled()
        stream = await play.lot.visit(preface, b"tok")
        await stream.send_all(b"en")
        await stream.send_eof()
        assert await read_to_end(stream) == b"token"
        assert play.events == []
        assert play.pool.visits.peak == 0


UNKNOWN = visitor_preface(
    visitor=VISITOR, local=VISITOR, authority=NAME, alpn=None, stream="s", endpoint=Hostname("other.localhost")
)
CHALLENGE = visitor_preface(
    visitor=None, local=None, authority=NAME, alpn=None, stream="s", endpoint=NAME, kind=StreamKind.CHALLENGE
)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (UNKNOWN, Answer.UNKNOWN_ENDPOINT),
        (b"no header", Answer.BAD_PREFACE),
        (PREFACE[:-1], Answer.BAD_PREFACE),
        (PREFACE + b"x", Answer.BAD_PREFACE),
    ],
    ids=["not ours", "no header", "cut", "more than a header"],
)
async def test_what_is_not_served_is_refused_by_the_sealed_answer(
    clock: MockClock, header: bytes, answer: Answer
) -> None:
    async with pooled() as play:
        await settled()
        stream, said = await play.lot.take(header, b"hello")
        assert said is answer
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(stream)
        assert play.events == []
        await settled()
        assert play.pool.parked == FLOOR


async def test_no_more_visitors_are_served_than_were_agreed_on(clock: MockClock) -> None:
    """A relay could otherwise use up this program's descriptors."""
    async with pooled(origin=echo) as play:
        await settled()
        play.pool.visits.most = 1
        first = await play.lot.visit()
        assert (await play.lot.take())[1] is Answer.REFUSED
        await first.aclose()
        await settled()
        await play.lot.visit()


async def test_a_handler_that_fails_resets_its_visitor_and_no_other(clock: MockClock) -> None:
    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        if await stream.receive_some() == b"fail":
            raise ZeroDivisionError("a bug of the handler")
        await stream.send_all(b"fine")

    async with pooled(origin=handler) as play:
        await settled()
        bad, good = await play.lot.visit(), await play.lot.visit()
        await bad.send_all(b"fail")
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(bad)
        await good.send_all(b"work")
        assert await read_to_end(good) == b"fine"


async def test_a_burst_makes_the_pool_grow_and_quiet_lets_the_oldest_go(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        oldest = play.lot.parked[0]
        for _ in range(FLOOR - 1):
            await play.lot.visit()
        await settled()
        assert play.pool.parked == play.parking.wanted == 2 * FLOOR
        assert oldest.is_alive()
        await trio.sleep(10 * limits.PARKED_DECAY)
        assert play.pool.parked == len(play.lot.alive) == FLOOR
        assert not oldest.is_alive()


async def test_a_session_has_no_more_than_the_relay_allows(clock: MockClock) -> None:
    async with pooled(cap=2) as play:
        await settled()
        assert play.pool.parked == 2


# --- failing ----------------------------------------------------------------------------------------


async def test_dials_that_fail_are_told_once_and_repeated_ever_more_seldom(clock: MockClock) -> None:
    lot = FarLot(failing=ConnectError("connection refused"))
    async with pooled(lot) as play:
        await trio.sleep(200)
        assert play.told == ["connection refused"]
        at = sorted(set(lot.dials))
        pauses = [later - sooner for sooner, later in pairwise(at)]
        assert pauses[:6] == pytest.approx([pause_after(n) for n in range(1, 7)])
        lot.failing = None
        await trio.sleep(limits.DIRECT_RETRY[1])
        assert play.told == ["connection refused", ""]
        assert play.pool.parked == FLOOR


async def test_another_reason_is_told(clock: MockClock) -> None:
    lot = FarLot(failing=ConnectError("connection refused"))
    async with pooled(lot) as play:
        await settled()
        lot.failing = ConnectError("no answer within 5 s")
        await trio.sleep(2)
        assert play.told == ["connection refused", "no answer within 5 s"]


@pytest.mark.parametrize(
    ("refusal", "is_relays"), [(Refusal.FULL, True), (Refusal.UNKNOWN_SESSION, True), (Refusal.WRONG_RELAY, False)]
)
async def test_a_refusal_says_whether_it_is_the_relays_will(
    clock: MockClock, refusal: Refusal, *, is_relays: bool
) -> None:
    """What a network does is remembered; that a relay is full is not."""
    seen: list[bool] = []
    async with pooled(FarLot(failing=DirectRefused(refusal))) as play:
        play.pool._tell = lambda pool: seen.append(pool.refused)
        await settled()
        assert refusal.reason in (play.pool.failure or "")
    assert seen == [is_relays]


async def test_a_failed_dial_beside_parked_ones_is_no_news(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        play.lot.failing = ConnectError("connection refused")
        await play.lot.visit()
        await settled()
        assert play.pool.parked == FLOOR - 1
        assert play.told == [""]


async def test_connections_that_are_cut_while_they_wait_are_not_dialled_without_end(clock: MockClock) -> None:
    async with pooled() as play:
        for _ in range(60):
            await trio.sleep(1)
            for link in play.lot.parked:
                link.abort()
        assert len(play.lot.dials) <= 15 * FLOOR
        assert any("cut off" in (reason or "") for reason in play.told)


async def test_one_that_was_cut_after_a_long_time_is_replaced_in_silence(clock: MockClock) -> None:
    async with pooled() as play:
        await trio.sleep(2 * limits.PARKED_DECAY)
        for link in play.lot.parked:
            link.abort()
        await settled()
        assert play.pool.parked == FLOOR
        assert play.told == [""]


async def test_bytes_on_a_parked_connection_that_the_relay_did_not_seal_end_it(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        await play.lot.parked[0].stream.send_all(b"\x00\x20" + bytes(32))
        await settled()
        assert play.pool.parked == FLOOR - 1
        assert play.events == []


# --- canaries ---------------------------------------------------------------------------------------


async def test_a_canary_that_fails_once_is_forgiven(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        play.lot.canary = "late"
        await trio.sleep(limits.CANARY_INTERVAL + 0.1)
        play.lot.canary = ""
        await trio.sleep(limits.CANARY_RETRY)
        assert len(play.lot.canaries) == 3
        assert play.told == [""]


async def test_canaries_that_fail_twice_close_the_road_for_a_while(clock: MockClock) -> None:
    """What is parked is let go, so that no visitor takes it; then all is tried anew."""
    async with pooled() as play:
        await settled()
        play.lot.canary = "nothing came back"
        await trio.sleep(limits.CANARY_INTERVAL + limits.CANARY_RETRY + 0.1)
        assert play.told == ["", "nothing came back"]
        assert play.pool.parked == len(play.lot.alive) == 0
        play.lot.canary = ""
        await trio.sleep(limits.DIRECT_RETRY[0])
        assert play.told == ["", "nothing came back", ""]
        assert play.pool.parked == FLOOR


async def test_a_road_that_connects_and_serves_nobody_is_tried_ever_more_seldom(clock: MockClock) -> None:
    lot = FarLot(canary="nothing came back")
    async with pooled(lot) as play:
        await trio.sleep(600)
        assert play.told == ["nothing came back"]
        assert len(lot.canaries) < 2 * 600 / limits.DIRECT_RETRY[1] + 20


async def test_without_a_carrier_nobody_can_be_asked_and_the_pool_goes_on(clock: MockClock) -> None:
    async with pooled(attached=False) as play:
        await settled()
        assert play.pool.parked == FLOOR
        assert play.lot.canaries == []
        play.pool.attach(play.attachment())
        await play.pool.wait_known()
        assert play.told == [""]
