"""The roads that an agent may take to the relay, and which of them this trunnel has."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from subprocess import run


@dataclass(frozen=True)
class Road:
    """A transport with its flags, under the label of the table."""

    label: str
    transport: str
    extra: tuple[str, ...] = field(default=())

    @property
    def flags(self) -> list[str]:
        """Flags of `trunnel expose`; rows are about transports, so visitors stay inside the session."""
        return ["--transport", self.transport, "--data", "session", *self.extra]

    @property
    def udp(self) -> bool:
        """Whether its packets are UDP."""
        return self.transport == "quic"

    @property
    def carriers(self) -> int:
        """How many carriers an agent has that is much visited: the figure behind `/` of the label."""
        return int(self.label.partition("/")[2] or 1)

    def absent(self) -> str | None:
        """Return why this trunnel cannot take the road, None if it can."""
        text = _usage()
        choices = re.search(r"--transport\s+([a-z0-9|]+)", text)
        needed = {"quic", "h2"} if self.transport == "auto" else {self.transport}
        if choices is None or not needed <= {*choices[1].split("|")}:
            return f"there is no --transport {self.transport} of {'|'.join(sorted(needed))} yet"
        missing = [flag for flag in self.extra if flag.startswith("--") and flag not in text]
        return f"there is no {missing[0]} yet" if missing else None


@cache
def _usage() -> str:
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "trunnel", "expose", "--help"]
    return run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout


H2 = Road("h2", "h2")
YAMUX = Road("yamux", "yamux")
QUIC = Road("quic", "quic")
AUTO = Road("auto", "auto")
TRANSPORTS = (H2, QUIC, YAMUX)
"""What every row is run with, unless it says else."""
H2_ONE = Road("h2/1", "h2", ("--pool-size", "1"))
YAMUX_ONE = Road("yamux/1", "yamux", ("--pool-size", "1"))
H2_TWO = Road("h2/2", "h2", ("--pool-size", "2"))
H2_FOUR = Road("h2/4", "h2", ("--pool-size", "4"))
YAMUX_TWO = Road("yamux/2", "yamux", ("--pool-size", "2"))
YAMUX_FOUR = Road("yamux/4", "yamux", ("--pool-size", "4"))
