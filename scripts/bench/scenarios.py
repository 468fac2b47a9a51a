"""What is measured of every peer in turn, within each round.

A scenario takes a stage and a place and returns figures.  A stalled and a
resetting visitor are beside all of them.  Amounts of bulk are chosen by peer,
from a first short transfer, so that each peer is busy for about as long.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from scripts.bench.encrypted import wrk
from scripts.bench.hello import client_hello
from scripts.bench.launch import CannotMeasureError
from scripts.bench.peers import Peer, Place
from scripts.bench.processes import use_of
from scripts.bench.stage import Stage, Target, line_of, without_failures

Figures = dict[str, float]
MIB = 1 << 20
STEP = 8 * MIB
"""Amounts are multiples of it, so that eight streams have equal shares."""
PROBE = 32 * MIB
"""Bytes of the first transfer, which tells how many the measured ones have."""
AMOUNT_MAX = 16 << 30
CONCURRENCY = 32


@dataclass(frozen=True)
class Size:
    """How long and how often."""

    name: str
    rounds: int
    seconds: float
    """Of each measurement."""


FULL = Size("full", rounds=5, seconds=2.0)
QUICK = Size("quick", rounds=3, seconds=0.5)


@dataclass(frozen=True)
class Visit:
    """One measurement: of whom, where, how long."""

    stage: Stage
    peer: Peer
    place: Place
    size: Size
    spent: dict[str, float] = field(default_factory=dict)
    """CPU seconds by role when it began."""

    def begin(self) -> None:
        """Count CPU from here on: what came before was to learn how much work there is to be."""
        self.spent.clear()
        self.spent.update(cpu_by_role(self.peer))


@dataclass(frozen=True)
class Scenario:
    """One kind of work."""

    name: str
    title: str
    unit: str
    """Of the rate; empty when only latencies count."""
    target: Target
    measure: Callable[[Visit], Figures]
    quick: bool = True
    """Whether the quick run has it."""
    peers: tuple[str, ...] = ("*",)
    """Patterns of names of peers that it is about."""


_amounts: dict[tuple[str, str], int] = {}


def amount_for(key: tuple[str, str], seconds: float, move: Callable[[int], Figures]) -> int:
    """Return how many bytes take about *seconds*."""
    if key not in _amounts:
        _amounts[key] = amount_of(rate=move(PROBE)["rate"], seconds=seconds)
    return _amounts[key]


def amount_of(*, rate: float, seconds: float) -> int:
    """Return the bytes that a peer of this rate moves in about *seconds*: whole steps, one for each stream."""
    return max(1, min(AMOUNT_MAX, int(rate * seconds)) // STEP) * STEP


def bulk(direction: str, streams: int) -> Callable[[Visit], Figures]:
    """Return a transfer in one direction over some streams at once."""

    def measure(visit: Visit) -> Figures:
        def move(amount: int) -> Figures:
            return visit.stage.load(visit.place, "bulk", direction, streams, amount)

        amount = amount_for((f"{direction} {streams}", visit.peer.name), visit.size.seconds, move)
        visit.begin()
        return move(amount)

    return measure


def requests(connections: int) -> Callable[[Visit], Figures]:
    """Return requests on connections that stay."""
    return lambda visit: visit.stage.load(visit.place, "request", visit.size.seconds, connections)


def connects(visit: Visit) -> Figures:
    """Open connections: hello, request, response, end."""
    return visit.stage.load(visit.place, "connect", visit.size.seconds, CONCURRENCY)


def exchange_beside_bulk(visit: Visit) -> Figures:
    """Exchange 100 bytes while a download runs."""
    with visit.stage.python(
        "load", "keep-downloading", visit.place.port, client_hello(visit.place.host).hex(), AMOUNT_MAX
    ) as beside:
        try:
            line_of(beside)
            figures = visit.stage.load(visit.place, "exchange", max(1.0, visit.size.seconds))
            if beside.poll() is not None:
                raise CannotMeasureError("the download beside it failed")
        finally:
            beside.kill()
    return figures


def encrypted_bulk(visit: Visit) -> Figures:
    """Fetch a large page over TLS."""

    def move(amount: int) -> Figures:
        return visit.stage.encrypted(visit.place, amount, visit.peer.name)

    amount = amount_for(("encrypted", visit.peer.name), visit.size.seconds, move)
    visit.begin()
    return move(amount)


def encrypted_requests(connections: int, *, close: bool = False) -> Callable[[Visit], Figures]:
    """Return requests over TLS; with *close* each on a connection of its own."""
    return lambda visit: without_failures(wrk(visit.place, visit.size.seconds, connections, close=close))


AT_AGENT = ("none", "trunnel*")
SCENARIOS = (
    Scenario("down-1", "Bulk down, 1 stream", "B/s", Target.PLAIN, bulk("down", 1)),
    Scenario("down-8", "Bulk down, 8 streams", "B/s", Target.PLAIN, bulk("down", 8)),
    Scenario("up-1", "Bulk up, 1 stream", "B/s", Target.PLAIN, bulk("up", 1)),
    Scenario("up-8", "Bulk up, 8 streams", "B/s", Target.PLAIN, bulk("up", 8), quick=False),
    Scenario("request-32", "Keep-alive requests, 32 connections", "/s", Target.PLAIN, requests(32)),
    Scenario("request-1", "Keep-alive requests, 1 connection", "/s", Target.PLAIN, requests(1)),
    Scenario("connect", "New connections", "/s", Target.PLAIN, connects),
    Scenario("exchange", "100-byte exchange beside bulk", "", Target.PLAIN, exchange_beside_bulk),
    Scenario(
        "request-tls", "Keep-alive requests, TLS passed through", "/s", Target.TLS, encrypted_requests(32), quick=False
    ),
    Scenario(
        "connect-tls",
        "New connections, TLS passed through",
        "/s",
        Target.TLS,
        encrypted_requests(CONCURRENCY, close=True),
        quick=False,
    ),
    Scenario("agent-bulk", "TLS at the agent: bulk", "B/s", Target.AGENT, encrypted_bulk, peers=AT_AGENT),
    Scenario("agent-request", "TLS at the agent: requests", "/s", Target.AGENT, encrypted_requests(32), peers=AT_AGENT),
    Scenario(
        "agent-connect",
        "TLS at the agent: new connections",
        "/s",
        Target.AGENT,
        encrypted_requests(CONCURRENCY, close=True),
        peers=AT_AGENT,
    ),
)


@dataclass(frozen=True)
class Sample:
    """What one measurement found."""

    scenario: str
    peer: str
    round: int
    figures: Figures
    cpu: dict[str, float]
    """CPU seconds by role; workers apart."""
    failure: str = ""
    """Why there are no figures."""


def measure(scenario: Scenario, visit: Visit, number: int) -> Sample:
    """Measure one peer once."""
    stage = visit.stage
    stage.disturb(visit.place, scenario.target)
    visit.begin()
    figures: Figures = {}
    failure = ""
    try:
        figures = scenario.measure(visit)
    except (CannotMeasureError, subprocess.TimeoutExpired) as problem:
        failure = str(problem)
    after = cpu_by_role(visit.peer)
    stage.disturb(None)
    spent = {role: seconds - visit.spent.get(role, 0.0) for role, seconds in after.items()}
    cpu = {role: seconds for role, seconds in spent.items() if seconds > 0.0}
    return Sample(scenario.name, visit.peer.name, number, figures, cpu, failure)


def cpu_by_role(peer: Peer) -> dict[str, float]:
    """Return the CPU seconds of a peer's processes so far; agents are one role, whatever their origin."""
    spent: dict[str, float] = {}
    for name, program in peer.programs.items():
        role = name.split()[0]
        role = "agent" if role.startswith("agent") else role
        use = use_of(program.pid, memory=False)
        spent[role] = spent.get(role, 0.0) + use.main_cpu
        spent[f"{role} workers"] = spent.get(f"{role} workers", 0.0) + use.workers_cpu
    return spent


class Named(Protocol):
    """A scenario of either kind."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def quick(self) -> bool:
        """Whether the quick run has it."""


Kind = TypeVar("Kind", bound=Named)


def chosen(every: Sequence[Kind], only: Sequence[str], *, quick: bool) -> list[Kind]:
    """Return what was asked for: by name, by a part of names, or (nothing said) all that belongs to the run."""
    if not only:
        return [each for each in every if each.quick or not quick]
    exact = {each.name for each in every}
    return [
        each for each in every if any(word == each.name or (word not in exact and word in each.name) for word in only)
    ]
