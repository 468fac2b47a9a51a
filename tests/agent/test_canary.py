"""Whether visitors are served: asked before "ready", asked again, and believed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.agent.far_relay import FarRelay, attached_to
from trunnel.agent.canary import first_canary, keep_watch
from trunnel.errors import ErrorCode, RejectCode, Rejected, SessionClosed
from trunnel.events import Canary, Event, ignore_events
from trunnel.settings import limits
from trunnel.wire import control

RELAY = "relay.example:443"


async def test_the_first_canary_that_comes_back_is_reported_with_its_round_trip(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    relay.probe_takes = 0.25
    events: list[Event] = []
    async with attached_to(relay) as attachment:
        assert await first_canary(attachment, events.append, relay=RELAY) == pytest.approx(0.25)
    assert events == [Canary(ok=True, rtt_ms=250.0, relay=RELAY)]


async def test_a_session_none_of_whose_first_canaries_comes_back_is_given_up(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    relay.canary = "the agent accepts nothing"
    events: list[Event] = []
    started = trio.current_time()
    async with attached_to(relay) as attachment:
        with pytest.raises(SessionClosed, match="visitors would not be served: the agent accepts nothing") as raised:
            await first_canary(attachment, events.append, relay=RELAY)
    assert raised.value.retryable
    failed = Canary(ok=False, rtt_ms=None, failure="the agent accepts nothing", relay=RELAY)
    assert events == [failed] * limits.CANARY_FIRST_TRIES
    assert trio.current_time() - started == pytest.approx((limits.CANARY_FIRST_TRIES - 1) * limits.CANARY_RETRY)


async def test_a_busy_relay_that_is_late_once_keeps_the_session(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Thousands that come back at once must not each begin anew because their canaries are late."""
    relay.canary = "late"
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        relay.canary = ""

    async with attached_to(relay) as attachment:
        await first_canary(attachment, note, relay=RELAY)
        assert attachment.ended is None
    assert [event.ok for event in events if isinstance(event, Canary)] == [False, True]


async def test_a_session_that_is_refused_meanwhile_tells_that_and_no_canary(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """What ended the session is what there is to say."""
    relay.canary = None
    events: list[Event] = []
    async with attached_to(relay) as attachment, trio.open_nursery() as nursery:

        async def refuse() -> None:
            await trio.sleep(1)
            relay.tell(control.Rejected(RejectCode.REVOKED, "off the list"))

        nursery.start_soon(refuse)
        with pytest.raises(Rejected):
            await first_canary(attachment, events.append, relay=RELAY)
    assert events == []


async def test_a_session_that_serves_is_asked_for_ever(relay: FarRelay, autojump_clock: MockClock) -> None:
    events: list[Event] = []
    async with attached_to(relay) as attachment:
        with trio.move_on_after(10.5 * limits.CANARY_INTERVAL):
            await keep_watch(attachment, events.append, RELAY)
        assert attachment.ended is None
    assert events == [Canary(ok=True, rtt_ms=0.0, relay=RELAY)] * 10


async def test_a_canary_that_fails_once_is_asked_again_soon_and_forgiven(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    times: list[tuple[float, bool]] = []

    def note(event: Event) -> None:
        assert isinstance(event, Canary)
        times.append((trio.current_time() - started, event.ok))
        relay.canary = "lost" if len(times) % 2 else ""

    started = trio.current_time()
    async with attached_to(relay) as attachment:
        with trio.move_on_after(2.5 * limits.CANARY_INTERVAL + limits.CANARY_RETRY):
            await keep_watch(attachment, note, RELAY)
        assert attachment.ended is None
    interval, retry = limits.CANARY_INTERVAL, limits.CANARY_RETRY
    assert times == [(interval, True), (2 * interval, False), (2 * interval + retry, True)]


async def test_a_session_whose_canaries_fail_twice_is_ended(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.canary = "black hole"
    async with attached_to(relay) as attachment:
        with trio.fail_after(limits.CANARY_INTERVAL + limits.CANARY_RETRY + 1):
            await keep_watch(attachment, ignore_events, RELAY)
        assert attachment.link.closed is not None
        assert attachment.link.closed.reason == "visitors are not served: black hole"
        assert attachment.link.closed.code is ErrorCode.DEADLINE
        assert attachment.link.closed.retryable


async def test_a_relay_that_never_answers_a_probe_is_left_within_half_a_minute_of_the_first(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    relay.canary = None
    async with attached_to(relay) as attachment:
        started = trio.current_time()
        await keep_watch(attachment, ignore_events, RELAY)
        assert attachment.link.closed is not None
        assert trio.current_time() - started <= limits.CANARY_INTERVAL + 30
