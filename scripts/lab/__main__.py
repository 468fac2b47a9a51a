"""Run rows of the lab and print one line each; exit status 1 if one missed its limit.

Without root, or without the programs it needs, the lab is skipped with a
reason: status 0, but 1 under `TRUNNEL_NO_SKIP=1`.

Rows that only wait run all the time, beside the others: some light ones at a
time, then the busy ones one by one.  What that usually takes is said first.
With `--quick`, a row that missed is run once more, alone: beside ten others on a
small machine 100 ms are soon lost.  Who misses twice has failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from scripts.lab import scenarios_ends, scenarios_life, scenarios_loss, scenarios_names, scenarios_path  # noqa: F401 - they register their rows
from scripts.lab.hosts import absent_programs, sweep
from scripts.lab.table import ROWS, Case, Load, Row, run_row

SIDE_BY_SIDE = 6
REMEDY = "apt install nftables iproute2 procps conntrack"
INTERRUPTED = 128 + signal.SIGINT


def wanted(names: Sequence[str], transport: str | None, *, quick: bool) -> list[tuple[Row, Case]]:
    """Return what to run."""
    chosen = [ROWS[name] for name in names] if names else [ROWS[name] for name in sorted(ROWS)]
    roads = [(row, road) for row in chosen for road in (row.quick if quick and not names else row.roads)]
    return [(row, Case(road, quick)) for row, road in roads if transport in (None, road.label, road.transport)]


async def run_rows(cases: Sequence[tuple[Row, Case]], jobs: int) -> bool:
    """Run them; whether all passed."""
    missed: list[tuple[Row, Case]] = []
    limiter = trio.CapacityLimiter(jobs)

    async def run(row: Row, case: Case) -> None:
        if await run_row(row, case) == "FAIL":
            missed.append((row, case))

    async def run_limited(row: Row, case: Case) -> None:
        async with limiter:
            await run(row, case)

    async with trio.open_nursery() as waiting:
        for row, case in of_load(Load.WAITING, cases):
            waiting.start_soon(run, row, case)
        async with trio.open_nursery() as light:
            for row, case in of_load(Load.LIGHT, cases):
                light.start_soon(run_limited, row, case)
        for row, case in of_load(Load.BUSY, cases):
            await run(row, case)
    return all([case.quick and await passes_alone(row, case) for row, case in missed])


async def passes_alone(row: Row, case: Case) -> bool:
    """Run a row that missed once more; whether it passed."""
    print(f"once more, alone: {row.name} {case.road.label}", flush=True)
    return await run_row(row, case) != "FAIL"


def of_load(load: Load, cases: Sequence[tuple[Row, Case]]) -> list[tuple[Row, Case]]:
    """Return the cases of rows with this *load*."""
    return [(row, case) for row, case in cases if row.load is load]


def expected(cases: Sequence[tuple[Row, Case]], jobs: int) -> float:
    """Return the seconds that the cases usually take together."""
    waiting, light, busy = (
        [case.either(*row.takes) for row, case in of_load(load, cases)]
        for load in (Load.WAITING, Load.LIGHT, Load.BUSY)
    )
    return max([*waiting, max([*light, sum(light) / jobs]) + sum(busy)])


def unable() -> str | None:
    """Return why no lab can be set up here, None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if absent := absent_programs():
        return f"not on this machine: {', '.join(absent)} ({REMEDY})"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return None


def main() -> int:
    """Run the lab; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make lab", description="Rows of the catalogue about the network.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--transport", help="only this one")
    parser.add_argument("--quick", action="store_true", help="shortened, as in CI")
    parser.add_argument("--jobs", type=int, default=SIDE_BY_SIDE, help="light rows at a time")
    words = parser.parse_args()
    unknown = [name for name in words.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(sorted(ROWS))}")
    if (reason := unable()) is not None:
        print(f"lab: skipped: {reason}")
        return 1 if os.environ.get("TRUNNEL_NO_SKIP", "0") not in ("", "0") else 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sweep()
    status = INTERRUPTED
    cases = wanted(words.rows, words.transport, quick=words.quick)
    print(f"lab: {len(cases)} rows, usually {expected(cases, words.jobs) / 60:.1f} minutes", flush=True)
    try:
        passed = trio.run(run_rows, cases, words.jobs)
        status = 0 if passed else 1
    except* KeyboardInterrupt:
        print("lab: stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
