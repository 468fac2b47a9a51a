"""The chapter of carriers: each transport beside the limits of its own kind, `python -m scripts.bench.carriers`.

What HTTP/2, yamux and QUIC carry in the session, against hyper-h2, bare TLS
and aioquic that carry nothing else.  Every scenario of a round runs in turn, so that what the machine does besides
hits all alike; figures are medians over rounds, with the spread beside them.
A ratio is that of one round's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench.programs import Tunnel, background, line_of, python, run
from trunnel.settings import limits
from trunnel.version import VERSION

RESULTS = Path("bench/results")
MB = 1_000_000
MIB = 1 << 20

Figures = dict[str, float]
"""What a scenario measured, by name."""

RATIOS = {
    "h2 / bare hyper-h2": ("h2 passthrough, MB/s", "bare hyper-h2, MB/s"),
    "yamux / h2": ("yamux passthrough, MB/s", "h2 passthrough, MB/s"),
    "h2 / bare TLS on the same path": ("h2 passthrough, MB/s", "bare TLS passthrough, MB/s"),
    "yamux / bare TLS on the same path": ("yamux passthrough, MB/s", "bare TLS passthrough, MB/s"),
    "quic passthrough / aioquic in memory": ("quic passthrough, MB/s", "aioquic in memory, MB/s"),
    "quic session / aioquic in memory": ("quic session, MB/s", "aioquic in memory, MB/s"),
    "quic session, 1,000 streams / 1": ("quic session, 1,000 streams, MB/s", "quic session, MB/s"),
    "aioquic in memory, 1,000 streams / 1": ("aioquic in memory, 1,000 streams, MB/s", "aioquic in memory, MB/s"),
}


@dataclass(frozen=True)
class Size:
    """How much is moved and how often."""

    rounds: int
    tcp: int
    """Bytes over TCP carriers."""
    quic: int
    """Bytes over QUIC."""
    seconds: float
    """Of an exchange."""


FULL = Size(rounds=7, tcp=512 * MIB, quic=64 * MIB, seconds=5.0)
QUICK = Size(rounds=3, tcp=96 * MIB, quic=12 * MIB, seconds=1.5)
IDLE = 999
"""Streams open beside the busy one."""


def rate(printed: str, amount: int) -> float:
    """Return MB/s from a line of bytes and seconds; every byte must have come."""
    total, seconds = printed.split()[-2:]
    if int(total) < amount:
        raise SystemExit(f"{total} of {amount} bytes arrived")
    return int(total) / float(seconds) / MB


def percentile(values: list[float], share: float) -> float:
    """Return a percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def bare_h2(size: Size) -> Figures:
    """Two hyper-h2 connections, one stream."""
    with background(python("bare_h2", "receive")) as receiver:
        port = line_of(receiver).strip()
        run(python("bare_h2", "send", port, size.tcp))
        return {"bare hyper-h2, MB/s": rate(line_of(receiver), size.tcp)}


def quic_pair(size: Size) -> Figures:
    """One QUIC session over loopback, with one stream and with a thousand."""
    with background(python("quic_pair", "relay", 0, IDLE)) as relay:
        port = line_of(relay).strip()
        with background(python("quic_pair", "agent", port, size.quic)):
            one, many = (rate(line_of(relay), size.quic // 2) for _ in range(2))
    return {"quic session, MB/s": one, "quic session, 1,000 streams, MB/s": many}


def aioquic_in_memory(size: Size) -> Figures:
    """Two plain aioquic connections, with one stream and with a thousand."""
    one, many = json.loads(run(python("memory_quic", size.quic, IDLE, limits.QUIC_DATAGRAM)))
    return {"aioquic in memory, MB/s": one, "aioquic in memory, 1,000 streams, MB/s": many}


def downloads(tunnel: Tunnel, size: Size) -> Figures:
    """One download over each transport, and over bare TLS on the same path."""

    def download(port: int | str, host: str, amount: int) -> float:
        return rate(run(python("tls_visitor", "download", port, host, amount)), amount)

    figures = {"bare TLS passthrough, MB/s": download(tunnel.bare_port, "bare", size.tcp)}
    for transport, host in tunnel.hosts.items():
        amount = size.quic if transport == "quic" else size.tcp
        figures[f"{transport} passthrough, MB/s"] = download(tunnel.port, host, amount)
    return figures


def latencies(tunnel: Tunnel, size: Size) -> Figures:
    """An exchange alone, and one that shares the session with downloads, one after the other."""
    port, host = tunnel.port, tunnel.hosts["h2"]

    def exchange() -> float:
        return 1000 * percentile(json.loads(run(python("tls_visitor", "exchange", port, host, size.seconds))), 0.99)

    idle = exchange()
    with background(python("tls_visitor", "keep-downloading", port, host, size.tcp)) as bulk:
        line_of(bulk)
        return {"h2 exchange idle p99, ms": idle, "h2 exchange beside bulk p99, ms": exchange()}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.carriers")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    size = QUICK if parser.parse_args().quick else FULL
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trunnel-bench-") as folder, ExitStack() as stack:
        tunnel = Tunnel(stack, Path(folder))
        scenarios: list[Callable[[], Figures]] = [
            lambda: bare_h2(size),
            lambda: downloads(tunnel, size),
            lambda: aioquic_in_memory(size),
            lambda: quic_pair(size),
            lambda: latencies(tunnel, size),
        ]
        for number in range(size.rounds):
            for measure in scenarios:
                for name, figure in measure().items():
                    figures.setdefault(name, []).append(figure)
                    print(f"round {number + 1}/{size.rounds}: {name} {figure:.1f}", file=sys.stderr, flush=True)
    report(figures, size)


def report(figures: dict[str, list[float]], size: Size) -> None:
    """Print the table and write the raw figures."""
    for name, (above, below) in RATIOS.items():
        figures[name] = [one / other for one, other in zip(figures[above], figures[below], strict=True)]
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, CPython {platform.python_version()}"
    now = datetime.now(UTC)
    amounts = f"{size.tcp // MIB} MiB over TCP, {size.quic // MIB} MiB over QUIC in datagrams of {limits.QUIC_DATAGRAM}"
    print(f"trunnel {VERSION}, {now:%Y-%m-%d}, {machine}; {size.rounds} rounds of {amounts}")
    print(f"{'':40}{'median':>10}{'min':>10}{'max':>10}")
    for name, values in figures.items():
        print(f"{name:40}{statistics.median(values):10.2f}{min(values):10.2f}{max(values):10.2f}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = {"version": VERSION, "date": now.isoformat(), "machine": machine, "rounds": size.rounds, "figures": figures}
    (RESULTS / f"carriers-{now:%Y%m%d-%H%M%S}.json").write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
