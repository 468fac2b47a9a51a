"""The policy of `auto`: order, head start, rare returns to QUIC, and sentences that say why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.settings import limits
from trunnel.transports.selection import TransportKind, Trial, explain, head_start, plan, quic_wait

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
QUIC, H2, YAMUX = TransportKind.QUIC, TransportKind.H2, TransportKind.YAMUX
DATES = st.datetimes(timezones=st.just(UTC))


def failed(ago: float, *, failures: int = 1) -> dict[TransportKind, Trial]:
    """Return the memory of a QUIC that failed *ago* seconds before NOW."""
    return {QUIC: Trial(worked=False, at=NOW - timedelta(seconds=ago), failures=failures)}


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "remembered", [{}, {QUIC: Trial(worked=True, at=NOW)}, {H2: Trial(worked=False, at=NOW, failures=9)}]
)
def test_quic_is_first_where_nothing_speaks_against_it(remembered: dict[TransportKind, Trial]) -> None:
    chosen = plan(None, remembered, NOW)
    assert (chosen.first, chosen.second, chosen.head_start) == (QUIC, H2, limits.HEAD_START_MIN)
    assert chosen.why == "QUIC over UDP"


def test_where_quic_failed_tcp_goes_first_and_quic_is_the_last_resort() -> None:
    """A network that lets only UDP through is served too, within the 5 s of a fallback."""
    chosen = plan(None, failed(180), NOW)
    assert (chosen.first, chosen.second) == (H2, QUIC)
    assert limits.HEAD_START_MAX < chosen.head_start < 5.0


@pytest.mark.parametrize("choice", TransportKind)
@pytest.mark.parametrize("remembered", [{}, failed(1)])
def test_a_named_transport_has_no_rival(choice: TransportKind, remembered: dict[TransportKind, Trial]) -> None:
    chosen = plan(choice, remembered, NOW)
    assert (chosen.first, chosen.second, chosen.head_start) == (choice, None, 0.0)
    assert chosen.why == f"{choice.full_name}, as asked"


@pytest.mark.parametrize(
    ("round_trip", "seconds"), [(None, 0.25), (0.0, 0.25), (0.08, 0.25), (0.2, 0.6), (0.4, 1.0), (9.0, 1.0)]
)
def test_the_head_start_is_three_round_trips_within_250_ms_and_1_s(round_trip: float | None, seconds: float) -> None:
    assert head_start(round_trip) == pytest.approx(seconds)
    assert plan(None, {}, NOW, round_trip=round_trip).head_start == pytest.approx(seconds)


# --- back to QUIC, rarely ------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "minutes"), [(0, 10), (1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (10**9, 60)])
def test_the_interval_grows_from_10_to_60_minutes(failures: int, minutes: int) -> None:
    assert quic_wait(failed(0, failures=failures), NOW) == 60 * minutes
    assert quic_wait(failed(60 * minutes - 1, failures=failures), NOW) == 1
    assert quic_wait(failed(60 * minutes, failures=failures), NOW) == 0


@pytest.mark.parametrize("remembered", [{}, {QUIC: Trial(worked=True, at=NOW)}])
def test_quic_may_be_tried_at_once_where_it_did_not_fail(remembered: dict[TransportKind, Trial]) -> None:
    assert quic_wait(remembered, NOW) == 0


@given(at=DATES, now=DATES, failures=st.integers(0))
def test_a_clock_that_was_set_never_makes_the_wait_longer_than_the_interval(
    at: datetime, now: datetime, failures: int
) -> None:
    remembered = {QUIC: Trial(worked=False, at=at, failures=failures)}
    assert 0 <= quic_wait(remembered, now) <= limits.QUIC_RETRY_MAX
    assert plan(None, remembered, now).first is H2


# --- why -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (-900, "just now"),
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (180, "3 minutes ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (7300, "2 hours ago"),
    ],
)
def test_a_remembered_block_is_told_with_its_age(ago: float, words: str) -> None:
    assert plan(None, failed(ago), NOW).why == f"HTTP/2 over TLS on TCP: UDP was blocked on this network {words}"


@pytest.mark.parametrize(
    ("remembered", "winner", "failure", "words"),
    [
        ({}, QUIC, None, "QUIC over UDP"),
        ({}, H2, None, "HTTP/2 over TLS on TCP: UDP did not answer within 1.0 s"),
        ({}, H2, "connection refused\nhint", "HTTP/2 over TLS on TCP: UDP failed (connection refused)"),
        (failed(60), H2, None, "HTTP/2 over TLS on TCP: UDP was blocked on this network 1 minute ago"),
        (failed(60), QUIC, None, "QUIC over UDP: TCP did not answer within 1.0 s"),
        (failed(60), QUIC, "no route to host", "QUIC over UDP: TCP failed (no route to host)"),
    ],
)
def test_the_winner_is_told_with_what_became_of_the_other(
    remembered: dict[TransportKind, Trial], winner: TransportKind, failure: str | None, words: str
) -> None:
    assert explain(plan(None, remembered, NOW), winner, failure=failure, waited=1.04) == words
