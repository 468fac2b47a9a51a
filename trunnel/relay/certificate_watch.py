"""Look after the certificate that the relay shows: its files, and its end.

Files (`watch_files`): read again when they change.  What cannot be used, or
has ended while the one that is shown has not, changes nothing; it is said once
a change.  Two files are seldom exchanged in one step: a certificate beside the
key of the one before cannot be used either, until its key arrives.

A pair with another *key* is shown too, for an operator has put it there; but
the key is who the relay is to its agents: those that have pinned or remembered
the old one will refuse this relay, and that is said aloud.

The end (`watch_period`): a self-signed certificate is remade in time.  One of
a person's files that has less than a third of its life left is an alarm, once.
One by ACME is renewed by its keeper, which has alarms of its own; if it ends all the
same, the self-signed one takes its place, so that agents that know the key stay.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.events import Alarm, Certificate, EventSink
from trunnel.identity.filewatch import FileWatch
from trunnel.relay.certificate import RelayCertificate, described
from trunnel.relay.credentials import RelayCredentials, Source, given, self_signed
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings

logger = logging.getLogger(__name__)

_ALARM_LEFT: Final = limits.ALARM_LEFT - limits.RENEW_JITTER
"""Share of its life; a little less than a third, at which ACME clients begin to renew."""


async def keep_certificate(certificate: RelayCertificate, settings: RelaySettings, on_event: EventSink) -> None:
    """Look after what *certificate* shows, for ever.  Cancellation: ends it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_period, certificate, settings, on_event)
        if settings.tls_cert is not None and settings.tls_key is not None:
            nursery.start_soon(watch_files, certificate, settings, on_event, limits.CERTIFICATE_POLL)


# --- files ------------------------------------------------------------------------------------


async def watch_files(
    certificate: RelayCertificate,
    settings: RelaySettings,
    on_event: EventSink,
    poll: float,
) -> None:
    """Show each new pair of `tls_cert` and `tls_key`, for ever.

    Args:
        certificate: Where it is shown.
        settings: Names the files.
        on_event: Takes `Certificate` and `Alarm`.
        poll: Seconds between looks.

    Cancellation: ends it.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        raise AssertionError("asked for only when both are set")
    watch = FileWatch(settings.tls_cert, settings.tls_key, poll=poll)
    await watch.begin()
    if not await _read_again(certificate, settings, on_event):  # they may have changed since they were loaded
        on_event(_loaded(certificate.current))
    while True:
        await watch.wait_changed()
        await _read_again(certificate, settings, on_event)


async def _read_again(certificate: RelayCertificate, settings: RelaySettings, on_event: EventSink) -> bool:
    """Show what the files hold now, if that is another pair and can be used; return whether there was a report."""
    current = certificate.current
    try:
        fresh = await trio.to_thread.run_sync(given, settings)
        if fresh.leaf.chain == current.leaf.chain:
            return False
        _require_no_worse(fresh, current, utc_now())
    except ConfigError as exc:
        logger.error("relay_certificate_kept", extra={**described(current), "reason": exc.reason})  # noqa: TRY400
        on_event(_of(current, state="failed", reason=exc.reason))
        return True
    if fresh.relay_id != current.relay_id:
        logger.warning("relay_key_changed", extra={"relay_id": fresh.relay_id.value, "was": current.relay_id.value})
        on_event(Alarm(code="relay-key-changed", text=_KEY_CHANGED.format(old=current.relay_id, new=fresh.relay_id)))
    certificate.replace(fresh)
    on_event(_loaded(fresh))
    return True


_KEY_CHANGED: Final = (
    "the new certificate has another key: agents that have pinned or remembered {old} refuse this relay "
    "until they are told its new id, {new}; renew with the same key (certbot: --reuse-key)"
)


def _require_no_worse(fresh: RelayCredentials, current: RelayCredentials, now: datetime) -> None:
    """Raise ConfigError for a pair that is not valid now, if the one that is shown is."""
    problem = fresh.leaf.period_problem(now)
    if problem and not current.leaf.period_problem(now):
        raise ConfigError("relay.tls_cert", problem)


def _loaded(credentials: RelayCredentials) -> Certificate:
    return _of(credentials, state="loaded")


def _of(credentials: RelayCredentials, *, state: str, reason: str = "") -> Certificate:
    return Certificate(
        hostnames=tuple(name.value for name in credentials.leaf.names),
        state=state,
        not_after=credentials.leaf.not_after.isoformat(timespec="seconds"),
        issuer=credentials.leaf.issuer,
        reason=reason,
    )


# --- the end ----------------------------------------------------------------------------------


async def watch_period(certificate: RelayCertificate, settings: RelaySettings, on_event: EventSink) -> None:
    """Remake what is self-signed in time, and give the alarm for what a person has to renew; for ever.

    Cancellation: ends it.
    """
    alarmed: RelayCredentials | None = None
    while True:
        current, now = certificate.current, utc_now()
        due = due_at(current)
        if now >= due or now < current.leaf.not_before:
            if certificate.identity is not None and (now >= due or current.source is Source.SELF_SIGNED):
                _show_self_signed(certificate, settings, now)
            elif now >= due and current is not alarmed:
                alarmed = current
                on_event(_expiring(current, settings, now))
        with trio.move_on_after(_pause(due, now)):
            await certificate.wait_replaced()


def due_at(credentials: RelayCredentials) -> datetime:
    """Return when something has to be done about a certificate because of its end."""
    leaf = credentials.leaf
    match credentials.source:
        case Source.SELF_SIGNED:
            return leaf.not_after - timedelta(days=limits.LEAF_RENEW_DAYS)
        case Source.FILES:
            return leaf.not_after - (leaf.not_after - leaf.not_before) * _ALARM_LEFT
        case Source.ACME:
            return leaf.not_after


def _pause(due: datetime, now: datetime) -> float:
    """Return the seconds until the next look; not too many, for somebody may set the clock."""
    left = (due - now).total_seconds()
    return min(left, limits.CERTIFICATE_LOOK) if left > 0 else limits.CERTIFICATE_LOOK


def _show_self_signed(certificate: RelayCertificate, settings: RelaySettings, now: datetime) -> None:
    if certificate.identity is None:
        raise AssertionError("the caller has looked")
    if certificate.current.source is Source.ACME:
        logger.error("relay_certificate_ended", extra=described(certificate.current))
    certificate.replace(self_signed(settings, certificate.identity, now=now))


def _expiring(credentials: RelayCredentials, settings: RelaySettings, now: datetime) -> Alarm:
    leaf = credentials.leaf
    ended = "ended" if leaf.not_after <= now else "ends"
    when = f"{leaf.not_after:%Y-%m-%d %H:%M} UTC"
    text = f"the relay's certificate {ended} at {when}, and {settings.tls_cert} holds no newer one"
    logger.warning("relay_certificate_expiring", extra=described(credentials))
    return Alarm(code="certificate-expiring", text=text, hostname=next((name.value for name in leaf.names), ""))
