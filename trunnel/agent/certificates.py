"""Certificates from an authority for the agent's public names: which there are, and a keeper for each.

    names that a relay gave      one certificate for all of them under one suffix
    names of the agent's own     one certificate each: DNS may prove one and not the other

Names come and go with the relays' lists; those of a relay that is away stay.  A
set of names that changes gets a keeper of its own, and what was shown for the
old set is shown until the new certificate is there.  Names that no public
authority certifies (`localhost` and below) are left alone.

Before an order for names that a relay gave, that relay is asked (`permission`):
its agents share the authority's weekly limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.acme.keeper import CertificateKeeper, Grant, Wanted, freely
from trunnel.agent.challenges import Challenges
from trunnel.events import EventSink
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

if TYPE_CHECKING:
    from trunnel.agent.attachment import Attachment

Group = Sequence[Hostname]
"""The names of one certificate, as a tuple."""

_NEVER_PUBLIC: Final = ("localhost", "local", "internal", "test", "invalid", "example", "onion")
"""Last labels that no public authority certifies (RFC 6761, RFC 6762, RFC 7686)."""


def groups_of(given: Iterable[Hostname], own: Iterable[Hostname], *, private: bool) -> tuple[tuple[Hostname, ...], ...]:
    """Return which certificates are wanted.

    Args:
        given: Names that relays gave, in their order.
        own: Names of the agent's own that are led to it.
        private: Whether the authority is not a public one: it may certify any name.
    """
    by_suffix: dict[str, list[Hostname]] = {}
    for name in given:
        by_suffix.setdefault(name.value.partition(".")[2], []).append(name)
    wanted = [tuple(names[: limits.CERTIFICATE_NAMES_MAX]) for suffix, names in by_suffix.items() if suffix]
    wanted += [(name,) for name in own]
    return tuple(group for group in wanted if private or group[0].value.rpartition(".")[2] not in _NEVER_PUBLIC)


@final
class Certificates:
    """Keeps the certificates of one agent.

    Args:
        settings: The authority and the account.
        folder: Where certificates are kept.
        challenges: Answers the authority, whichever relay it comes through.
        show: Has visitors see a certificate from now on.
        attachments: Those that there are now, one a relay.
        on_event: Told what happens.
    """

    def __init__(
        self,
        settings: AcmeSettings,
        folder: Path,
        *,
        challenges: Challenges,
        show: Callable[[Leaf], None],
        attachments: Callable[[], Sequence[Attachment]],
        on_event: EventSink,
    ) -> None:
        self._settings = settings
        self._store = IssuedStore(folder)
        self._challenges = challenges
        self._show = show
        self._attachments = attachments
        self._on_event = on_event
        self._keepers: dict[tuple[Hostname, ...], trio.CancelScope] = {}

    async def run(self, groups: Callable[[], Sequence[Group]], wait_changed: Callable[[], Awaitable[None]]) -> None:
        """Keep what *groups* says, anew whenever *wait_changed* returns, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._follow(groups(), nursery)
                await wait_changed()

    def _follow(self, wanted: Sequence[Group], nursery: trio.Nursery) -> None:
        """Start a keeper for what is new, and end those of what is gone."""
        groups = [tuple(group) for group in wanted]
        for group in [group for group in self._keepers if group not in groups]:
            self._keepers.pop(group).cancel()
        for group in groups:
            if group not in self._keepers:
                self._keepers[group] = scope = trio.CancelScope()
                nursery.start_soon(self._keep, group, scope)

    async def _keep(self, group: tuple[Hostname, ...], scope: trio.CancelScope) -> None:
        wanted = Wanted(
            names=group,
            settings=self._settings,
            store=self._store,
            key=lambda: ec.generate_private_key(ec.SECP256R1()),
            responder=self._challenges,
            show=self._show,
            permit=self._permit if self._giver(group) is not None else freely,
        )
        with scope:
            await CertificateKeeper(wanted, on_event=self._on_event).run()

    def _giver(self, group: Group) -> Attachment | None:
        """Return an attachment whose relay gave the agent these names."""
        for attachment in self._attachments():
            if group[0].value.partition(".")[2] in attachment.welcome.suffixes:
                return attachment
        return None

    async def _permit(self, names: Sequence[Hostname], renewal: bool) -> Grant:
        """Ask a relay that gave *names*."""
        attachment = self._giver(tuple(names))
        answer = None if attachment is None else await attachment.questions.may_issue(names, renewal=renewal)
        if attachment is None or answer is None:
            return Grant(limits.ISSUANCE_FOREIGN_WAIT, "the relay that gave these names does not answer now")
        if answer.wait:
            return Grant(answer.wait, answer.reason)
        questions = attachment.questions
        return Grant(ended=lambda issued: questions.ended(answer, issued=issued))
