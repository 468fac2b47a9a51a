"""Run rows and print one line each; exit status 1 if one missed its limit.

`python -m scripts.rows [--quick] [ROW ...]`; `--quick` shortens those that take minutes, and says so in their figure.
"""

from __future__ import annotations

import sys
import traceback

import trio

from scripts.rows import (  # noqa: F401 - they register their rows
    agents,
    certificates,
    clocks,
    floods,
    full_disk,
    herd,
    hijack,
    hot_restart,
    identity,
    issuance,
    load,
    network,
    quic_attacks,
    quic_initials,
    restarts,
    slow_readers,
    stalls,
)
from scripts.rows.registry import PACE, ROWS, Outcome, Row


async def run_row(row: Row) -> Outcome:
    """Run one row; an exception is a failure, and is shown."""
    try:
        with trio.fail_after(row.timeout):
            return await row.body()
    except Exception as exc:  # noqa: BLE001 - a row that breaks must not hide the others
        traceback.print_exc()
        return Outcome(passed=False, figure=f"{type(exc).__name__}: {exc}".splitlines()[0])


def main(names: list[str]) -> int:
    """Run the rows named, or all; returns the exit status."""
    PACE.quick = "--quick" in names
    names = [name for name in names if name != "--quick"]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(sorted(ROWS))}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or sorted(ROWS):
        row = ROWS[name]
        outcome = trio.run(run_row, row)
        missed += not outcome.passed
        print(f"{name}\t{'pass' if outcome.passed else 'FAIL'}\t{outcome.figure}\t{row.limit}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
