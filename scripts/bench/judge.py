"""What is asked of trunnel, and whether a run shows it: pure figures in, verdicts out.

A ratio is one of figures of the same round; what is judged is the median of
the rounds' ratios, and their least and greatest stand beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.bench.scenarios import Sample

OURS = "trunnel"
"""The peer that is judged: everything by default."""


class Rounds:
    """Samples by scenario, peer and round."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = {(each.scenario, each.peer, each.round): each for each in samples}
        self.numbers = sorted({each.round for each in samples})

    def sample(self, scenario: str, peer: str, number: int) -> Sample | None:
        """Return one measurement that has figures."""
        found = self._samples.get((scenario, peer, number))
        return found if found and found.figures else None

    def over(self, ratio: Callable[[Rounds, int], float | None]) -> list[float]:
        """Return a ratio of each round that has its figures."""
        return [found for number in self.numbers if (found := ratio(self, number)) is not None]


TIMES = "\N{MULTIPLICATION SIGN}"

Ratio = Callable[[Rounds, int], float | None]


def rate(scenario: str, other: str) -> Ratio:
    """Return our rate over another peer's."""

    def ratio(rounds: Rounds, number: int) -> float | None:
        ours, theirs = rounds.sample(scenario, OURS, number), rounds.sample(scenario, other, number)
        return ours.figures["rate"] / theirs.figures["rate"] if ours and theirs else None

    return ratio


def added_p50(scenario: str, other: str) -> Ratio:
    """Return what we add to the median latency without a hop, over what another peer adds."""

    def ratio(rounds: Rounds, number: int) -> float | None:
        three = [rounds.sample(scenario, peer, number) for peer in (OURS, other, "none")]
        ours, theirs, bare = (each.figures["p50"] if each else None for each in three)
        if ours is None or theirs is None or bare is None or theirs <= bare:
            return None
        return (ours - bare) / (theirs - bare)

    return ratio


def cpu_per_byte(scenario: str, role: str, other: str) -> Ratio:
    """Return the CPU time of our *role* a byte, over that of all of another peer's processes."""

    def ratio(rounds: Rounds, number: int) -> float | None:
        ours, theirs = rounds.sample(scenario, OURS, number), rounds.sample(scenario, other, number)
        if not ours or not theirs:
            return None
        mine = sum(seconds for name, seconds in ours.cpu.items() if name.startswith(role)) / ours.figures["bytes"]
        others = sum(theirs.cpu.values()) / theirs.figures["bytes"]
        return mine / others if others else None

    return ratio


def figure(scenario: str, name: str) -> Ratio:
    """Return one of our figures itself."""

    def ratio(rounds: Rounds, number: int) -> float | None:
        ours = rounds.sample(scenario, OURS, number)
        return ours.figures[name] if ours else None

    return ratio


@dataclass(frozen=True)
class Asked:
    """One line of what is asked."""

    scenario: str
    title: str
    against: str
    """Whom the figure is a ratio to; empty for a figure that stands for itself."""
    asked: float
    reach: float
    ratio: Ratio
    unit: str = TIMES
    most: bool = False
    """Whether the figures are what it may be at most."""


def faster(scenario: str, title: str, other: str, asked: float, reach: float) -> Asked:
    """Return a line about rates."""
    against = {"haproxy": "HAProxy", "ssh": "ssh -R", "none": "nginx, no tunnel"}[other]
    return Asked(scenario, title, against, asked, reach, rate(scenario, other))


def at_most(scenario: str, title: str, name: str, asked: float, reach: float) -> Asked:
    """Return a line about a figure that stands for itself."""
    units = [word for word in name.split() if word in {"MB", "KiB", "ms"}]
    return Asked(scenario, title, "", asked, reach, figure(scenario, name), "".join(units), most=True)


ASKED = (
    faster("down-1", "bulk down, passed through, 1 stream", "haproxy", 1.2, 1.5),
    faster("up-1", "bulk up, passed through, 1 stream", "haproxy", 1.2, 1.5),
    faster("down-8", "bulk down, 8 streams", "haproxy", 1.0, 1.3),
    faster("up-8", "bulk up, 8 streams", "haproxy", 1.0, 1.3),
    faster("request-32", "keep-alive requests, 32 connections", "haproxy", 0.4, 0.6),
    faster("request-32", "keep-alive requests, 32 connections", "ssh", 1.5, 1.5),
    Asked(
        "request-1",
        "added p50 of a request, 1 connection",
        "HAProxy",
        3.0,
        2.0,
        added_p50("request-1", "haproxy"),
        most=True,
    ),
    faster("connect", "new plain connections", "haproxy", 0.15, 0.15),
    faster("connect", "new plain connections", "ssh", 0.5, 1.0),
    faster("agent-bulk", "TLS at the agent: bulk", "none", 0.7, 0.9),
    faster("agent-request", "TLS at the agent: requests", "none", 0.22, 0.4),
    faster("agent-connect", "TLS at the agent: new connections", "none", 0.15, 0.3),
    Asked("down-1", "relay CPU per GB", "HAProxy", 1.0, 0.5, cpu_per_byte("down-1", "relay", "haproxy"), most=True),
    at_most("idle-visitors", "1,000 idle visitors, passed through: relay", "relay MB", 12, 6),
    at_most("idle-visitors", "1,000 idle visitors, passed through: agent", "agent MB", 12, 6),
    at_most("idle-tls", "1,000 idle visitors, TLS at the agent: relay", "relay MB", 30, 15),
    at_most("idle-tls", "1,000 idle visitors, TLS at the agent: agent", "agent MB", 30, 15),
    at_most("idle-agents", "1,000 idle agents over h2, each", "KiB each", 90, 60),
    at_most("ten-thousand", "10,000 visitors, 1 % active: p99", "p99 ms", 50, 20),
    at_most("ten-thousand", "10,000 visitors: descriptors of a main process", "most main descriptors", 2_000, 2_000),
    at_most("worker-killed", "a worker killed: streams ended, of 16, none hangs", "streams ended", 15, 15),
    at_most("stalled", "one stalled reader: relay and agent", "MB", 6, 4),
)


@dataclass(frozen=True)
class Verdict:
    """One line of the judgement."""

    title: str
    against: str
    asked: str
    reach: str
    measured: str
    verdict: str


def verdict_of(value: float, line: Asked) -> str:
    """Return `reached`, `met` or `MISSED`."""
    sign = -1 if line.most else 1
    return "reached" if sign * (value - line.reach) >= 0 else "met" if sign * (value - line.asked) >= 0 else "MISSED"


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Judge all lines of which a run has figures; one failure of ours, and the line has failed."""
    rounds = Rounds(samples)
    failed = {each.scenario for each in samples if each.peer == OURS and each.failure}
    verdicts: list[Verdict] = []
    for line in ASKED:
        sign = "≤" if line.most else "≥"
        asked, reach = (f"{sign} {bound:,g} {line.unit}" for bound in (line.asked, line.reach))
        values = rounds.over(line.ratio)
        if line.scenario in failed:
            verdicts.append(Verdict(line.title, line.against, asked, reach, "a stream failed", "FAILED"))
        elif values:
            middle = statistics.median(values)
            spread = f" ({min(values):,.2f} to {max(values):,.2f})" if len(values) > 1 else ""
            measured = f"{middle:,.2f} {line.unit}{spread}"
            verdicts.append(Verdict(line.title, line.against, asked, reach, measured, verdict_of(middle, line)))
    return verdicts
