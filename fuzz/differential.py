"""FUZZ-02: ClientHellos judged by us and by OpenSSL; they may not disagree about the name.

A *disagreement* is any of:

* we route to X, and the server sees a Y that is not X, or none;
* we route, and the server refuses for reasons of SNI, extensions or lengths
  (or still waits for bytes);
* we say "no name" or "not a host name", and the server sees a host name.

Being stricter than the server is no disagreement; how often that happens is
counted, by our reason, so that it can be looked at.

`python -m fuzz.differential --mutations 30000` prints the counts, and exits 1 on
a disagreement.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, final

from fuzz.clienthello_mutations import mutate
from fuzz.clienthello_oracle import NOT_STRUCTURAL, Oracle, PyOpenSSLOracle, Sighting, StdlibOracle, quiet_callbacks
from tests.corpus import recorded_hellos
from tests.wire import hello_builder as build
from tests.wire.hello_builder import Hello
from trunnel.errors import RemoteProtocolError
from trunnel.names import Hostname, parse_hostname_untrusted
from trunnel.wire.clienthello import ClientHelloParser, Verdict

KEPT: Final = 20
"""Disagreements that a report keeps; the rest are counted."""
SHARD: Final = 10_000
"""Mutations that share one stream of random numbers: the unit that is spread over processes."""
ORACLES: Final[dict[str, type[StdlibOracle | PyOpenSSLOracle]]] = {
    "stdlib": StdlibOracle,
    "pyopenssl": PyOpenSSLOracle,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One stream that was judged differently."""

    stream: bytes
    why: str


@final
@dataclass(slots=True, kw_only=True)
class DifferentialReport:
    """Counts of one run."""

    judged: int = 0
    verdicts: Counter[str] = field(default_factory=Counter[str])
    tolerated: Counter[str] = field(default_factory=Counter[str])
    """Routed by us, refused by the server for a reason that is not about structure."""
    stricter: Counter[str] = field(default_factory=Counter[str])
    """Refused by us, accepted by the server; by our reason."""
    disagreements: int = 0
    examples: list[Disagreement] = field(default_factory=list[Disagreement])

    def add(self, other: DifferentialReport) -> None:
        """Add the counts of another run."""
        self.judged += other.judged
        self.verdicts += other.verdicts
        self.tolerated += other.tolerated
        self.stricter += other.stricter
        self.disagreements += other.disagreements
        self.examples = (self.examples + other.examples)[:KEPT]

    def judge(self, stream: bytes, oracle: Oracle) -> str | None:
        """Judge *stream* on both sides, count it, and return what they disagree about."""
        parser = ClientHelloParser()
        verdict = parser.feed_untrusted(stream)
        sighting = oracle.judge(stream)
        self.judged += 1
        self.verdicts[verdict] += 1
        why = _disagreement(parser, sighting)
        if why is not None:
            self.disagreements += 1
            if len(self.examples) < KEPT:
                self.examples.append(Disagreement(stream=stream, why=why))
        elif verdict is Verdict.ROUTE and not sighting.accepted:
            self.tolerated[sighting.reason] += 1
        elif parser.hello is None and sighting.accepted:
            self.stricter[parser.reason] += 1
        return why


def _disagreement(parser: ClientHelloParser, sighting: Sighting) -> str | None:
    """Return what the parser and the server disagree about, or None."""
    if parser.hello is None:
        return None
    ours = parser.hello.server_name
    if sighting.accepted:
        theirs = _hostname(sighting.name)
        return None if ours == theirs else f"we see {ours}, the server {sighting.name!r}"
    if parser.verdict is Verdict.ROUTE and sighting.reason not in NOT_STRUCTURAL:
        return f"we route to {ours}, the server refuses: {sighting.reason}"
    return None


def _hostname(name: bytes | None) -> Hostname | None:
    try:
        return None if name is None else parse_hostname_untrusted(name)
    except RemoteProtocolError:
        return None


def seeds() -> list[bytes]:
    """Return the hellos that mutations start from: built ones, and every recorded one at hand."""
    plain = Hello()
    built = [
        plain,
        plain.with_name(None),
        Hello(legacy_version=0x0301, extensions=(build.sni(build.NAME), (build.SESSION_TICKET, b""))),
        plain.adding(
            (build.STATUS_REQUEST, b"\x01\x00\x00\x00\x00"),
            (build.EXTENDED_MASTER_SECRET, b""),
            (build.EC_POINT_FORMATS, b"\x01\x00"),
            (build.RENEGOTIATION_INFO, b"\x00"),
            (build.POST_HANDSHAKE_AUTH, b""),
            (build.PSK_KEY_EXCHANGE_MODES, b"\x01\x01"),
            (build.EARLY_DATA, b""),
            build.pre_shared_keys(b"ticket"),
        ),
    ]
    return [hello.stream() for hello in built] + recorded_hellos()


def run_shard(shard: tuple[int, int], *, oracle: str) -> DifferentialReport:
    """Judge some mutations; *shard* is their random seed and their number."""
    seed, mutations = shard
    rng = Random(seed)  # noqa: S311 - reproducible on purpose
    start = seeds()
    report = DifferentialReport()
    server = ORACLES[oracle]()
    with quiet_callbacks():
        for _ in range(mutations):
            report.judge(mutate(rng.choice(start), rng), server)
    return report


def run(mutations: int, seed: int, *, oracle: str = "stdlib", processes: int = 1) -> DifferentialReport:
    """Judge every seed as it is, and *mutations* mutations of them.

    Args:
        mutations: Number of mutated streams, >= 0.
        seed: The same seed makes the same streams, whatever *processes* is.
        oracle: A key of `ORACLES`.
        processes: How many processes share the work.
    """
    report = DifferentialReport()
    server = ORACLES[oracle]()
    with quiet_callbacks():
        for stream in seeds():
            report.judge(stream, server)
    work = partial(run_shard, oracle=oracle)
    shards = list(_shards(mutations, seed))
    if processes == 1:
        for part in map(work, shards):
            report.add(part)
        return report
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(work, shards):
            report.add(part)
    return report


def _shards(mutations: int, seed: int) -> Iterator[tuple[int, int]]:
    for number, start in enumerate(range(0, mutations, SHARD)):
        yield seed * 1_000_003 + number, min(SHARD, mutations - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzz.differential", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--oracle", choices=sorted(ORACLES), default="stdlib")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    report = run(options.mutations, options.seed, oracle=options.oracle, processes=options.processes)
    seconds = time.perf_counter() - begin
    print(
        f"judged {report.judged} hellos in {seconds:.1f} s ({report.judged / seconds:,.0f}/s), oracle {options.oracle}"
    )
    for title, counts in (
        ("our verdicts", report.verdicts),
        ("routed, but refused for other reasons than structure", report.tolerated),
        ("we are stricter", report.stricter),
    ):
        print(f"{title}:")
        for what, count in counts.most_common():
            print(f"  {count:8} {what}")
    print(f"disagreements: {report.disagreements}")
    for example in report.examples:
        print(f"  {example.why}\n    {example.stream.hex()}")
    return 1 if report.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
