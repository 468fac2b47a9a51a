"""One certificate from an authority, kept fresh for ever: the same for relay and agent.

    stored ──→ shown at once ─┐
                              ├→ wait until it is due (`renewal`) → ask for permission → obtain → show → store
    none ─────────────────────┘        ↑──────────── later ────────────┘ ↑── failed: pause ──┘

What is in use stays in use, whatever fails: the authority, the relay that gives
permission, the disk, the clock.  A new certificate is shown before it is stored;
if the disk is full, storing it is tried, and told of, every `STORE_RETRY`
seconds, and it is never asked for twice because of that.

Due times are by the wall clock, so whoever sets it ends a wait (`_rest`); pauses
after a failure are not, so that nobody who sets it makes us ask sooner.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn, final

import trio
from cryptography import x509

from trunnel.acme.client import RenewalWindow, open_client
from trunnel.acme.renewal import Life, Validity, due_at, earliest_after, is_alarming, pause_after
from trunnel.clock import utc_now
from trunnel.errors import AcmeError, ConfigError, LocalProtocolError
from trunnel.events import Alarm, Certificate, EventSink
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf, ServerKey, leaf_of
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

if TYPE_CHECKING:
    from trunnel.acme.challenge import Responder

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Grant:
    """Whether a certificate may be ordered now."""

    wait: float = 0.0
    """Seconds after which to ask again; 0: go ahead."""
    reason: str = ""
    """Why not now."""
    ended: Callable[[bool], object] = bool
    """Called once after a go-ahead: whether a certificate came of it."""


Permit = Callable[[Sequence[Hostname], bool], Awaitable[Grant]]
"""Asks for permission: the names, and whether it is a renewal.  May wait; raises nothing of its own."""


async def freely(names: Sequence[Hostname], renewal: bool) -> Grant:
    """Permit everything: for who is alone with its authority."""
    del names, renewal
    await trio.lowlevel.checkpoint()
    return Grant()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be kept."""

    names: tuple[Hostname, ...]
    """Names of the certificate, one or more."""
    settings: AcmeSettings
    """The authority and the account."""
    store: IssuedStore
    """Where it is kept."""
    key: Callable[[], ServerKey]
    """Gives the key for the next certificate: the same one, or a new one."""
    responder: Responder
    """Answers the authority's challenges."""
    show: Callable[[Leaf], None]
    """Has visitors see a certificate from now on; must not block or raise."""
    permit: Permit = freely
    """Asked before each order."""


@final
class CertificateKeeper:
    """Keeps one certificate; `run` is its life."""

    def __init__(self, wanted: Wanted, *, on_event: EventSink, now: Callable[[], datetime] = utc_now) -> None:
        self._wanted = wanted
        self._on_event = on_event
        self._now = now
        self._rng = secrets.SystemRandom()
        self._leaf: Leaf | None = None
        self._unsaved: Leaf | None = None
        self._store_at = 0.0  # `trio.current_time()` before which storing it is not tried again
        self._window: RenewalWindow | None = None
        self._window_until = 0.0  # `trio.current_time()` after which the authority is asked for it again
        self._chance = self._rng.random()
        self._failures = 0
        self._not_before = 0.0  # `trio.current_time()` before which nothing is ordered, whatever is due
        self._validity = Validity.VALID  # what was last told of the clock and the certificate

    @property
    def leaf(self) -> Leaf | None:
        """The certificate in use, if there is one."""
        return self._leaf

    async def run(self) -> NoReturn:
        """Keep the certificate until cancelled.  Cancellation: an order under way is given up; what is shown stays."""
        await self._contained(self._load)
        while True:
            await self._rest(await self._contained(self._step))

    async def _contained(self, work: Callable[[], Awaitable[float]]) -> float:
        """Do *work* and return the seconds until the next look: a task boundary.

        Whatever is wrong with one certificate, an authority or a library, the program serves on with what it has.
        """
        try:
            return await work()
        except Exception as exc:
            logger.exception("certificate_keeper_failed", extra={"names": str(self._wanted.names[0])})
            return self._failed(AcmeError(f"a fault of this program: {type(exc).__name__}: {exc}"))

    async def _load(self) -> float:
        """Show what is stored, unless it has ended; the first look is due at once."""
        wanted = self._wanted
        leaf = await trio.to_thread.run_sync(wanted.store.load, wanted.names)
        if leaf is None:
            await self._load_related()
            return 0.0
        self._judge(leaf)
        if _life(leaf).judge(self._now()) is not Validity.ENDED:
            self._take(leaf, "loaded")
        return 0.0

    async def _load_related(self) -> None:
        """Show what is stored for some of the names, until there is a certificate for all: the set has changed."""
        wanted, now = self._wanted, self._now()
        for leaf in reversed(await trio.to_thread.run_sync(wanted.store.related, wanted.names)):
            if _life(leaf).judge(now) is Validity.VALID:
                wanted.show(leaf)
                logger.info("certificate_for_other_names_shown", extra={"path": str(leaf.path)})

    async def _rest(self, seconds: float) -> None:
        """Wait, but not on when somebody has set the clock.  Cancellation: no effect."""
        begun, wall = trio.current_time(), self._now()
        while (left := begun + seconds - trio.current_time()) > 0:
            await trio.sleep(min(left, limits.RENEW_LOOK))
            if abs((self._now() - wall).total_seconds() - (trio.current_time() - begun)) > limits.CLOCK_JUMP:
                return

    async def _step(self) -> float:
        """Do what is due; return the seconds until the next look."""
        await self._save_again()
        if self._leaf is not None:
            self._judge(self._leaf)
        wait = await self._until_due()
        if wait <= 0:
            wait = await self._renew()
        if self._unsaved is not None:
            wait = min(wait, self._store_at - trio.current_time())
        return max(limits.RENEW_CHECK_MIN, min(wait, limits.RENEW_CHECK_MAX))

    async def _renew(self) -> float:
        """Ask for permission, and order; return the seconds until the next look."""
        grant = await self._wanted.permit(self._wanted.names, self._leaf is not None)
        if grant.wait > 0:
            return self._put_off("waiting", grant.reason, grant.wait)
        issued = False
        try:
            await self._order()
            issued = True
        except AcmeError as exc:
            return self._failed(exc)
        except ConfigError as exc:  # the account's file
            return self._failed(AcmeError(str(exc)))
        finally:
            grant.ended(issued)
        return self._hold()

    def _hold(self) -> float:
        """Order nothing for a while after a certificate came, whatever clock or authority say; returns the seconds."""
        if self._leaf is None:
            raise LocalProtocolError("there is a certificate")
        life = _life(self._leaf)
        wait = earliest_after(life)
        if life.judge(self._now()) is not Validity.VALID:  # the clock is wrong: the next one would be no better
            wait = limits.RENEW_WRONG_CLOCK
        self._not_before = trio.current_time() + wait
        return wait

    def _judge(self, leaf: Leaf) -> None:
        """Tell a person, once, that by this machine's clock the certificate is not valid; show it when it is again."""
        now = self._now()
        before, self._validity = self._validity, _life(leaf).judge(now)
        if self._validity is before:
            return
        if problem := leaf.period_problem(now):
            logger.error("issued_certificate_out_of_period", extra={"path": str(leaf.path), "reason": problem})
            self._on_event(Alarm(code="certificate-expiring", text=problem, hostname=str(self._wanted.names[0])))
        else:
            self._take(leaf, "loaded")  # a relay has shown another one meanwhile

    async def _until_due(self) -> float:
        """Return the seconds until the certificate is to be renewed; 0 if it is now, or there is none."""
        held = self._not_before - trio.current_time()
        if self._leaf is None or held > 0:
            return max(0.0, held)
        life, now = _life(self._leaf), self._now()
        if life.judge(now) is Validity.NOT_YET:
            return limits.RENEW_CHECK_MAX
        if not self._failures:
            await self._ask_for_window(self._leaf.chain[0])
        due = due_at(life, renew_days=self._wanted.settings.renew_days, window=self._window, chance=self._chance)
        return max(0.0, (due - now).total_seconds())

    async def _ask_for_window(self, certificate: x509.Certificate) -> None:
        """Learn when the authority would like a renewal, if it says so and it is time to ask (RFC 9773 §4.3)."""
        if trio.current_time() < self._window_until:
            return
        pause = limits.RENEW_CHECK_MAX
        try:
            async with open_client(self._wanted.settings, now=self._now) as client:
                self._window = await client.renewal_window(certificate)
            if self._window is not None:
                pause = min(
                    max(self._window.retry_after or pause, limits.RENEW_CHECK_MIN), limits.RENEW_RETRY_AFTER_MAX
                )
        except (AcmeError, ConfigError) as exc:  # the two thirds hold, or what it said before
            logger.info("no renewal information", extra={"reason": str(exc)})
        self._window_until = trio.current_time() + pause

    async def _order(self) -> None:
        """Obtain, show and store a certificate; raises AcmeError."""
        wanted, replaces = self._wanted, self._leaf
        key = wanted.key()
        async with open_client(wanted.settings, now=self._now) as client:
            chain = await client.obtain(
                wanted.names, key, wanted.responder, replaces=None if replaces is None else replaces.chain[0]
            )
        self._failures, self._validity = 0, Validity.VALID
        self._window, self._window_until = None, 0.0
        self._chance = self._rng.random()
        self._unsaved = leaf_of(key, chain, wanted.store.path(wanted.names))
        self._take(self._unsaved, "issued" if replaces is None else "renewed")
        await self._save_again()

    async def _save_again(self) -> None:
        """Store what is not stored yet; a full disk costs nothing but this try."""
        leaf, wanted = self._unsaved, self._wanted
        if leaf is None or trio.current_time() < self._store_at:
            return
        try:
            await trio.to_thread.run_sync(wanted.store.save, wanted.names, leaf.private_key, leaf.chain)
            self._unsaved = None
        except ConfigError as exc:
            self._store_at = trio.current_time() + limits.STORE_RETRY
            text = f"a certificate cannot be stored: {exc.reason}"
            self._on_event(Alarm(code="disk", text=text, hostname=str(wanted.names[0])))

    def _take(self, leaf: Leaf, state: str) -> None:
        self._leaf = leaf
        self._wanted.show(leaf)
        self._report(state)

    def _failed(self, error: AcmeError) -> float:
        """Take note of a failed try; return the seconds until the next."""
        self._failures += 1 if error.retryable else limits.RENEW_NEEDS_A_PERSON
        life = None if self._leaf is None else _life(self._leaf)
        pause = pause_after(
            self._failures,
            chance=self._rng.random(),
            life=life,
            left=None if life is None else life.end - self._now(),
            retry_after=error.retry_after,
        )
        return self._put_off("failed", str(error), pause)

    def _put_off(self, state: str, reason: str, pause: float) -> float:
        """Order nothing for *pause* seconds, and say why; return them."""
        self._not_before = trio.current_time() + pause
        self._report(state, reason=reason, retry_in=round(pause, 1))
        if self._leaf is not None and is_alarming(_life(self._leaf), self._now()):
            name, end = str(self._wanted.names[0]), _shown(self._leaf.not_after)
            text = f"the certificate for {name} ends at {end} and cannot be renewed: {reason}"
            self._on_event(Alarm(code="certificate-expiring", text=text, hostname=name))
            logger.error("certificate not renewed", extra={"names": name, "ends": end, "reason": reason})
        return pause

    def _report(self, state: str, *, reason: str = "", retry_in: float | None = None) -> None:
        leaf = self._leaf
        self._on_event(
            Certificate(
                hostnames=tuple(str(name) for name in self._wanted.names),
                state=state,
                not_after="" if leaf is None else _shown(leaf.not_after),
                issuer="" if leaf is None else leaf.issuer,
                reason=reason,
                retry_in=retry_in,
            )
        )


def _life(leaf: Leaf) -> Life:
    return Life(leaf.not_before, leaf.not_after)


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
