"""What the relay is to the world: its certificate, its names, and who keeps them.

    load_own   at start, from the disk: what is shown at once
    keep_own   until the relay drains: files and periods (`certificate_watch`),
               and with `acme_domains` one keeper (`acme.keeper`), whose challenges come back
               to this relay's own listeners (`ownnames`)

During a hot restart two processes have one state folder: the new one's keeper
begins when the old one's has ended (`_alone`), and finds what it has stored.

The ACME client is imported when there is an authority to ask.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import trio

from trunnel.errors import AuthError, ConfigError
from trunnel.events import EventSink
from trunnel.identity.locking import lock_key
from trunnel.relay.certificate import ISSUED_FOLDER, RelayCertificate, issued_store, load_certificate
from trunnel.relay.certificate_watch import keep_certificate
from trunnel.relay.ownchallenges import OwnChallenges
from trunnel.relay.ownnames import OwnNames
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Own:
    """What is the relay's own."""

    certificate: RelayCertificate
    """What agents, and visitors of its names, are shown."""
    names: OwnNames
    """Names that no agent can have."""
    challenges: OwnChallenges
    """What `acme-tls/1` connections for `acme_domains` are shown."""


def load_own(settings: RelaySettings) -> Own:
    """Load what there is; blocks for as long as the disk takes, raises as `load_certificate`."""
    certificate = load_certificate(settings)
    names = OwnNames(settings)
    names.follow(certificate.current)
    return Own(certificate, names, OwnChallenges(frozenset(settings.acme_domains)))


async def keep_own(
    own: Own, settings: RelaySettings, on_event: EventSink, wait_drain: Callable[[], Awaitable[None]]
) -> None:
    """Keep the certificate in force until `wait_drain` returns: from then on challenges come to another process.

    Cancellation: an order under way is given up.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_certificate, own.certificate, settings, on_event)
        if settings.authority is not None:
            nursery.start_soon(_keep_issued, own, settings, on_event)
        await wait_drain()
        nursery.cancel_scope.cancel()


async def _keep_issued(own: Own, settings: RelaySettings, on_event: EventSink) -> None:
    """Have an authority's certificate for `acme_domains`, with the relay's own key: its id stays."""
    from trunnel.acme.keeper import CertificateKeeper, Wanted  # noqa: PLC0415 - see the module's head

    identity, authority = own.certificate.identity, settings.authority
    if identity is None or authority is None:
        raise AssertionError("with acme_domains there are both")
    wanted = Wanted(
        names=settings.acme_domains,
        settings=authority,
        store=issued_store(settings, identity),
        key=lambda: identity.private_key,
        responder=own.challenges,
        show=own.certificate.show_issued,
    )
    async with _alone(settings.state_dir / ISSUED_FOLDER):
        await CertificateKeeper(wanted, on_event=on_event).run()


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Wait until no other process orders certificates into *folder*, and keep it so while the body runs.

    Where nothing can be locked (a full disk) it goes on without: a certificate too many is better than none.

    Cancellation: no effect while it waits.
    """
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock_key(folder, purpose="ordering the relay's certificates"))
            except AuthError:
                await trio.sleep(limits.STORE_POLL)
                continue
            except ConfigError as exc:
                logger.warning("certificates_not_locked", extra={"reason": exc.reason})
            break
        yield
