"""Two dials, one winner: for each pair of fates in any order, nothing is left open and nothing is hidden."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from trunnel.errors import AuthError, ConfigError, ConnectError, RelayIdentityError, TrunnelError
from trunnel.transports.race import Chosen, Place, Raced, follow, race
from trunnel.transports.selection import TransportKind, Trial, plan

HEAD_START = 2.0
LONGEST = 1000.0


class Fate(Enum):
    """What becomes of a dial, unless it is cancelled before."""

    OPENS = auto()
    OPENS_THOUGH_CANCELLED = auto()
    """As a thread that cannot be stopped: the result is there all the same."""
    FAILS = auto()
    IS_IMPOSTOR = auto()
    IMPOSTOR_THOUGH_CANCELLED = auto()
    CANNOT_BE_JUDGED = auto()
    """The file of known relays is broken, for example."""
    HANGS = auto()


THOUGH_CANCELLED = (Fate.OPENS_THOUGH_CANCELLED, Fate.IMPOSTOR_THOUGH_CANCELLED)
ERRORS = {
    Fate.FAILS: ConnectError,
    Fate.IS_IMPOSTOR: RelayIdentityError,
    Fate.IMPOSTOR_THOUGH_CANCELLED: RelayIdentityError,
}


@dataclass
class Dialled:
    """One dial, and what happened to it."""

    name: str
    fate: Fate
    seconds: float
    started: float | None = None
    opened: bool = False
    raised: TrunnelError | None = None

    async def __call__(self) -> str:
        self.started = trio.current_time()
        with trio.move_on_after(LONGEST, shield=self.fate in THOUGH_CANCELLED):
            await trio.sleep(math.inf if self.fate is Fate.HANGS else self.seconds)
        if self.fate in (Fate.OPENS, Fate.OPENS_THOUGH_CANCELLED):
            self.opened = True
            return self.name
        reason = f"{self.name} failed"
        self.raised = ConfigError("", reason) if self.fate is Fate.CANNOT_BE_JUDGED else ERRORS[self.fate](reason)
        raise self.raised


@dataclass
class Outcome:
    """How a race ended."""

    raced: Raced[str] | None = None
    error: TrunnelError | None = None
    cancelled: bool = False
    discarded: list[str] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0


async def hold(first: Dialled, second: Dialled, *, head_start: float = HEAD_START, until: float = 60.0) -> Outcome:
    """Race two dials, and cancel the race at *until*."""
    outcome = Outcome(began=trio.current_time())
    with trio.move_on_after(until) as scope:
        try:
            outcome.raced = await race(first, second, head_start=head_start, discard=outcome.discarded.append)
        except TrunnelError as exc:
            outcome.error = exc
    outcome.cancelled = scope.cancelled_caught
    outcome.ended = trio.current_time()
    return outcome


def in_virtual_time(run: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Run *run* where waiting costs nothing."""

    async def main() -> Outcome:
        return await run()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


fates = st.builds(Dialled, name=st.just(""), fate=st.sampled_from(Fate), seconds=st.integers(0, 5).map(float))


@given(fates, fates, st.integers(0, 4).map(float), st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 60.0]))
@example(Dialled("", Fate.OPENS, 1), Dialled("", Fate.OPENS_THOUGH_CANCELLED, 5), 0.0, 60.0)
@example(Dialled("", Fate.OPENS, 1), Dialled("", Fate.IMPOSTOR_THOUGH_CANCELLED, 1), 0.0, 60.0)
@example(Dialled("", Fate.OPENS_THOUGH_CANCELLED, 3), Dialled("", Fate.HANGS, 0), 0.0, 1.0)
def test_every_race_keeps_the_rules(first: Dialled, second: Dialled, head_start: float, until: float) -> None:
    """Each fate against each, at any distance, cancelled at any time."""
    first, second = Dialled("first", first.fate, first.seconds), Dialled("second", second.fate, second.seconds)
    outcome = in_virtual_time(lambda: hold(first, second, head_start=head_start, until=until))
    both = (first, second)

    # One end, and it is the right one.
    assert [outcome.raced is not None, outcome.error is not None, outcome.cancelled].count(True) == 1
    raised = [dial.raised for dial in both if dial.raised is not None]
    if not outcome.cancelled:
        fatal = [error for error in raised if type(error) is not ConnectError]
        if fatal:
            assert outcome.error in fatal
            assert isinstance(outcome.error, RelayIdentityError) or not any(
                isinstance(error, RelayIdentityError) for error in fatal
            )
        else:
            assert (outcome.raced is None) == (len(raised) == len(both))

    # What was opened is returned or discarded, once.
    kept = [] if outcome.raced is None else [outcome.raced.value]
    assert sorted(kept + outcome.discarded) == sorted(dial.name for dial in both if dial.opened)
    if outcome.raced is not None:
        assert outcome.raced.value == outcome.raced.winner.name.lower()
        assert outcome.raced.seconds == outcome.ended - outcome.began
        assert outcome.raced.failures == {
            place: dial.raised for place, dial in zip(Place, both, strict=True) if dial.raised is not None
        }

    # The second begins when the head start is over, or with the failure of the first.
    if second.started is not None:
        wait = min(head_start, first.seconds) if first.fate is Fate.FAILS else head_start
        assert second.started - outcome.began == wait


@pytest.mark.parametrize(
    ("first", "second", "winner", "seconds"),
    [
        ((Fate.OPENS, 1.9), (Fate.OPENS, 0), Place.FIRST, 1.9),
        ((Fate.OPENS, 9), (Fate.OPENS, 1), Place.SECOND, 3.0),
        ((Fate.OPENS, 2.5), (Fate.OPENS, 1), Place.FIRST, 2.5),
        ((Fate.HANGS, 0), (Fate.OPENS, 1), Place.SECOND, 3.0),
        ((Fate.FAILS, 0.5), (Fate.OPENS, 1), Place.SECOND, 1.5),
        ((Fate.OPENS, 9), (Fate.FAILS, 1), Place.FIRST, 9.0),
    ],
)
async def test_who_wins_and_when(
    first: tuple[Fate, float],
    second: tuple[Fate, float],
    winner: Place,
    seconds: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcome = await hold(Dialled("first", *first), Dialled("second", *second))
    assert outcome.raced is not None
    assert outcome.raced.winner is winner
    assert outcome.raced.seconds == pytest.approx(seconds)


async def test_the_second_is_not_dialled_at_all_if_the_first_is_quick(autojump_clock: trio.testing.MockClock) -> None:
    second = Dialled("second", Fate.OPENS, 0)
    await hold(Dialled("first", Fate.OPENS, HEAD_START - 0.1), second)
    assert second.started is None


async def test_if_both_fail_the_error_names_both_reasons(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ConnectError, match=r"^UDP: a failed; TCP: b failed$") as caught:
        await race(
            Dialled("a", Fate.FAILS, 1),
            Dialled("b", Fate.FAILS, 1),
            head_start=HEAD_START,
            discard=lambda _: None,
            names=("UDP", "TCP"),
        )
    assert caught.value.retryable


@pytest.mark.parametrize("later", [1.0, 1.5])
async def test_an_impostor_on_one_path_is_told_beside_an_honest_relay_on_the_other(
    later: float, autojump_clock: trio.testing.MockClock
) -> None:
    """The honest connection is there first, or at the same moment; it is closed, not used."""
    impostor = Dialled("impostor", Fate.IMPOSTOR_THOUGH_CANCELLED, later)
    outcome = await hold(Dialled("honest", Fate.OPENS_THOUGH_CANCELLED, 1), impostor, head_start=0)
    assert isinstance(outcome.error, RelayIdentityError)
    assert outcome.discarded == ["honest"]


async def test_an_impostor_ends_the_race_though_the_other_path_is_still_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcome = await hold(Dialled("first", Fate.IS_IMPOSTOR, 1), Dialled("second", Fate.OPENS, 9), head_start=0)
    assert isinstance(outcome.error, RelayIdentityError)
    assert outcome.ended - outcome.began == 1


async def test_whatever_no_retry_mends_ends_the_race(autojump_clock: trio.testing.MockClock) -> None:
    async def locked() -> str:
        raise AuthError("the key is in use")

    with pytest.raises(AuthError):
        await race(locked, Dialled("second", Fate.HANGS, 0), head_start=0, discard=lambda _: None)


async def test_a_bug_in_a_dial_leaves_as_it_is_and_closes_what_is_open(autojump_clock: trio.testing.MockClock) -> None:
    async def buggy() -> str:
        await trio.sleep(1)
        raise ZeroDivisionError

    discarded: list[str] = []
    with pytest.RaisesGroup(ZeroDivisionError):
        await race(buggy, Dialled("second", Fate.OPENS_THOUGH_CANCELLED, 0.5), head_start=0.7, discard=discarded.append)
    assert discarded == ["second"]


# --- following a plan ----------------------------------------------------------------------------

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
QUIC, H2, YAMUX = TransportKind.QUIC, TransportKind.H2, TransportKind.YAMUX


async def followed(
    choice: TransportKind | None, quic: Fate, h2: Fate, *, remembered: dict[TransportKind, Trial] | None = None
) -> Chosen[str]:
    """Follow the plan for *choice*; a dial takes 0.1 s."""
    dials = {QUIC: Dialled("quic", quic, 0.1), H2: Dialled("h2", h2, 0.1), YAMUX: Dialled("yamux", Fate.OPENS, 0.1)}
    return await follow(plan(choice, remembered or {}, NOW), dials, discard=lambda _: None)


async def test_quic_that_works_carries(autojump_clock: trio.testing.MockClock) -> None:
    chosen = await followed(None, Fate.OPENS, Fate.OPENS)
    assert (chosen.transport, chosen.value, chosen.passed_over) == (QUIC, "quic", None)
    assert chosen.why == "QUIC over UDP"


async def test_udp_that_is_swallowed_is_told(autojump_clock: trio.testing.MockClock) -> None:
    chosen = await followed(None, Fate.HANGS, Fate.OPENS)
    assert (chosen.transport, chosen.value, chosen.passed_over) == (H2, "h2", QUIC)
    assert chosen.why in [f"HTTP/2 over TLS on TCP: UDP did not answer within 0.{digit} s" for digit in "34"]


async def test_udp_that_is_refused_is_told(autojump_clock: trio.testing.MockClock) -> None:
    chosen = await followed(None, Fate.FAILS, Fate.OPENS)
    assert chosen.why == "HTTP/2 over TLS on TCP: UDP failed (quic failed)"


async def test_where_udp_was_blocked_nobody_waits_for_it(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    chosen = await followed(None, Fate.HANGS, Fate.OPENS, remembered={QUIC: Trial(worked=False, at=NOW, failures=1)})
    assert chosen.transport is H2
    assert chosen.passed_over is None
    assert trio.current_time() - began == pytest.approx(0.1)


async def test_a_named_transport_is_dialled_alone(autojump_clock: trio.testing.MockClock) -> None:
    chosen = await followed(YAMUX, Fate.OPENS, Fate.OPENS)
    assert (chosen.transport, chosen.why) == (YAMUX, "yamux over TLS on TCP, as asked")
    with pytest.raises(ConnectError, match="quic failed"):
        await followed(QUIC, Fate.FAILS, Fate.OPENS)


async def test_no_transport_at_all_names_each(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ConnectError, match=r"QUIC over UDP: quic failed; HTTP/2 over TLS on TCP: h2 failed"):
        await followed(None, Fate.FAILS, Fate.FAILS)
