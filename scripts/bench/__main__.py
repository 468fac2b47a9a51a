"""Run the benchmark; see the package's docstring.

Every scenario of a round runs in turn, so that what the machine does besides
hits all alike; figures are medians over rounds, with the spread beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
from trunnel.version import VERSION

RESULTS = Path("bench/results")
MB = 1_000_000
MIB = 1 << 20
TIMEOUT = 300.0


def python(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-m", f"scripts.bench.{module}", *map(str, arguments)]


@contextmanager
def background(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints."""
    if process.stdout is None:
        raise AssertionError("programs are started with a pipe")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended with {process.wait()}")
    return line


def event_of(process: subprocess.Popen[str], kind: str) -> dict[str, object]:
    """Return the next event of *kind*."""
    while True:
        event = json.loads(line_of(process))
        if event["event"] == kind:
            return dict(event)


class Tunnel:
    """A relay, an agent and an origin; all with default settings and limits on."""

    def __init__(self, stack: ExitStack, folder: Path, amount: int) -> None:
        leaf = LeafStore(folder / "origin", IdentityKey.generate()).leaf([Hostname("origin")], now=datetime.now(UTC))
        trunnel = [sys.executable, "-m", "trunnel"]
        serve = ["serve", "--json", "--api-port", "0", "--pub-port", "0", "--state-dir", str(folder / "relay")]
        relay = stack.enter_context(background([*trunnel, *serve]))
        listening = event_of(relay, "listening")
        agents, visitors = listening["agents"], listening["visitors"]
        if not isinstance(agents, list) or not isinstance(visitors, list):
            raise TypeError("addresses come as lists")
        self.port = int(visitors[0].rpartition(":")[2])
        origin = stack.enter_context(background(python("origin", leaf.path, leaf.path.with_suffix(".key"), amount)))
        where = ["--server", agents[0], "--state-dir", str(folder / "agent")]
        expose = ["expose", line_of(origin).strip(), "--json", "--tls-passthrough", *where]
        agent = stack.enter_context(background([*trunnel, *expose]))
        self.host = str(event_of(agent, "ready")["hostname"])


def run(command: list[str]) -> str:
    """Run a program to its end and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout


def rate(printed: str, amount: int) -> float:
    """Return MB/s from a line of bytes and seconds; every byte must have come."""
    total, seconds = printed.split()[-2:]
    if int(total) < amount:
        raise SystemExit(f"{total} of {amount} bytes arrived")
    return int(total) / float(seconds) / MB


def bare_h2(amount: int) -> float:
    """Two hyper-h2 connections, one stream."""
    with background(python("bare_h2", "receive")) as receiver:
        port = line_of(receiver).strip()
        run(python("bare_h2", "send", port, amount))
        return rate(line_of(receiver), amount)


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def scenarios(tunnel: Tunnel, amount: int, seconds: float) -> dict[str, Callable[[], float]]:
    """Return what a round measures, in order."""
    port, host = tunnel.port, tunnel.host

    def download() -> float:
        return rate(run(python("visitor", "download", port, host, amount)), amount)

    def exchange() -> list[float]:
        return list(json.loads(run(python("visitor", "exchange", port, host, seconds))))

    def idle_p99() -> float:
        return 1000 * percentile(exchange(), 0.99)

    def beside_bulk_p99() -> float:
        """An exchange and downloads, one after the other, share one session."""
        with background(python("visitor", "keep-downloading", port, host, amount)) as bulk:
            line_of(bulk)
            return 1000 * percentile(exchange(), 0.99)

    return {
        "bare hyper-h2, MB/s": lambda: bare_h2(amount),
        "h2 passthrough, MB/s": download,
        "exchange idle p99, ms": idle_p99,
        "exchange beside bulk p99, ms": beside_bulk_p99,
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    rounds, amount, seconds = (3, 128 * MIB, 2.0) if quick else (7, 512 * MIB, 5.0)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trunnel-bench-") as folder, ExitStack() as stack:
        tunnel = Tunnel(stack, Path(folder), amount)
        measures = scenarios(tunnel, amount, seconds)
        for number in range(rounds):
            for name, measure in measures.items():
                figures.setdefault(name, []).append(measure())
                print(f"round {number + 1}/{rounds}: {name} {figures[name][-1]:.1f}", file=sys.stderr, flush=True)
    report(figures, rounds=rounds, amount=amount)


def report(figures: dict[str, list[float]], *, rounds: int, amount: int) -> None:
    """Print the table and write the raw figures."""
    pairs = zip(figures["h2 passthrough, MB/s"], figures["bare hyper-h2, MB/s"], strict=True)
    figures["h2 passthrough / bare hyper-h2"] = [tunnel / bare for tunnel, bare in pairs]
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, CPython {platform.python_version()}"
    now = datetime.now(UTC)
    print(f"trunnel {VERSION}, {now:%Y-%m-%d}, {machine}; {rounds} rounds of {amount // MIB} MiB")
    print(f"{'':34}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in figures.items():
        print(f"{name:34}{statistics.median(values):10.2f}{min(values):10.2f}{max(values):10.2f}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = {"version": VERSION, "date": now.isoformat(), "machine": machine, "rounds": rounds, "figures": figures}
    (RESULTS / f"{now:%Y%m%d-%H%M%S}.json").write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
