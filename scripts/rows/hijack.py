"""SEC-16: an agent that wants certificates for another's names is sent none of their challenges.

The relay is a real process, the authority is `pebble` with validation on.  A
and B are agents with keys of their own; DNS says what the phase says.  Each
try is a challenge for a name of A's (or of the relay's) while B does what it
can to have it; "reached B" is counted at B.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.rows.lab import Lab, free_port, laboratory
from scripts.rows.registry import PACE, Outcome, row
from scripts.rows.rivals import Rival, knock
from tests.acme.pebble import Pebble, pebble
from tests.relay.dnsserver import DnsServer, dns_server
from trunnel.acme.client import open_client
from trunnel.errors import AcmeError, Rejected
from trunnel.names import Hostname
from trunnel.relay.authorized import authorize, revoke
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

SUFFIX = "t.example"
OF_THE_RELAY = (Hostname("relay.example"), Hostname(SUFFIX))
WANTED = Hostname("www.a.example")
PAUSE = limits.CHALLENGE_PROOF_REUSED + 0.2
"""Seconds after which a proof is not used any more."""
AT_ONCE = 4
"""Challenges of one name at a time, each from an address of its own: what the relay takes is not what is tried here."""
ORDER_TIMEOUT = 60.0
"""Seconds for one order, which fails."""


@dataclass
class Duel:
    """Everything that the phases need, and what they count."""

    lab: Lab
    dns: DnsServer
    authority: Pebble
    owner: Rival
    thief: Rival
    tries: int = 0
    orders: int = 0
    issued: list[str] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    """By phase, connections that reached the thief."""

    @property
    def given(self) -> tuple[Hostname, ...]:
        """The names that the operator has given to the owner."""
        return Hostname(f"{self.owner.key_id}.{SUFFIX}"), Hostname(f"shop.{SUFFIX}")

    def lead(self, name: Hostname, to: Rival) -> None:
        """Let DNS name an agent, by one record or by the other."""
        self.dns.forget(name.value)
        if len(name.value) % 2:
            self.dns.lead(name.value, f"{to.key_id}.{SUFFIX}")
        else:
            self.dns.note(name.value, to.key_id.value)

    async def knock(self, names: Iterable[Hostname], count: int) -> int:
        """Send *count* challenges for each name; returns how many handshakes came about."""
        shaken = 0

        async def several(name: Hostname, place: int) -> None:
            nonlocal shaken
            for _ in range(place, count, AT_ONCE):
                with suppress(OSError):
                    shaken += await knock(self.lab, name, source=f"127.0.5.{place + 1}")
                self.tries += 1

        async with trio.open_nursery() as nursery:
            for name in names:
                for place in range(AT_ONCE):
                    nursery.start_soon(several, name, place)
        return shaken

    @asynccontextmanager
    async def phase(self, label: str, *names: Hostname) -> AsyncIterator[None]:
        """Count what reaches the thief for *names* in the body."""
        before = self.thief.came_for(*names)
        yield
        self.reached[label] = self.reached.get(label, 0) + self.thief.came_for(*names) - before

    async def order(self, *names: Hostname) -> None:
        """Let the thief order a certificate for each of *names*, one after the other."""
        settings = AcmeSettings(
            directory=self.authority.directory, creds_path=self.thief.folder / "acme", ca=self.authority.ca
        )
        for name in names:
            self.orders += 1
            self.tries += 1
            with suppress(AcmeError):
                async with open_client(settings) as client:
                    key = ec.generate_private_key(ec.SECP256R1())
                    await client.obtain([name], key, self.thief, timeout=ORDER_TIMEOUT)
                    self.issued.append(name.value)


# --- phases ------------------------------------------------------------------------------------------


async def while_the_owner_is_there(duel: Duel) -> None:
    """The thief asks for every name that is not its own, again and again."""
    names = (WANTED, *duel.given, *OF_THE_RELAY)
    duel.lead(WANTED, duel.owner)
    async with duel.owner.attached(WANTED) as voice, duel.phase("owner there", *names):
        await voice.decided(WANTED, has=True)
        before = duel.owner.came_for(*names)
        async with trio.open_nursery() as nursery:

            async def come_and_go() -> None:
                while True:
                    async with duel.thief.attached(*names) as thief:
                        await thief.decided(*names, has=False)

            nursery.start_soon(come_and_go)
            await duel.knock(names, PACE.either(100, 20))
            nursery.cancel_scope.cancel()
        came, sent = duel.owner.came_for(*names) - before, 3 * PACE.either(100, 20)
        if came < sent:
            raise AssertionError(f"of the owner's own {sent} challenges {came} reached it")
        async with duel.thief.attached(*names):
            await duel.order(*names * PACE.either(4, 1))


async def while_the_owner_comes_and_goes(duel: Duel) -> None:
    """Challenges at the moments in which nobody has the names."""
    names = (WANTED, *duel.given)
    async with duel.thief.attached(*names), duel.phase("owner comes and goes", *names), trio.open_nursery() as nursery:

        async def come_and_go() -> None:
            while True:
                async with duel.owner.attached(WANTED) as voice:
                    await voice.decided(WANTED, has=True)

        nursery.start_soon(come_and_go)
        await duel.knock(names, PACE.either(80, 10))
        await duel.order(*names * PACE.either(4, 1))
        nursery.cancel_scope.cancel()


async def after_the_record_was_changed(duel: Duel, label: str, names: tuple[Hostname, ...], *, transfer: bool) -> None:
    """The thief was named once, rightly, and is still routed; now DNS names the owner, or nobody."""
    for name in names:
        duel.lead(name, duel.thief)
    async with duel.thief.attached(*names) as voice:
        await voice.decided(*names, has=True)
        if not await gets_its_own(duel, names[0]):
            raise AssertionError("the thief gets nothing that is its own either: the row proves nothing")
        for name in names:
            duel.dns.forget(name.value)
            if transfer:
                duel.lead(name, duel.owner)
        await trio.sleep(PAUSE)
        async with duel.phase(label, *names), trio.open_nursery() as nursery:
            if transfer:
                nursery.start_soon(stay, duel.owner, names)
            await duel.knock(names, PACE.either(20, 4))
            await duel.order(*names[: PACE.either(8, 1)])
            nursery.cancel_scope.cancel()


async def gets_its_own(duel: Duel, name: Hostname) -> bool:
    """Whether the thief gets a certificate for *name*, of which it is the owner now; counts for nothing."""
    before, tries, orders = duel.thief.came_for(name), duel.tries, duel.orders
    await duel.order(name)
    duel.tries, duel.orders = tries, orders
    if name.value not in duel.issued:
        return False
    duel.issued.remove(name.value)
    return duel.thief.came_for(name) > before


async def stay(rival: Rival, names: tuple[Hostname, ...]) -> None:
    """Be attached until cancelled."""
    async with rival.attached(*names):
        await trio.sleep_forever()


async def after_the_owner_was_revoked(duel: Duel) -> None:
    """Its records dangle: DNS still leads its names to an id that the relay lets in no more."""
    names = (WANTED, *duel.given)
    try:
        async with duel.owner.attached(WANTED) as owner:
            await owner.decided(WANTED, has=True)
            revoke(duel.lab.folder / "agents", duel.owner.key_id)
            await trio.sleep_forever()
    except* Rejected:
        pass
    async with duel.thief.attached(*names) as voice, duel.phase("owner revoked", *names):
        await voice.decided(*names, has=False)
        await duel.knock(names, PACE.either(50, 10))
        await duel.order(*names * PACE.either(3, 1))


# --- the row -----------------------------------------------------------------------------------------


@asynccontextmanager
async def arena() -> AsyncIterator[Duel]:
    """A relay under a suffix, an authority that validates through it, and two agents' keys."""
    port = free_port()
    async with laboratory() as lab, dns_server() as dns, pebble(challenge_port=port, sleep=False) as authority:
        owner, thief = Rival(lab, "owner"), Rival(lab, "thief")
        authorize(lab.folder / "agents", owner.key_id, names=[Hostname("shop")])
        authorize(lab.folder / "agents", thief.key_id)
        await lab.start_relay(
            *("--port", str(port), "--bind-addr", "127.0.0.1", "--domain-suffix", SUFFIX),
            *("--authorized-agents", str(lab.folder / "agents"), "--dns-server", str(dns.address)),
            *("--acme-domain", OF_THE_RELAY[0].value, "--acme-directory", authority.directory),
            *("--acme-ca", str(authority.ca)),
        )
        yield Duel(lab, dns, authority, owner, thief)


@row(
    "SEC-16",
    limit="≥ 1,000 tries, ≥ 50 of them whole orders: 0 challenges reach the other agent, 0 certificates",
    timeout=600.0,
)
async def hijack() -> Outcome:
    """B wants certificates for A's names: by claims, races, changed and dangling records, and the relay's names."""
    if not shutil.which("pebble"):
        return Outcome(passed=False, figure="pebble is not installed")
    async with arena() as duel:
        await while_the_owner_is_there(duel)
        await while_the_owner_comes_and_goes(duel)
        removed = tuple(Hostname(f"r{'x' * number}.a.example") for number in range(8))
        moved = tuple(Hostname(f"m{'x' * number}.a.example") for number in range(8))
        await after_the_record_was_changed(duel, "record removed", removed, transfer=False)
        await after_the_record_was_changed(duel, "record moved", moved, transfer=True)
        await after_the_owner_was_revoked(duel)
        reached = sum(duel.reached.values())
        figure = (
            f"{duel.tries} tries ({', '.join(duel.reached)}), {duel.orders} of them whole orders: "
            f"{reached} challenges reached it, {len(duel.issued)} certificates"
        )
        enough = duel.tries >= PACE.either(1_000, 100) and duel.orders >= PACE.either(50, 10)
        return Outcome(enough and not reached and not duel.issued, figure)
