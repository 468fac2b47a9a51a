"""Certificates from an authority for the agent's public names: which there are, and a keeper for each.

    names that a relay gave      one certificate for all of them under one suffix
    names of the agent's own     one certificate each: DNS may prove one and not the other

A name for which a person has given a certificate (`--cert-pem`) needs none.
Names come and go with the relays' lists; those of a relay that is away stay.  A
set of names that changes gets a keeper of its own, and what was shown for the
old set is shown until the new certificate is there.  A set that goes keeps its
keeper for a while, which orders nothing meanwhile: a relay that was restarted
gives names of our own back only once DNS has proven them again, and what the
keeper knows of an authority's pauses must not be forgotten by that.  Names that no public
authority certifies (`localhost` and below, those with `_`) are left alone.

Before an order for names that a relay gave, that relay is asked (`permission`):
its agents share the authority's weekly limits.  While no relay is there at all,
nothing is ordered: the authority could not come, and would count a failure.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.acme.keeper import CertificateKeeper, Grant, Wanted
from trunnel.agent.challenges import Challenges
from trunnel.events import EventSink
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings, certifiable
from trunnel.wire import control

if TYPE_CHECKING:
    from trunnel.agent.attachment import Attachment

Group = Sequence[Hostname]
"""The names of one certificate, as a tuple."""


def groups_of(given: Iterable[Hostname], own: Iterable[Hostname], *, private: bool) -> tuple[tuple[Hostname, ...], ...]:
    """Return which certificates are wanted: the same ones, in whatever order names come.

    Args:
        given: Names that relays gave.
        own: Names of the agent's own that are led to it.
        private: Whether the authority is not a public one: it may certify any name.
    """
    by_suffix: dict[str, list[Hostname]] = {}
    for name in filter(_is_for_the_web, given):
        by_suffix.setdefault(name.value.partition(".")[2], []).append(name)
    wanted = [tuple(sorted(names)[: limits.CERTIFICATE_NAMES_MAX]) for suffix, names in by_suffix.items() if suffix]
    wanted += [(name,) for name in filter(_is_for_the_web, own)]
    return tuple(group for group in wanted if private or certifiable(group[0]))


def _is_for_the_web(name: Hostname) -> bool:
    """Whether authorities take it for a host's name; one that they do not would cost the others their certificate."""
    return "_" not in name.value


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
        self._groups: frozenset[tuple[Hostname, ...]] | None = None  # those wanted now

    async def run(self, groups: Callable[[], Sequence[Group]], wait_changed: Callable[[], Awaitable[None]]) -> None:
        """Keep what *groups* says, anew whenever *wait_changed* returns, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._follow(groups(), nursery)
                await wait_changed()

    def _follow(self, wanted: Sequence[Group], nursery: trio.Nursery) -> None:
        """Start a keeper for what is new, and end those of what has gone for good."""
        self._groups = frozenset(tuple(group) for group in wanted)
        for group, scope in self._keepers.items():
            gone = trio.current_time() + limits.KEEPER_LINGER
            scope.deadline = math.inf if group in self._groups else min(scope.deadline, gone)
        for group in self._groups:
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
            permit=self._permit,
        )
        try:
            with scope:
                await CertificateKeeper(wanted, on_event=self._on_event).run()
        finally:
            del self._keepers[group]

    def _giver(self, group: Group) -> Attachment | None:
        """Return an attachment whose relay gave the agent these names, all of them if there is one."""
        suffix, wanted = group[0].value.partition(".")[2], {name.value for name in group}
        givers = [each for each in self._attachments() if suffix in each.welcome.suffixes]
        whole = [each for each in givers if wanted <= {endpoint.hostname for endpoint in each.endpoints}]
        return next(iter((*whole, *givers)), None)

    async def _permit(self, names: Sequence[Hostname], renewal: bool) -> Grant:
        """Ask a relay that gave *names*; for names of the agent's own there is nobody to be asked."""
        if not self._attachments():
            return Grant(limits.ISSUANCE_FOREIGN_WAIT, "there is no relay now through which the authority could come")
        if self._groups is not None and tuple(names) not in self._groups:
            return Grant(limits.ISSUANCE_FOREIGN_WAIT, "no relay leads these names to this agent now")
        attachment = self._giver(names)
        if attachment is None:
            return Grant()
        answer = await attachment.questions.may_issue(names, renewal=renewal)
        if answer is None:
            return Grant(limits.ISSUANCE_FOREIGN_WAIT, "the relay that gave these names does not answer now")
        if answer.wait:
            return Grant(answer.wait, answer.reason)
        return Grant(ended=lambda issued: self._tell_end(names, answer, issued=issued))

    def _tell_end(self, names: Sequence[Hostname], answer: control.Issuance, *, issued: bool) -> None:
        """Tell the relay what came of a permission, in whichever session there is with it now."""
        if (attachment := self._giver(names)) is not None:
            attachment.questions.ended(answer, issued=issued)
