"""HOST-05: a disk that is full, under visitors.

State folders and logs of relay and agent lie on a tmpfs of 1 MiB, in a mount
namespace of their own (root only).  It is filled to the last byte before both
certificates, of two minutes, are renewed.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import trio
from cryptography import x509

from scripts.rows.certificates import OWN, SUFFIX, Visitor
from scripts.rows.lab import WAIT, Lab, Program, free_port, laboratory
from scripts.rows.registry import Outcome, row
from tests.acme.pebble import pebble
from trunnel.identity.keys import IdentityKey
from trunnel.identity.leaf import Leaf
from trunnel.identity.pempair import parse_pem_pair

LIFE = 120
"""Seconds of a certificate in HOST-05."""
WATCHED = LIFE + 10
"""Seconds for which the disk is full: each certificate is renewed, and told of twice."""
MINUTE = 60.0
MARGIN = 2.0
"""Seconds by which two lines of a minute's distance may be closer: stamps are of their making, not of the wait."""
BLOCK = 4_096
RECOVERY = 75.0
"""Seconds within which a certificate is stored once there is room: a minute, and the time to write."""


@dataclass
class Disk:
    """A tmpfs of 1 MiB that only programs started here see under its own path."""

    holder: int
    """Process whose namespace it is in."""
    path: Path

    @property
    def seen(self) -> Path:
        """Where it is for the rest of the machine."""
        return Path("/proc", str(self.holder), "root", *self.path.parts[1:])

    def command(self, name: str, *words: str) -> list[str]:
        """Return what starts `trunnel` with its log on the disk."""
        log = self.path / f"{name}.log"
        inside = ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "sh", "-c", f'exec "$@" 2>>"{log}"', "sh"]
        return [*inside, sys.executable, "-m", "trunnel", *words, "--json"]

    def fill(self) -> None:
        """Leave not one byte."""
        with (self.seen / "ballast").open("wb", buffering=0) as ballast:
            for size in (BLOCK, 1):
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        """Take the ballast away."""
        (self.seen / "ballast").unlink()

    def broken(self) -> list[str]:
        """Return the keys and certificates on it that cannot be read whole."""
        wrong: list[str] = []
        for path in self.seen.rglob("*"):
            try:
                if path.name.endswith(".issued.pem"):
                    _read(path)
                elif path.suffix == ".key":
                    IdentityKey.load(path)
                elif path.suffix == ".json":
                    json.loads(path.read_bytes())
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
                wrong.append(f"{path.name}: {exc}")
        return wrong

    def stored(self) -> dict[str, x509.Certificate]:
        """Return the issued certificates on it, by host name."""
        found = self.seen.rglob("*.issued.pem")
        return {path.name.removesuffix(".issued.pem"): _read(path).chain[0] for path in found}


def _read(path: Path) -> Leaf:
    pem = path.read_bytes()
    return parse_pem_pair(pem, pem, cert=path, key=path)


@asynccontextmanager
async def open_disk(lab: Lab) -> AsyncIterator[Disk]:
    """Mount the tmpfs in a namespace of its own, which ends with the lab."""
    path = lab.folder / "disk"
    path.mkdir()
    script = (
        'mount -t tmpfs -o size=1m,mode=700 tmpfs "$1" && echo "{\\"event\\": \\"mounted\\"}" && exec sleep infinity'
    )
    holder = lab.start(["unshare", "--mount", "sh", "-c", script, "sh", str(path)])
    await holder.event("mounted")
    yield Disk(holder.pid, path)


def closest(program: Program, kind: str, **fields: object) -> float:
    """Return the seconds between the closest two events of a kind."""
    fitting = [
        datetime.fromisoformat(str(event["time"]))
        for event in program.events
        if event["event"] == kind and all(event.get(name) == value for name, value in fields.items())
    ]
    return min(((later - earlier).total_seconds() for earlier, later in pairwise(fitting)), default=float("inf"))


async def until_stored(disk: Disk, visitors: Sequence[Visitor]) -> float:
    """Wait until the certificates that are shown are on the disk; returns the seconds."""
    begun = trio.current_time()
    with trio.move_on_after(RECOVERY):
        while {visitor.hostname: visitor.shown[-1] for visitor in visitors} != disk.stored():  # noqa: ASYNC110 - a file
            await trio.sleep(1)
        return trio.current_time() - begun
    return float("inf")


@row(
    "HOST-05",
    limit=f"1 MiB tmpfs full for {WATCHED} s, certificates of {LIFE} s: 0 failed handshakes, renewed all the same, an "
    f"alarm at most once a minute each, no key or certificate broken; stored ≤ {RECOVERY:.0f} s after there is room",
    timeout=3 * LIFE + 4 * WAIT,
)
async def full_disk() -> Outcome:
    """Fill the disk before the renewals, and make room after them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        return Outcome(passed=True, figure="not run: needs root, unshare, nsenter and mount")
    port = free_port()
    async with laboratory() as lab, pebble(challenge_port=port, validity=LIFE) as authority, open_disk(lab) as disk:
        asking = ("--acme-directory", authority.directory, "--acme-ca", str(authority.ca))
        root = lab.folder / "root.pem"
        root.write_bytes(await authority.root())
        flags = ("--port", str(port), "--domain-suffix", SUFFIX, "--acme-domain", OWN, *asking)
        relay = lab.start(disk.command("relay", "serve", *flags, "--state-dir", str(disk.path / "relay")))
        await relay.event("listening")
        lab.visitors_port = port
        where = ("--server", f"127.0.0.1:{port}", "--state-dir", str(disk.path / "agent"))
        agent = lab.start(disk.command("agent", "expose", str(await lab.start_origin()), *where, *asking))
        hostname = str((await agent.event("ready"))["hostname"])
        for program in (relay, agent):
            await program.event("certificate", state="issued")
        context = ssl.create_default_context(cafile=root)
        visitors = Visitor(lab, OWN, context), Visitor(lab, hostname, context)
        while len(before := disk.stored()) < len(visitors):  # noqa: ASYNC110 - files
            await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            for visitor in visitors:
                nursery.start_soon(visitor.run)
            disk.fill()
            await trio.sleep(WATCHED)
            kept, broken = disk.stored() == before, disk.broken()
            alarms = [program.count("alarm") for program in (relay, agent)]
            renewed = [program.count("certificate") - 1 for program in (relay, agent)]
            disk.make_room()
            recovery = await until_stored(disk, visitors)
            nursery.cancel_scope.cancel()
        apart = min(closest(program, "alarm", code="disk") for program in (relay, agent))
        failures = visitors[0].failures + visitors[1].failures
        handshakes = sum(visitor.handshakes for visitor in visitors)
        broken += disk.broken()
        ended = [program.process.poll() for program in (relay, agent)]
    passed = not failures and kept and not broken and min(renewed) >= 1 and min(alarms) >= 1
    passed = passed and apart >= MINUTE - MARGIN and recovery <= RECOVERY and ended == [None, None]
    return Outcome(
        passed=passed,
        figure=f"{handshakes} handshakes, failed {dict(failures) or 0}; renewals {renewed}, alarms {alarms}, the "
        f"closest {apart:.0f} s apart; what was stored {'stayed' if kept else 'CHANGED'}, broken {broken or 0}; stored "
        f"{recovery:.0f} s after there was room",
    )
