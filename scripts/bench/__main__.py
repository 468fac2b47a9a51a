"""Run the benchmark; see the package's docstring."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from scripts.bench import report
from scripts.bench.alone import STANDING, Standing, measure_standing
from scripts.bench.install import editable_trunnel, installed_trunnel
from scripts.bench.judge import OURS
from scripts.bench.launch import USER, CannotMeasureError, find
from scripts.bench.peers import RECIPES, NoHop, Peer, RecipePeer
from scripts.bench.scenarios import FULL, QUICK, SCENARIOS, Sample, Scenario, Size, Visit, chosen, measure
from scripts.bench.stage import Stage, Target
from scripts.bench.trunnel_peer import VARIANTS, TrunnelPeer
from trunnel.version import VERSION

RESULTS = Path("bench/results")
QUICK_PEERS = "none,haproxy,ssh,trunnel"


@dataclass(frozen=True)
class Plan:
    """What is measured besides the rounds, and how."""

    standing: Sequence[Standing]
    size: Size
    command: Path


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description="trunnel beside others; see scripts/bench.")
    parser.add_argument("--quick", action="store_true", help="fewer peers, fewer and shorter rounds: two minutes")
    parser.add_argument("--only", default="", metavar="NAMES", help="scenarios whose names contain one of these words")
    parser.add_argument("--peers", default="", metavar="NAMES", help="peers by name or pattern: haproxy,trunnel*")
    parser.add_argument("--rounds", type=int, default=0, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long one measurement takes, about")
    parser.add_argument("--editable", action="store_true", help="measure the working tree instead of the wheel")
    parser.add_argument("--list", action="store_true", help="print the names of scenarios and peers")
    return parser.parse_args()


def words(text: str) -> list[str]:
    """Split at commas."""
    return [each for each in text.split(",") if each]


def all_peers(stack: ExitStack, folder: Path, command: Path) -> list[Peer]:
    """Return everybody who can be measured; nothing is started yet."""
    recipes = [RecipePeer(recipe, stack, folder) for recipe in RECIPES]
    return [NoHop(), *recipes, *(TrunnelPeer(variant, command, stack, folder) for variant in VARIANTS)]


def size_of(options: argparse.Namespace) -> Size:
    """Return how long and how often."""
    size = QUICK if options.quick else FULL
    return Size(size.name, options.rounds or size.rounds, options.seconds or size.seconds)


def about(size: Size, command: Path) -> dict[str, str]:
    """Describe the run."""
    cores = len(os.sched_getaffinity(0))
    user = f"programs run as {USER}" if os.geteuid() == 0 else "programs run as the caller"
    return {
        "trunnel": f"{VERSION}, {'working tree' if '.venv' in command.parts else 'installed wheel'}, default settings",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{platform.system()} {platform.release()}, {cores} cores, CPython {platform.python_version()}",
        "size": f"{size.rounds} rounds, {size.seconds:g} s a measurement; medians",
        "load": f"{os.getloadavg()[0]:.1f}",
        "user": f"{user}, 20,000 descriptors a process",
        "beside": "one stalled and one resetting visitor, always",
        "peers": ", ".join(filter(None, map(version_of, ("haproxy", "nginx", "ssh")))),
    }


def version_of(program: str) -> str:
    """Return what a program calls itself."""
    path = find(program)
    if path is None:
        return ""
    option = "-V" if program == "ssh" else "-v"
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def measure_all(stage: Stage, peers: list[Peer], scenarios: list[Scenario], size: Size) -> list[Sample]:
    """Measure everybody in turn, round by round."""
    samples: list[Sample] = []
    broken: dict[tuple[str, Target], str] = {}
    for number, scenario, peer in itertools.product(range(size.rounds), scenarios, peers):
        if not any(fnmatch(peer.name, pattern) for pattern in scenario.peers):
            continue
        key = (peer.name, scenario.target)
        sample = Sample(scenario.name, peer.name, number, {}, {}, broken.get(key, ""))
        try:
            if key not in broken:
                place = stage.place(peer, scenario.target)
                sample = measure(scenario, Visit(stage, peer, place, size), number)
        except CannotMeasureError as problem:
            broken[key] = str(problem)
            sample = replace(sample, failure=str(problem))
        samples.append(sample)
        show(sample, size)
    return samples


def show(sample: Sample, size: Size) -> None:
    """Print one measurement as it is made."""
    figures = {name: value for name, value in sample.figures.items() if name in {"rate", "p50", "p99"}}
    said = sample.failure or ", ".join(f"{name} {value:,.6g}" for name, value in figures.items())
    at = f"round {sample.round + 1}/{size.rounds}"
    print(f"{at}: {sample.scenario} {sample.peer}: {said}", file=sys.stderr, flush=True)


def measure_everything(stage: Stage, peers: list[Peer], run: report.Run, plan: Plan) -> None:
    """Fill in a run: what stands first, on a machine where nothing else runs yet, then the rounds."""
    run.standing = {each.name: each.title for each in plan.standing}
    for each in plan.standing:
        sample = measure_standing(each, stage, plan.command, plan.size)
        print(f"{each.name}: {sample.failure or sample.figures}", file=sys.stderr, flush=True)
        run.samples.append(sample)
    run.samples += measure_all(stage, peers, run.scenarios, plan.size)
    for peer in peers:
        if isinstance(peer, TrunnelPeer) and peer.programs:
            taken = ", ".join(f"{count:,} {path}" for path, count in sorted(peer.paths_taken().items()))
            run.notes.append(f"visitors of {peer.name} by data path: {taken}")
    run.notes += [f"{suite}: {', '.join(sorted(names))}" for suite, names in sorted(stage.suites.items())]
    run.notes.append("beside it all: {} visitors stalled, {} reset".format(*stage.disturbed))
    run.about["load"] += f" before, {os.getloadavg()[0]:.1f} after; what else runs on the machine is in the figures"


def carriers() -> str:
    """Return what the chapter of carriers says."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench.carriers"], stdout=subprocess.PIPE, text=True, check=False
    )
    return f"## Carriers beside the limits of their own kind\n\n```\n{done.stdout.strip() or 'FAILED'}\n```"


def main() -> None:
    """Run, print, write."""
    options = arguments()
    scenarios = chosen(SCENARIOS, words(options.only), quick=options.quick)
    standing = chosen(STANDING, words(options.only), quick=options.quick)
    size = size_of(options)
    command = editable_trunnel() if options.editable else installed_trunnel()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trunnel-bench-")))
        patterns = words(options.peers or (QUICK_PEERS if options.quick else "*"))
        everybody = all_peers(stack, folder, command)
        if options.list:
            print("scenarios:", *(each.name for each in SCENARIOS), *(each.name for each in STANDING))
            print("peers:", *(peer.name for peer in everybody))
            return
        wanted = [peer for peer in everybody if any(fnmatch(peer.name, pattern) for pattern in patterns)]
        peers = [peer for peer in wanted if not peer.missing]
        run = report.Run(about(size, command), scenarios)
        run.skipped = [f"{peer.name}: no {', '.join(peer.missing)}" for peer in wanted if peer.missing]
        ours = any(peer.name == OURS for peer in peers)
        measure_everything(Stage(stack, folder), peers, run, Plan(standing if ours else [], size, command))
    if not options.quick and not options.only:
        run.chapters.append(carriers())
    print(report.markdown(run))
    for path in report.write(run, RESULTS, f"{datetime.now(UTC):%Y%m%d-%H%M%S}"):
        print(path)
    raise SystemExit(any(sample.failure for sample in run.samples))


if __name__ == "__main__":
    main()
