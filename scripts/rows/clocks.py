"""HOST-06: a clock that is set by an hour or ten years, under visitors and at a start.

Relay and agents run under `libfaketime`, each with a time of day that is read
from a file; nothing else is faked, as by somebody who sets the clock.  Visitors
look at keys and names, not at periods: it is not their clock that is wrong.
The agent has a certificate from an authority (`pebble`, whose certificates last
five years), and one of its own below it.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from scripts.rows.lab import WAIT, Lab, Program, free_port, laboratory
from scripts.rows.registry import Outcome, row
from tests.acme.pebble import Pebble, pebble

HOUR, DECADE = 3600, 3650 * 86_400
STEPS = (HOUR, -HOUR, DECADE, -DECADE)
"""Seconds by which the clock is wrong, one after the other; between them it is right."""
SUFFIX = "t.example"
PAUSE = 0.2
LOOK = 75.0
"""Seconds within which a keeper sees that the clock was set."""
SETTLE = 12.0
"""Seconds within which an agent does."""
ALONE = ("--transport", "h2")
"""Two transports that race wait for one lock; that sleep, which is until a moment, is what libfaketime breaks."""
CLEAR = "set the clock"
"""What a person is told, after both times."""


@dataclass
class Clock:
    """The time of day of one program."""

    path: Path
    preload: str
    """The library that fakes it."""

    def set(self, wrong: int) -> None:
        """Make it wrong by so many seconds."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{wrong:+d}\n")
        fresh.replace(self.path)

    def command(self, *words: str) -> list[str]:
        """Return what starts `trunnel` with this clock."""
        faked = {
            "LD_PRELOAD": self.preload,
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        variables = [f"{name}={value}" for name, value in faked.items()]
        return ["env", *variables, sys.executable, "-m", "trunnel", *words, "--json"]


def new_clock(lab: Lab, label: str, wrong: int = 0) -> Clock:
    """Make a clock."""
    script = ["faketime", "-m", "now", "sh", "-c", 'printf %s "$LD_PRELOAD"']
    preload = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    clock = Clock(lab.folder / f"{label}.time", preload)
    clock.set(wrong)
    return clock


@dataclass
class Passer:
    """Whoever visits by a new handshake each time, and looks whose key is shown."""

    lab: Lab
    hostname: str
    keys: set[bytes] = field(default_factory=set[bytes])
    """Keys that the agent has had so far."""
    handshakes: int = 0
    failures: Counter[str] = field(default_factory=Counter[str])

    async def run(self) -> None:
        """Visit for ever."""
        while True:
            try:
                with trio.fail_after(WAIT):
                    shown = await self.shake_hands()
                names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                if self.hostname not in names.get_values_for_type(x509.DNSName):
                    self.failures["another name"] += 1
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                self.failures[str(exc.__cause__ or exc)] += 1
            self.handshakes += 1
            await trio.sleep(PAUSE)

    async def shake_hands(self) -> x509.Certificate:
        """Visit once; returns what is shown."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = await self.lab.connect()
        async with raw:
            tls = trio.SSLStream(raw, context, server_hostname=self.hostname, https_compatible=True)
            await tls.do_handshake()
            shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.keys.add(shown.public_key().public_bytes(serialization.Encoding.DER, form))
        return shown


async def while_running(agent: Program, clocks: tuple[Clock, Clock]) -> list[str]:
    """Set both clocks, again and again; returns what was not told clearly."""
    unclear: list[str] = []
    for wrong in STEPS:
        before = len(agent.events)
        for clock in clocks:
            clock.set(wrong)
        await trio.sleep(SETTLE)
        if abs(wrong) == DECADE:
            with trio.move_on_after(LOOK) as looking:
                while not any(CLEAR in str(event.get("text")) for event in agent.events[before:]):  # noqa: ASYNC110
                    await trio.sleep(1)
            if looking.cancelled_caught:
                unclear.append(f"{wrong:+d} s while it runs")
        for clock in clocks:
            clock.set(0)
        await trio.sleep(SETTLE)
    return unclear


async def at_the_start(lab: Lab, authority: Pebble, origin: int) -> tuple[int, list[str]]:
    """Start agents with wrong clocks; returns how many serve, and what became of the others."""
    served, others = 0, list[str]()
    for number, wrong in enumerate(STEPS):
        clock = new_clock(lab, f"late{number}", wrong)
        state = ("--state-dir", str(lab.folder / f"late{number}"))
        words = ("expose", str(origin), "--server", f"127.0.0.1:{lab.agents_port}", *ALONE, *state)
        asking = ("--acme-directory", authority.directory, "--acme-ca", str(authority.ca))
        program = lab.start(clock.command(*words, *asking))
        try:
            hostname = str((await program.event("ready"))["hostname"])
            served += bool(await Passer(lab, hostname).shake_hands())
            told = await program.event("certificate")
        except (trio.TooSlowError, OSError, trio.BrokenResourceError) as exc:
            others.append(f"{wrong:+d} s: {program.process.poll()}, {exc!r}, {program.events[-1:]}")
        else:
            others += [] if told["state"] != "failed" or "certificate" in str(told["reason"]) else [str(told)]
        await program.stop()
    return served, others


@row(
    "HOST-06",
    limit=f"clocks of relay and agent set by ±1 h and ±10 years under visitors, and wrong at a start: 0 failed visits, "
    f"0 sessions lost, nobody ends, each certificate out of its period told ≤ {LOOK:.0f} s with both times",
    timeout=len(STEPS) * (2 * SETTLE + LOOK) + 6 * WAIT,
)
async def clocks() -> Outcome:
    """Set the clocks, then start others with wrong ones."""
    if shutil.which("faketime") is None:
        return Outcome(passed=True, figure="not run: needs faketime")
    port = free_port()
    async with laboratory() as lab, pebble(challenge_port=port) as authority:
        of_relay, of_agent = new_clock(lab, "relay"), new_clock(lab, "agent")
        flags = ("--port", str(port), "--domain-suffix", SUFFIX, "--state-dir", str(lab.folder / "relay"))
        relay = lab.start(of_relay.command("serve", *flags))
        await relay.event("listening")
        lab.visitors_port = lab.agents_port = port
        origin = await lab.start_origin()
        asking = ("--acme-directory", authority.directory, "--acme-ca", str(authority.ca))
        where = ("--server", f"127.0.0.1:{port}", *ALONE, "--state-dir", str(lab.folder / "agent"))
        agent = lab.start(of_agent.command("expose", str(origin), *where, *asking))
        hostname = str((await agent.event("ready"))["hostname"])
        await agent.event("certificate", state="issued")
        async with trio.open_nursery() as nursery:
            passer = Passer(lab, hostname)
            nursery.start_soon(passer.run)
            unclear = await while_running(agent, (of_relay, of_agent))
            nursery.cancel_scope.cancel()
        lost, orders = relay.count("session_closed"), sum(event.get("state") == "issued" for event in agent.events)
        served, others = await at_the_start(lab, authority, origin)
        ended = [program.process.poll() for program in (relay, agent)]
        traces = (lab.folder / "log").read_text().count("Traceback")
    passed = not passer.failures and not unclear and not lost and ended == [None, None] and not traces
    passed = passed and served == len(STEPS) and not others
    return Outcome(
        passed=passed,
        figure=f"{passer.handshakes} handshakes, failed {dict(passer.failures) or 0}, {len(passer.keys)} keys shown, "
        f"{lost} sessions lost, {orders} certificates ordered, not told {unclear or 0}; {served} of {len(STEPS)} "
        f"started with a wrong clock serve, others {others or 0}; exits {ended}, tracebacks {traces}",
    )
