"""HOST-07: certificates of ninety seconds, renewed under visitors; and what a person hears when that fails.

The authority is `pebble` with validation, bad nonces and random waits on.  The
relay has a certificate for its own name, an agent one for its own, and both
are visited several times a second, always by a new handshake that trusts the
authority's root alone: one that is self-signed, has ended, or is for another
name is a failure.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio
from cryptography import x509

from scripts.rows.lab import WAIT, Agent, Lab, Program, free_port, laboratory
from scripts.rows.registry import PACE, Outcome, row
from tests.acme.pebble import Pebble, pebble

OWN = "relay.example"
SUFFIX = "t.example"
LIFE = 90
"""Seconds of a certificate."""
DUE = 2 / 3
"""Share of its life after which its successor is there."""
PLENTY = "10000"
"""Certificates of a week that the relay permits: else it stops its agent after the fifth for one name."""
FULL, QUICK = 1800.0, 120.0
"""Seconds under visitors."""
PAUSE = 0.2
"""Seconds between two visits of one name."""
BEFORE_THE_END = 3.0
"""Seconds before a certificate's end at which it is visited for the last time."""


@dataclass
class Visitor:
    """Whoever visits one name by a new handshake each time, and keeps what was shown."""

    lab: Lab
    hostname: str
    context: ssl.SSLContext
    handshakes: int = 0
    failures: Counter[str] = field(default_factory=Counter[str])
    """By reason."""
    shown: list[x509.Certificate] = field(default_factory=list)
    """Each once, in their order."""

    async def run(self) -> None:
        """Visit for ever."""
        while True:
            try:
                with trio.fail_after(WAIT):
                    self._take(await self._shake_hands())
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                self.failures[str(exc.__cause__ or exc)] += 1
            self.handshakes += 1
            await trio.sleep(PAUSE)

    @property
    def late(self) -> float:
        """The longest time from a certificate's begin to its successor's, as a share of its life."""
        pairs = zip(self.shown, self.shown[1:], strict=False)
        return max(((_begin(new) - _begin(old)).total_seconds() / LIFE for old, new in pairs), default=float("inf"))

    async def _shake_hands(self) -> x509.Certificate:
        raw = await self.lab.connect()
        tls = trio.SSLStream(raw, self.context, server_hostname=self.hostname, https_compatible=True)
        async with raw:
            await tls.do_handshake()
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))

    def _take(self, certificate: x509.Certificate) -> None:
        if not self.shown or self.shown[-1] != certificate:
            self.shown.append(certificate)


def _begin(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_before_utc


@dataclass
class Stage:
    """A relay and an agent with an authority's certificates, visited."""

    lab: Lab
    agent: Agent
    visitors: tuple[Visitor, Visitor]
    """Of the relay's own name, and of the agent's."""
    programs: tuple[Program, Program]

    @property
    def handshakes(self) -> int:
        """All so far."""
        return sum(visitor.handshakes for visitor in self.visitors)

    @property
    def failures(self) -> Counter[str]:
        """All so far, by reason."""
        return self.visitors[0].failures + self.visitors[1].failures


@asynccontextmanager
async def open_stage(lab: Lab, authority: Pebble, port: int) -> AsyncIterator[Stage]:
    """Start relay and agent; yields once both have a certificate, with visitors."""
    asking = ("--acme-directory", authority.directory, "--acme-ca", str(authority.ca))
    root = lab.folder / "root.pem"
    root.write_bytes(await authority.root())
    context = ssl.create_default_context(cafile=root)
    flags = ("--port", str(port), "--domain-suffix", SUFFIX, "--acme-domain", OWN, "--issuances-per-week", PLENTY)
    await lab.start_relay(*flags, *asking)
    agent = await lab.start_agent(await lab.start_origin(), *asking)
    for program in (lab.relay, agent.program):
        await program.event("certificate", state="issued")
    visitors = Visitor(lab, OWN, context), Visitor(lab, agent.hostname, context)
    async with trio.open_nursery() as nursery:
        for visitor in visitors:
            nursery.start_soon(visitor.run)
        yield Stage(lab, agent, visitors, (lab.relay, agent.program))
        nursery.cancel_scope.cancel()


async def run_authority(port: int, gone: trio.Event, *, task_status: trio.TaskStatus[Pebble]) -> None:
    """Run pebble until *gone* is set."""
    async with pebble(challenge_port=port, validity=LIFE) as authority:
        task_status.started(authority)
        await gone.wait()


async def without_authority(stage: Stage) -> list[float]:
    """Wait for both alarms, and nearly for the end; returns what share of each life was left at its alarm."""
    left: list[float] = []
    for program, visitor in zip(stage.programs, stage.visitors, strict=True):
        with trio.fail_after(LIFE):
            while not program.count("alarm"):  # noqa: ASYNC110 - it takes longer than `event` waits
                await trio.sleep(PAUSE)
        alarm = await program.event("alarm", code="certificate-expiring")
        end = visitor.shown[-1].not_valid_after_utc
        left.append((end - datetime.fromisoformat(str(alarm["time"]))).total_seconds() / LIFE)
    first_end = min(visitor.shown[-1].not_valid_after_utc for visitor in stage.visitors)
    await trio.sleep((first_end - datetime.now(UTC)).total_seconds() - BEFORE_THE_END)
    return left


@row(
    "HOST-07",
    limit=f"certificates of {LIFE} s, visited {1 / PAUSE:.0f} times a second each: 0 failed handshakes, each followed "
    "by the next at ≤ 2/3 of its life; without the authority an alarm at 1/3 left, and what works stays",
    timeout=FULL + 10 * LIFE,
)
async def renewals() -> Outcome:
    """Visit while certificates are renewed; then take the authority away."""
    seconds = PACE.either(FULL, QUICK)
    port, gone = free_port(), trio.Event()
    async with laboratory() as lab, trio.open_nursery() as nursery:
        authority = await nursery.start(run_authority, port, gone)
        async with open_stage(lab, authority, port) as stage:
            await trio.sleep(seconds)
            visits, failures = stage.handshakes, stage.failures
            late = max(visitor.late for visitor in stage.visitors)
            renewed = sum(len(visitor.shown) - 1 for visitor in stage.visitors)
            early = sum(program.count("alarm") for program in stage.programs)
            gone.set()
            left = await without_authority(stage)
            stayed = stage.handshakes - visits
            failures_without = stage.failures - failures
    least = 2 * int(seconds / LIFE)
    passed = not failures and not failures_without and late <= DUE and renewed >= least and not early
    passed = passed and all(0.2 < share <= 1 / 3 for share in left)
    alarms = ", ".join(f"{share:.2f}" for share in left)
    return Outcome(
        passed=passed,
        figure=f"{seconds / 60:.0f} min: {visits} handshakes, failed {dict(failures) or 0}, {renewed} renewals, "
        f"done at ≤ {late:.3f} of life, {early} alarms; without authority: alarms with {alarms} of life left, "
        f"{stayed} more handshakes, failed {dict(failures_without) or 0}",
    )
