"""The canary: a probe is answered once a stream has come back over the road that visitors take, or has failed to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.front import Caller, front, owner
from trunnel.errors import ErrorCode
from trunnel.relay.canary import run_canary
from trunnel.relay.sessions import Farewell
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.wire import control
from trunnel.wire.proxyprotocol import Preface, ProxyParser, StreamKind, read_preface_untrusted

Changed = Callable[[bytes], bytes]


async def take(caller: Caller) -> tuple[Preface, bytes, Stream]:
    """Accept one stream of the relay; returns its preface, all that came behind it, and the stream."""
    stream = await caller.link.accept_stream()
    parser = ProxyParser(versions=(2,))
    header = None
    while header is None:
        header = parser.feed_untrusted(await stream.receive_some())
    heard = bytes(parser.leftover)
    while chunk := await stream.receive_some():
        heard += chunk
    return read_preface_untrusted(header), heard, stream


async def answer(caller: Caller, change: Changed) -> None:
    """Answer one canary with what *change* makes of its bytes."""
    _, heard, stream = await take(caller)
    await stream.send_all(change(heard))
    await stream.aclose()


async def probe(caller: Caller, number: int = 1) -> control.Message:
    """Ask for a canary and return what is answered."""
    return await caller.say(control.Probe(number))


async def test_a_canary_that_comes_back_is_reported_as_well() -> None:
    """Its preface is that of a visitor who is nobody, so that agents tell it from visitors."""
    async with front() as place:
        caller = await place.call()
        seen: list[tuple[Preface, bytes]] = []

        async def serve() -> None:
            preface, heard, stream = await take(caller)
            seen.append((preface, heard))
            await stream.send_all(heard)
            await stream.aclose()

        place.nursery.start_soon(serve)
        assert await probe(caller, 7) == control.Probed(7)
        ((preface, heard),) = seen
        assert preface.kind is StreamKind.CANARY
        assert (preface.visitor, preface.local, preface.authority, preface.endpoint) == (None, None, None, None)
        assert 1 <= len(heard) <= limits.CANARY_BYTES_MAX
        await trio.testing.wait_all_tasks_blocked()
        assert owner(place).link.statistics().streams_open == 1, "nothing of it is left"


async def test_no_two_canaries_are_alike() -> None:
    """An agent, or what is between, cannot answer before it was asked."""
    async with front() as place:
        caller = await place.call()
        tokens: list[bytes] = []

        def note(heard: bytes) -> bytes:
            tokens.append(heard)
            return heard

        for number in range(5):
            place.nursery.start_soon(answer, caller, note)
            assert await probe(caller, number) == control.Probed(number)
        assert len(set(tokens)) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda heard: heard[:-1] + b"!",
        lambda heard: heard[:-1],
        lambda heard: heard + b"!",
        lambda _: b"",
    ],
    ids=["another", "shorter", "longer", "nothing"],
)
async def test_a_canary_that_comes_back_changed_has_failed(change: Changed) -> None:
    async with front() as place:
        caller = await place.call()
        place.nursery.start_soon(answer, caller, change)
        assert await probe(caller) == control.Probed(1, "the canary stream came back changed")
        await trio.testing.wait_all_tasks_blocked()
        assert owner(place).link.statistics().streams_open == 1


async def test_of_an_answer_that_does_not_end_no_more_is_read_than_shows_it(autojump_clock: MockClock) -> None:
    async with front() as place:
        caller = await place.call()
        started = trio.current_time()

        async def flood() -> None:
            _, heard, stream = await take(caller)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(heard)
                    await trio.sleep(0.001)

        place.nursery.start_soon(flood)
        assert await probe(caller) == control.Probed(1, "the canary stream came back changed")
        assert trio.current_time() - started < 1


@pytest.mark.parametrize("accepts", [False, True], ids=["not accepted", "not answered"])
async def test_a_canary_that_does_not_come_back_fails_in_time(accepts: bool, autojump_clock: MockClock) -> None:
    async with front() as place:
        caller = await place.call()
        started = trio.current_time()
        await caller.channel.send(control.Probe(3))
        stream = await caller.link.accept_stream() if accepts else None
        told = await caller.hear()
        assert told == control.Probed(3, "the canary stream did not come back within 10 s")
        assert trio.current_time() - started == pytest.approx(limits.CANARY_TIMEOUT)
        stream = stream or await caller.link.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.reset_code is ErrorCode.CANCEL, "an answer that comes later would be for nobody"


async def test_a_canary_whose_stream_the_agent_resets_has_failed_at_once(autojump_clock: MockClock) -> None:
    async with front() as place:
        caller = await place.call()
        started = trio.current_time()
        await caller.channel.send(control.Probe(1))
        (await caller.link.accept_stream()).reset(ErrorCode.BAD_PREFACE)
        told = await caller.hear()
        assert isinstance(told, control.Probed)
        assert told.failure
        assert trio.current_time() == started


async def test_a_canary_without_a_carrier_fails_as_visitors_do(autojump_clock: MockClock) -> None:
    async with front() as place:
        caller = await place.call()
        session = owner(place)
        await caller.lose()
        started = trio.current_time()
        assert await run_canary(session) == "no carrier takes streams now"
        assert trio.current_time() - started == pytest.approx(limits.CARRIER_WAIT)
        session.retire(Farewell(reason="over"))
        await trio.testing.wait_all_tasks_blocked()
        assert await run_canary(session) == "closed by us"


async def test_a_canary_goes_over_any_carrier_that_answers() -> None:
    """It says whether visitors are served, not whether this one carrier serves."""
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        first.link.go_away()
        place.nursery.start_soon(answer, second, bytes)
        assert await probe(first) == control.Probed(1)


async def test_probes_beside_the_one_under_way_are_not_answered(autojump_clock: MockClock) -> None:
    """However many come at once; the next one after it is."""
    async with front() as place:
        caller = await place.call()
        for number in range(1, 6):
            await caller.channel.send(control.Probe(number))
        await trio.testing.wait_all_tasks_blocked()
        assert owner(place).link.statistics().streams_open == 2
        await answer(caller, bytes)
        assert await caller.hear() == control.Probed(1)
        place.nursery.start_soon(answer, caller, bytes)
        assert await probe(caller, 9) == control.Probed(9)


async def test_a_canary_of_a_carrier_that_is_lost_ends_with_it() -> None:
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        first.link.go_away()
        await first.channel.send(control.Probe(1))
        stream = await second.link.accept_stream()
        await first.lose()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.reset_code is ErrorCode.CANCEL
        assert owner(place).link.statistics().streams_open == 1
        assert place.failures == []
