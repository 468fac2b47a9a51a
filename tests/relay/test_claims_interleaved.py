"""Whatever comes between a proof and its use: a name has one key for an owner, and DNS has named it."""

from __future__ import annotations

from dataclasses import dataclass

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.relay.court import Court, court
from trunnel.names import Hostname, KeyId
from trunnel.relay.sessions import AgentSession
from trunnel.settings import limits

KEYS = tuple(KeyId.of_spki(bytes([number])) for number in range(3))
NAMES = (Hostname("www.shop.example"), Hostname("api.shop.example"))
DAY = 86_400.0


@dataclass(frozen=True)
class Attach:
    """An agent comes, perhaps with a key that is there already, and asks for every name."""

    key: int
    share: bool


@dataclass(frozen=True)
class Leave:
    """One of the agents goes."""

    which: int


@dataclass(frozen=True)
class Records:
    """DNS changes, or cannot be asked any more, or again."""

    name: int
    keys: frozenset[int]
    unclear: bool


@dataclass(frozen=True)
class Answer:
    """DNS answers some of the questions that it was asked, not always the oldest."""

    skip: int
    count: int


@dataclass(frozen=True)
class Challenge:
    """An authority checks a name."""

    name: int


@dataclass(frozen=True)
class Pass:
    """Time goes by."""

    seconds: float


Step = Attach | Leave | Records | Answer | Challenge | Pass
names = st.integers(0, len(NAMES) - 1)
keys = st.integers(0, len(KEYS) - 1)
answers = st.builds(Answer, st.integers(0, 2), st.integers(1, 6))
records = st.builds(Records, names, st.frozensets(keys, min_size=1, max_size=2), st.just(False))
steps = st.lists(
    st.one_of(
        st.builds(Attach, keys, st.booleans()),
        st.builds(Leave, st.integers(0, 5)),
        records,
        records,
        st.builds(Records, names, st.frozensets(keys, max_size=1), st.booleans()),
        *[answers] * 5,
        st.builds(Challenge, names),
        st.builds(Challenge, names),
        st.builds(Pass, st.sampled_from([1.0, 4.0, 20.0, 20.0, 3_700.0, 1.2 * DAY, 4 * DAY])),
    ),
    min_size=10,
    max_size=40,
)
BEGINNING: tuple[Step, ...] = (
    Records(0, frozenset({0}), unclear=False),
    Records(1, frozenset({0, 1}), unclear=False),
    Attach(0, share=True),
    Attach(1, share=True),
    Answer(0, 6),
    Answer(0, 6),
)
"""So that there is something to lose."""


class Trial:
    """One run of steps, and what is known of it."""

    def __init__(self, place: Court, nursery: trio.Nursery, clock: MockClock) -> None:
        self.place = place
        self.nursery = nursery
        self.clock = clock
        self.sessions: list[AgentSession] = []
        self.truth: list[tuple[float, dict[Hostname, frozenset[KeyId]]]] = [(0.0, {})]

    async def take(self, step: Step) -> None:
        match step:
            case Attach(key, share):
                self.sessions.append(await self.place.attach(KEYS[key], *NAMES, share=share))
            case Leave(which) if which < len(self.sessions):
                self.place.leave(self.sessions.pop(which))
            case Records(name, led, unclear):
                self.place.dns.lead(NAMES[name], *(KEYS[key] for key in led))
                self.place.dns.unclear = unclear
                now = {each: frozenset(found) for each, found in self.place.dns.led.items()}
                self.truth.append((trio.current_time(), now))
            case Answer(skip, count):
                for question in self.place.dns.waiting[skip : skip + count]:
                    question.answered.set()
            case Challenge(name):
                self.nursery.start_soon(self.challenge, NAMES[name])
            case Pass(seconds):
                self.clock.jump(seconds)
            case _:
                pass
        await trio.testing.wait_all_tasks_blocked()
        self.sessions = [session for session in self.sessions if session.serves]
        self.place.check(NAMES)

    async def challenge(self, name: Hostname) -> None:
        """A challenge that is passed on goes to a key that DNS has named five seconds ago, or since."""
        session = self.place.sessions.routes.lookup(name)
        if session is None:
            return
        since = trio.current_time() - limits.CHALLENGE_PROOF_REUSED
        if await self.place.claims.confirm(name, session):
            assert session in self.place.owners(name)
            assert session.key_id in self.named_since(since, name)

    def named_since(self, since: float, name: Hostname) -> set[KeyId]:
        """Return the keys that DNS has named at any time since then."""
        before = [led for moment, led in self.truth if moment <= since][-1:]
        later = [led for moment, led in self.truth if moment > since]
        return {key for led in (*before, *later) for key in led.get(name, frozenset())}

    async def settle(self) -> None:
        """Let DNS be reachable, and time pass until everybody has asked again."""
        self.place.dns.unclear = self.place.dns.held_back = False
        for _ in range(4):
            while self.place.dns.waiting:
                await self.place.dns.answer()
            self.clock.jump(1.2 * DAY)
            await trio.testing.wait_all_tasks_blocked()
        while self.place.dns.waiting:
            await self.place.dns.answer()
        for name in NAMES:
            led = self.place.dns.led.get(name, set())
            asking = {session.key_id for session in self.sessions if session.serves}
            owners = {owner.key_id for owner in self.place.owners(name)}
            assert owners <= led, "DNS does not name the owner"
            assert bool(owners) == bool(led & asking), "somebody whom DNS names is without the name"


@given(steps)
@settings(max_examples=100)
def test_no_order_of_events_gives_a_name_to_the_wrong_agent(taken: list[Step]) -> None:
    clock = MockClock()

    async def run() -> None:
        async with court() as place, trio.open_nursery() as nursery:
            place.dns.held_back = True
            trial = Trial(place, nursery, clock)
            for step in (*BEGINNING, *taken):
                await trial.take(step)
            await trial.settle()
            place.check(NAMES)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=clock)
