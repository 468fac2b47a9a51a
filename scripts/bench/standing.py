"""What it costs that visitors and agents are there: memory, descriptors, CPU while nobody says anything.

Each figure is growth, from a tunnel that has served a few visitors to one that
holds many: private memory of a side's processes, workers counted, and the
kernel's for the sockets that they hold and what lies in their queues.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.bench.crowd import Party
from scripts.bench.launch import CannotMeasureError
from scripts.bench.peers import Place
from scripts.bench.processes import KIB, Use, socket_cost, use_of
from scripts.bench.scenarios import Size
from scripts.bench.stage import ROOT, Stage, Target, line_of, without_failures
from scripts.bench.trunnel_peer import VARIANTS, TrunnelPeer

MB = 1e6
WARM = 40
"""Visitors that come and go first: what is loaded once is not what a visitor costs."""
SETTLE = 2.0
"""Seconds after the last has come, or gone."""
IDLE = 3.0
"""Seconds over which CPU is counted while nobody says anything."""
VISITORS = 998
"""With the one that stalls and the one that resets a thousand: what one agent may have by default."""
AGENTS = 1_000
CROWD, CROWD_AGENTS, CROWD_SOURCES = 10_000, 11, 20
"""Agents have 1,000 streams each by default, addresses 2,048 visitors."""
HERD_TIMEOUT = 180.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """What all is using at one moment."""

    sides: dict[str, Use]
    at: float


def snapshot(peer: TrunnelPeer) -> Snapshot:
    """Look at a relay and its agents."""
    return Snapshot({name: use_of(each.pid) for name, each in peer.programs.items()}, time.monotonic())


def side(name: str) -> str:
    """Return `relay` or `agent`."""
    return name.split(maxsplit=1)[0].split("-", maxsplit=1)[0]


def growth(before: Snapshot, after: Snapshot) -> Figures:
    """Return by how much each side has grown, in MB; `relay` and `agent` are private and kernel memory together."""
    figures: Figures = {}
    for name, use in after.sides.items():
        was = before.sides[name]
        private = (use.private - was.private) / MB
        shared = ((use.sockets - was.sockets) * socket_cost() + use.queued - was.queued) / MB
        role = side(name)
        for title, value in (("MB", private + shared), ("private MB", private), ("kernel MB", shared)):
            figures[f"{role} {title}"] = figures.get(f"{role} {title}", 0.0) + value
    return figures


def cpu_share(before: Snapshot, after: Snapshot) -> Figures:
    """Return the share of a core that each side used, in percent."""
    figures: Figures = {}
    for name, use in after.sides.items():
        spent = 100 * (use.cpu - before.sides[name].cpu) / (after.at - before.at)
        figures[f"{side(name)} CPU %"] = figures.get(f"{side(name)} CPU %", 0.0) + spent
    return figures


class Crowd:
    """The process of the visitors who stay."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def do(self, command: str) -> Figures:
        """Let them do something; raises when one of them failed."""
        if self.process.stdin is None:
            raise AssertionError("started with a pipe")
        print(command, file=self.process.stdin, flush=True)
        figures: Figures = json.loads(line_of(self.process))
        return without_failures(figures)


@contextmanager
def crowd(stage: Stage, party: Party) -> Iterator[Crowd]:
    """Have many visitors, all of them there."""
    with stage.python("crowd", json.dumps(asdict(party))) as process:
        try:
            line_of(process)
            yield Crowd(process)
        finally:
            process.kill()


@contextmanager
def fresh(stage: Stage, command: Path, variant: str = "trunnel") -> Iterator[TrunnelPeer]:
    """Have a relay of its own, with nothing behind it."""
    chosen = next(each for each in VARIANTS if each.name == variant)
    with ExitStack() as stack:
        folder = stage.folder / f"standing-{time.monotonic_ns()}"
        folder.mkdir(mode=0o755)
        yield TrunnelPeer(chosen, command, stack, folder)


def warmed(stage: Stage, place: Place, party: Party, target: Target) -> None:
    """Let a few visitors come and go, and the two that are beside everything come."""
    stage.disturb(place, target)
    with crowd(stage, Party(party.port, party.names, WARM, tls=party.tls)):
        pass
    stage.disturb(None)
    time.sleep(SETTLE)


def idle_visitors(target: Target) -> Callable[[Stage, Path, Size], Figures]:
    """Return a thousand visitors who say nothing."""

    def measure(stage: Stage, command: Path, size: Size) -> Figures:
        del size
        with fresh(stage, command) as peer:
            place = stage.place(peer, target)
            party = Party(place.port, [place.host], VISITORS, tls=target is Target.AGENT)
            warmed(stage, place, party, target)
            before = snapshot(peer)
            with crowd(stage, party) as visitors:
                time.sleep(SETTLE)
                after = snapshot(peer)
                time.sleep(IDLE)
                later = snapshot(peer)
                if not party.tls:
                    visitors.do("everybody")
            return {**growth(before, after), **cpu_share(after, later)}

    return measure


def ten_thousand(stage: Stage, command: Path, size: Size) -> Figures:
    """Ten thousand visitors, one in a hundred active."""
    with fresh(stage, command) as peer:
        places = [peer.agent(stage.plain_origin, f"agent-{n}", "--tls-passthrough") for n in range(CROWD_AGENTS)]
        party = Party(places[0].port, [place.host for place in places], CROWD, CROWD_SOURCES)
        warmed(stage, places[0], party, Target.PLAIN)
        before = snapshot(peer)
        with crowd(stage, party) as visitors:
            stage.disturb(places[0], Target.PLAIN)
            figures = visitors.do(f"active {max(3.0, size.seconds):g}")
            stage.disturb(None)
            after = snapshot(peer)
            visitors.do("everybody")
        most = max(use.main_descriptors for use in after.sides.values())
        relay = after.sides["relay"].main_descriptors
        return {
            "p50 ms": 1000 * figures["p50"],
            "p99 ms": 1000 * figures["p99"],
            "relay main descriptors": relay,
            "most main descriptors": most,
            **growth(before, after),
        }


def stalled_reader(stage: Stage, command: Path, size: Size) -> Figures:
    """One visitor that asks for much and reads nothing: what relay and agent hold, and all sockets on its way."""
    del size
    with fresh(stage, command) as peer:
        place = stage.place(peer, Target.PLAIN)
        party = Party(place.port, [place.host], 1)
        warmed(stage, place, party, Target.PLAIN)
        with crowd(stage, party) as visitors:
            time.sleep(SETTLE)
            ends = visitors.process.pid, stage.origin.pid
            before, ends_before = snapshot(peer), sum(use_of(pid).queued for pid in ends)
            visitors.do("stall")
            time.sleep(SETTLE)
            after, ends_after = snapshot(peer), sum(use_of(pid).queued for pid in ends)
        private, queued = (
            sum(getattr(after.sides[name], field) - getattr(before.sides[name], field) for name in after.sides) / MB
            for field in ("private", "queued")
        )
        beyond = (ends_after - ends_before) / MB
        return {"MB": private + queued, "private MB": private, "kernel MB": queued, "visitor and origin MB": beyond}


def idle_agents(stage: Stage, command: Path, size: Size) -> Figures:
    """A thousand agents over HTTP/2, one carrier each: what each costs the relay."""
    del size
    with fresh(stage, command, "trunnel-h2-session") as peer:
        stage.place(peer, Target.PLAIN)
        words = stage.command("resting_agents", peer.agents_port, peer.relay_id(), AGENTS, peer.folder / "resting")
        time.sleep(SETTLE)
        before = snapshot(peer)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as herd:
            try:
                wait_for_herd(herd)
                time.sleep(SETTLE)
                after = snapshot(peer)
                time.sleep(IDLE)
                later = snapshot(peer)
            finally:
                herd.kill()
        grown = growth(before, after)
        each = {f"KiB each{kind}": grown[f"relay{kind} MB"] * MB / KIB / AGENTS for kind in ("", " private", " kernel")}
        sockets = after.sides["relay"].sockets - before.sides["relay"].sockets
        return {**each, "sockets each": sockets / AGENTS, **cpu_share(after, later)}


def wait_for_herd(herd: subprocess.Popen[str]) -> None:
    """Return once all agents are connected."""
    deadline, connected = time.monotonic() + HERD_TIMEOUT, 0
    while connected < AGENTS:
        connected = int(line_of(herd))
        if time.monotonic() > deadline:
            raise CannotMeasureError(f"{connected} of {AGENTS} agents are connected")
