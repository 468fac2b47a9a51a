"""The scenarios that trunnel does alone, on a relay of its own each: their names, titles and order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.faults import worker_killed
from scripts.bench.launch import CannotMeasureError
from scripts.bench.scenarios import Sample, Size
from scripts.bench.stage import Stage, Target
from scripts.bench.standing import Figures, idle_agents, idle_visitors, stalled_reader, ten_thousand


@dataclass(frozen=True)
class Standing:
    """One scenario of this chapter."""

    name: str
    title: str
    measure: Callable[[Stage, Path, Size], Figures]
    quick: bool = False


STANDING = (
    Standing("idle-visitors", "1,000 idle visitors, passed through", idle_visitors(Target.PLAIN), quick=True),
    Standing("idle-tls", "1,000 idle visitors, TLS at the agent", idle_visitors(Target.AGENT)),
    Standing("idle-agents", "1,000 idle agents over h2", idle_agents),
    Standing("ten-thousand", "10,000 visitors, 1 % active", ten_thousand),
    Standing("stalled", "One stalled reader", stalled_reader, quick=True),
    Standing("worker-killed", "One of the relay's workers is killed under load", worker_killed),
)


def measure_standing(one: Standing, stage: Stage, command: Path, size: Size) -> Sample:
    """Measure once."""
    figures: Figures = {}
    failure = ""
    try:
        figures = one.measure(stage, command, size)
    except (CannotMeasureError, subprocess.TimeoutExpired) as problem:
        failure = str(problem)
    return Sample(one.name, "trunnel", 0, figures, {}, failure)
