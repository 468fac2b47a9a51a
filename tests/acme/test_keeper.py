"""One certificate, kept: what is in use stays in use, whatever fails.  Step by step, at moments of our own.

The authority is scripted here; a real one is asked in `test_agent_certificates`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.acme import keeper as module
from trunnel.acme.client import RenewalWindow
from trunnel.acme.keeper import CertificateKeeper, Grant, Wanted
from trunnel.agent.challenges import Challenges
from trunnel.errors import AcmeError, ConfigError
from trunnel.events import Alarm, Certificate, Event
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

NAMES = (Hostname("a.t.example.com"), Hostname("b.t.example.com"))
BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
LIFE = timedelta(days=90)


@dataclass
class Authority:
    """Issues certificates of ninety days, unless it is told to fail."""

    now: datetime = BEGIN
    failure: AcmeError | None = None
    window: RenewalWindow | None = None
    orders: int = 0
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
        san = x509.SubjectAlternativeName([x509.DNSName(name.value) for name in names])
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
    grant: Grant = field(default_factory=Grant)
    shown: list[Leaf] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = IssuedStore(self.folder)
        self.keeper = self.again()

    def again(self) -> CertificateKeeper:
        """Return a keeper as after a restart."""
        wanted = Wanted(
            names=NAMES,
            settings=AcmeSettings(directory="https://ca/dir", creds_path=self.folder),
            store=self.store,
            key=lambda: ec.generate_private_key(ec.SECP256R1()),
            responder=Challenges(),
            show=self.shown.append,
            permit=self._permit,
        )
        return CertificateKeeper(wanted, on_event=self.events.append, now=lambda: self.authority.now)

    async def _permit(self, names: Sequence[Hostname], renewal: bool) -> Grant:
        await trio.lowlevel.checkpoint()
        assert tuple(names) == NAMES
        assert renewal == bool(self.shown)
        return self.grant

    async def step(self) -> float:
        """Have it do what is due."""
        return await self.keeper._step()

    @property
    def states(self) -> list[str]:
        """What was told of the certificate."""
        return [event.state for event in self.events if isinstance(event, Certificate)]


@pytest.fixture(name="kept")
def kept_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A keeper that begins with nothing."""
    authority = Authority()
    monkeypatch.setattr(module, "open_client", authority.open)
    return Kept(authority, tmp_path)


async def test_the_first_one_is_ordered_at_once_shown_and_stored(kept: Kept) -> None:
    await kept.step()
    assert kept.states == ["issued"]
    assert kept.shown[-1] == kept.keeper.leaf
    stored = kept.store.load(NAMES)
    assert stored is not None
    assert stored.chain == kept.shown[-1].chain


async def test_a_restart_shows_what_is_stored_and_orders_nothing(kept: Kept) -> None:
    await kept.step()
    restarted = kept.again()
    await restarted._load()
    assert await restarted._step() == limits.RENEW_CHECK_MAX
    assert kept.states == ["issued", "loaded"]
    assert kept.authority.orders == 1


async def test_it_is_renewed_at_two_thirds_and_the_authority_hears_what_is_replaced(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=57)
    await kept.step()
    assert kept.authority.orders == 1
    kept.authority.now = BEGIN + timedelta(days=61)
    await kept.step()
    assert kept.states == ["issued", "renewed"]
    assert kept.authority.replaced == [1]


async def test_the_authority_may_ask_for_an_early_renewal(kept: Kept) -> None:
    """That is how it announces that it is going to revoke (RFC 9773)."""
    await kept.step()
    past = BEGIN - timedelta(days=1)
    kept.authority.window = RenewalWindow(start=past, end=BEGIN, explanation_url=None, retry_after=3600.0)
    kept.authority.now = BEGIN + timedelta(days=1)
    await kept.step()
    assert kept.states == ["issued", "renewed"]


async def test_what_is_in_use_stays_when_the_authority_fails(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=61)
    kept.authority.failure = AcmeError("too many orders", retry_after=7200.0)
    assert await kept.step() == 7200.0
    failed = kept.events[-2]
    assert isinstance(failed, Certificate)
    assert (failed.state, failed.reason, failed.retry_in) == ("failed", "too many orders", 7200.0)
    assert len(kept.shown) == 1
    kept.authority.failure = None
    await kept.step()
    assert kept.states == ["issued", "failed", "renewed"]


async def test_a_third_before_the_end_a_failure_is_an_alarm(kept: Kept) -> None:
    await kept.step()
    kept.authority.failure = AcmeError("down")
    kept.authority.now = BEGIN + timedelta(days=59)
    await kept.step()
    assert not [event for event in kept.events if isinstance(event, Alarm)]
    kept.authority.now = BEGIN + timedelta(days=60, hours=1)
    await kept.step()
    (alarm,) = [event for event in kept.events if isinstance(event, Alarm)]
    assert alarm.code == "certificate-expiring"
    assert "down" in alarm.text


async def test_a_full_disk_costs_no_certificate_and_no_second_order(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Leaf:
        raise ConfigError("", "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(IssuedStore, "save", full)
        await kept.step()
        assert kept.states == ["issued"]
        assert isinstance(kept.events[-1], Alarm)
        await kept.step()
    assert kept.store.load(NAMES) is None
    await kept.step()
    assert kept.store.load(NAMES) is not None
    assert kept.authority.orders == 1


async def test_permission_is_waited_for_and_its_use_is_told(kept: Kept) -> None:
    told: list[bool] = []
    kept.grant = Grant(3600.0, "49 of 50 are gone")
    assert await kept.step() == 3600.0
    assert kept.authority.orders == 0
    assert kept.states == ["waiting"]
    kept.grant = Grant(ended=told.append)
    kept.authority.failure = AcmeError("down")
    await kept.step()
    kept.authority.failure = None
    await kept.step()
    assert told == [False, True]


async def test_a_clock_that_was_set_back_costs_no_order(kept: Kept) -> None:
    """A machine without a battery starts in 1970; the certificate is fine, the clock is not."""
    await kept.step()
    kept.authority.now = BEGIN - timedelta(days=3650)
    restarted = kept.again()
    await restarted._load()
    assert await restarted._step() == limits.RENEW_CHECK_MAX
    assert kept.authority.orders == 1


async def test_a_clock_far_ahead_orders_anew_and_does_not_show_what_has_ended(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=3650)
    kept.shown.clear()
    restarted = kept.again()
    await restarted._load()
    assert not kept.shown
    await restarted._step()
    assert kept.states == ["issued", "issued"]
