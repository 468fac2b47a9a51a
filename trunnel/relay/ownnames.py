"""The relay's own names: which they are, and what their visitors get.

Own are `acme_domains`, the first suffix itself, and the names in the
certificate of a person (`tls_cert`), patterns apart.  They are never led to an
agent, nor can one claim them: whoever held the relay's name could have a
certificate issued for it (SEC-16).

    acme-tls/1, and a certificate is being asked for    the handshake that proves the name (RFC 8737), nothing else
    acme-tls/1 else                                     an alert
    a visitor                                           TLS with the relay's certificate, and one small page (`ownpage`)

Everything is bounded: visitors in all and of one address, challenges of one
name, bytes of a request, seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Final, final

import trio
from OpenSSL import SSL

from trunnel.errors import ConnectError
from trunnel.names import Hostname
from trunnel.relay.admission import Admission, Admit, Refuse, Ticket
from trunnel.relay.certificate import RelayCertificate
from trunnel.relay.credentials import RelayCredentials, Source
from trunnel.relay.farewell import bid_farewell
from trunnel.relay.ingress import Arrival, Role
from trunnel.relay.ownchallenges import OwnChallenges
from trunnel.relay.ownpage import answer_untrusted
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.sockets import abort_socket
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.wire.alert import AlertDescription, plaintext_alert

logger = logging.getLogger(__name__)

_NO_CHALLENGE: Final = plaintext_alert(AlertDescription.NO_APPLICATION_PROTOCOL)


@final
class OwnNames:
    """The names that are the relay's own now: a container of them."""

    def __init__(self, settings: RelaySettings) -> None:
        self._always = frozenset({*settings.acme_domains, settings.domain_suffixes[0]})
        self._names = self._always

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def follow(self, credentials: RelayCredentials) -> bool:
        """Take note of another certificate: the names in one of a person's are the relay's own.

        Returns:
            Whether there are other names now.
        """
        given: Iterable[Hostname] = credentials.leaf.names if credentials.source is Source.FILES else ()
        before, self._names = self._names, self._always.union(given)
        return before != self._names


@final
class OwnDoor:
    """Serves whoever comes for a name of the relay's own."""

    def __init__(
        self,
        certificate: RelayCertificate,
        challenges: OwnChallenges,
        admission: Admission,
        *,
        refused: Callable[[Arrival, str], None],
    ) -> None:
        self._certificate = certificate
        self._challenges = challenges
        self._admission = admission
        self._refused = refused

    async def serve(self, arrival: Arrival, name: Hostname, raw: bytes) -> None:
        """Serve one connection to its end.

        Args:
            arrival: The connection; a challenge or a visitor.
            name: What it asks for: a name of the relay's own.
            raw: What was read of it, hello first.

        Cancellation: the connection is aborted.
        """
        tickets = self._admit(arrival, name)
        try:
            if isinstance(tickets, str):
                self._refused(arrival, tickets)
                return
            with ExitStack() as places:
                for ticket in tickets:
                    places.enter_context(ticket)
                with trio.move_on_after(_patience(arrival)), suppress(ConnectError, trio.BrokenResourceError):
                    await self._answer(arrival, name, raw)
        finally:
            abort_socket(arrival.stream.socket)  # no effect on one that was closed in order

    def _admit(self, arrival: Arrival, name: Hostname) -> tuple[Ticket, ...] | str:
        """Return the tickets of *arrival*, or the word for why it is refused."""
        host = arrival.peer[0]
        is_challenge = arrival.role is Role.CHALLENGES
        decisions = [
            self._admission.admit_visitor(host),
            self._admission.admit_challenge(name, host) if is_challenge else self._admission.admit_own_visitor(host),
        ]
        tickets = tuple(decision.ticket for decision in decisions if isinstance(decision, Admit))
        for decision in decisions:
            if isinstance(decision, Refuse):
                for ticket in tickets:
                    ticket.release()
                return decision.reason.value
        return tickets

    async def _answer(self, arrival: Arrival, name: Hostname, raw: bytes) -> None:
        if arrival.role is not Role.CHALLENGES:
            await _show_page(await _shake_hands(arrival, self._certificate.current.page, raw))
            return
        context = self._challenges.context_for(name)
        if context is None:
            self._refused(arrival, "no-challenge")
            await bid_farewell(arrival.stream, _NO_CHALLENGE)
            return
        proof = await _shake_hands(arrival, context, raw)
        logger.debug("challenge_answered", extra={"hostname": name.value, "peer": arrival.peer[0]})
        await proof.aclose()


def _patience(arrival: Arrival) -> float:
    return limits.CHALLENGE_TIMEOUT if arrival.role is Role.CHALLENGES else limits.OWN_VISIT_TIMEOUT


async def _shake_hands(arrival: Arrival, context: SSL.Context, raw: bytes) -> TlsStream:
    """End TLS here; raises ConnectError."""
    return await TlsStream.handshake(
        arrival.stream, context, role=TlsRole.SERVER, prefix=raw, timeout=_patience(arrival), tolerate_truncation=True
    )


async def _show_page(visitor: TlsStream) -> None:
    """Answer one request, and close so that the answer arrives; the caller has a deadline."""
    received = b""
    try:
        while (response := answer_untrusted(received)) is None:
            chunk = await visitor.receive_some(limits.OWN_REQUEST_MAX)
            if not chunk:
                break
            received += chunk
        if response:
            await visitor.send_all(response)
            await visitor.send_eof()
            left = limits.FAREWELL_DRAIN_MAX  # closing with bytes unread would abort what we have said
            with trio.move_on_after(limits.CLOSE_TIMEOUT):
                while left > 0 and (chunk := await visitor.receive_some(limits.OWN_REQUEST_MAX)):
                    left -= len(chunk)
        await visitor.aclose()
    except BaseException:
        visitor.abort()
        raise
