"""A keeper of one certificate whose authority is by script: step by step, at moments of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.acme.client import RenewalWindow
from trunnel.acme.keeper import CertificateKeeper, Grant, Wanted
from trunnel.agent.challenges import Challenges
from trunnel.events import Certificate, Event
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname
from trunnel.settings.acme import AcmeSettings

NAMES = (Hostname("a.t.example.com"), Hostname("b.t.example.com"))
BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
LIFE = timedelta(days=90)


@dataclass
class Authority:
    """Issues certificates of ninety days, unless it is told to fail."""

    now: datetime = BEGIN
    failure: Exception | None = None
    window: RenewalWindow | None = None
    orders: int = 0
    sorts: bool = False
    """Whether names come back in their own order."""
    replaced: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, settings: AcmeSettings, **options: object) -> AsyncIterator[Authority]:
        """Be the client."""
        del settings, options
        await trio.lowlevel.checkpoint()
        yield self

    async def obtain(
        self,
        names: Sequence[Hostname],
        key: ec.EllipticCurvePrivateKey,
        responder: object,
        *,
        replaces: x509.Certificate | None,
    ) -> tuple[x509.Certificate, ...]:
        """Issue one."""
        del responder
        await trio.lowlevel.checkpoint()
        self.orders += 1
        if self.failure is not None:
            raise self.failure
        if replaces is not None:
            self.replaced.append(replaces.serial_number)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
        ordered = sorted(names) if self.sorts else names
        san = x509.SubjectAlternativeName([x509.DNSName(name.value) for name in ordered])
        builder = (
            x509.CertificateBuilder(subject_name=x509.Name([]), issuer_name=issuer, public_key=key.public_key())
            .serial_number(self.orders)
            .not_valid_before(self.now)
            .not_valid_after(self.now + LIFE)
            .add_extension(san, critical=True)
        )
        return (builder.sign(key, hashes.SHA256()),)

    async def renewal_window(self, certificate: x509.Certificate) -> RenewalWindow | None:
        """Say what it would like."""
        del certificate
        await trio.lowlevel.checkpoint()
        return self.window


@dataclass
class Kept:
    """A keeper, and what it has shown and told."""

    authority: Authority
    folder: Path
    names: tuple[Hostname, ...] = NAMES
    grant: Grant = field(default_factory=Grant)
    shown: list[Leaf] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = IssuedStore(self.folder)
        self.now: Callable[[], datetime] = lambda: self.authority.now
        self.keeper = self.again()

    def again(self) -> CertificateKeeper:
        """Return a keeper as after a restart."""
        wanted = Wanted(
            names=self.names,
            settings=AcmeSettings(directory="https://ca/dir", creds_path=self.folder),
            store=self.store,
            key=lambda: ec.generate_private_key(ec.SECP256R1()),
            responder=Challenges(),
            show=self.shown.append,
            permit=self._permit,
        )
        return CertificateKeeper(wanted, on_event=self.events.append, now=self.time)

    def time(self) -> datetime:
        """Be the keeper's clock."""
        return self.now()

    async def _permit(self, names: Sequence[Hostname], renewal: bool) -> Grant:
        await trio.lowlevel.checkpoint()
        assert tuple(names) == self.names
        assert renewal == bool(self.shown)
        return self.grant

    async def step(self) -> float:
        """Have it do what is due, as after a pause: the time of day stands still meanwhile."""
        self.keeper._not_before = self.keeper._store_at = 0.0
        return await self.keeper._step()

    @property
    def states(self) -> list[str]:
        """What was told of the certificate."""
        return [event.state for event in self.events if isinstance(event, Certificate)]
