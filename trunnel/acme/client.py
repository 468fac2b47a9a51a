"""The ACME client: accounts and certificates of one authority, under trio (RFC 8555, 8737, 9773).

Who does what: `http` exchanges bytes, `order` decides what an order needs
next, `account` keeps the key, `jws` signs; here they come together.

- Nonces.  Every answer brings one; one that is refused (badNonce, §6.5) is
  replaced by the one that came with the refusal, `ACME_NONCE_TRIES` times.
- The account is asked for when it is first needed, and again if the server no
  longer knows it (a staging environment that was reset).
- An order is over within `timeout`, whatever the server does.  Responders are
  entered before a challenge is answered and left on every way out.  Nothing is
  started in the background: an `obtain` that is cancelled leaves nothing.
- When an order fails, authorisations that are still open are given up (§7.5.2):
  they count against limits (300 pending at Let's Encrypt).
- Every failure is an `AcmeError`; one that comes of this machine's own files
  is a `ConfigError`.

Imports josepy and httpx: to be imported when a certificate is needed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trunnel.acme.account import AccountFile
from trunnel.acme.answer import Answer, refusal
from trunnel.acme.certificates import is_issued_under, read_chain_untrusted, renewal_id, signing_request
from trunnel.acme.challenge import Responder, context_for_challenge
from trunnel.acme.http import Exchange, open_exchange
from trunnel.acme.jws import b64
from trunnel.acme.messages import (
    PROBLEM_PREFIX,
    Directory,
    decode_directory_untrusted,
    decode_renewal_info_untrusted,
)
from trunnel.acme.order import Done, NeedChallenge, OrderMachine, Request, Wait
from trunnel.acme.registration import Registration
from trunnel.clock import utc_now
from trunnel.errors import AcmeError, RemoteProtocolError
from trunnel.identity.contexts import ServerKey
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

logger = logging.getLogger(__name__)

ACCOUNT_UNKNOWN = f"{PROBLEM_PREFIX}accountDoesNotExist"
"""The server does not know the account (any more)."""
ALREADY_REVOKED = f"{PROBLEM_PREFIX}alreadyRevoked"
"""What was to be revoked is."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalWindow:
    """When the authority would like a certificate to be renewed (RFC 9773 §4.2)."""

    start: datetime
    end: datetime
    explanation_url: str | None
    """Where it says why; None if it does not, or by no URL that can be shown."""
    retry_after: float
    """Seconds until it is to be asked again."""


@final
class AcmeClient:
    """One account at one authority; use it by `open_client`."""

    def __init__(
        self, exchange: Exchange, directory: Directory, registration: Registration, now: Callable[[], datetime]
    ) -> None:
        self.directory = directory
        """What the authority offers."""
        self._exchange = exchange
        self._registration = registration
        self._now = now

    @property
    def issuer_domains(self) -> tuple[str, ...]:
        """The names by which CAA records mean this authority (RFC 8659 §4.2)."""
        return tuple(self.directory.meta.caa_identities)

    async def account_url(self) -> str:
        """Return the account's URL; make the account if there is none.

        Raises:
            AcmeError: The authority refused.
            ConfigError: The account's file cannot be used.
        """
        return await self._registration.url()

    async def roll_key(self) -> None:
        """Give the account a new key; raises as `account_url` does, and then the old key goes on.

        Source: RFC 8555 §7.3.5.
        """
        await self._registration.roll_key()

    async def obtain(
        self,
        names: Sequence[Hostname],
        key: ServerKey,
        responder: Responder,
        *,
        replaces: x509.Certificate | None = None,
        preferred_chain: str | None = None,
        timeout: float = limits.ACME_ORDER_TIMEOUT,  # noqa: ASYNC109 - it bounds waits that are asked for, too
    ) -> tuple[x509.Certificate, ...]:
        """Order a certificate and prove its names by TLS-ALPN-01.

        Args:
            names: What it is for.
            key: Its key.
            responder: Who answers the challenges.
            replaces: The certificate that it follows, if the authority is to be told (RFC 9773 §5).
            preferred_chain: CN of the issuer under which the chain is to end, if there is such a chain.
            timeout: Seconds for the whole.

        Returns:
            The chain, leaf first: for this key, for these names, in order.

        Raises:
            AcmeError: There is none.
            ConfigError: The account's file cannot be used.

        Cancellation: Nothing goes on; the authority forgets the order in time.
        """
        ordering = _Ordering(self, tuple(dict.fromkeys(names)), key, responder, replaces, preferred_chain, timeout)
        with trio.move_on_after(timeout):
            try:
                return await ordering.run()
            except AcmeError as error:
                if error.type != ACCOUNT_UNKNOWN:
                    raise
            await self._registration.forget()
            return await ordering.run()
        raise AcmeError(f"the certificate authority took longer than {timeout:g} s")

    async def renewal_window(self, certificate: x509.Certificate) -> RenewalWindow | None:
        """Ask when *certificate* is to be renewed.

        Returns:
            None if the authority does not say such things, or cannot of this certificate.

        Raises:
            AcmeError: It did not answer, or with what makes no sense.

        Source: RFC 9773 §4.
        """
        identifier = renewal_id(certificate)
        if self.directory.renewal_info is None or identifier is None:
            return None
        answer = await self._exchange.get(f"{self.directory.renewal_info.rstrip('/')}/{identifier}")
        if not answer.succeeded:
            raise refusal(answer, "the renewal information")
        try:
            info = decode_renewal_info_untrusted(answer.body)
        except RemoteProtocolError as exc:
            raise _nonsense(exc) from exc
        asked = limits.ARI_RETRY_STANDARD if answer.retry_after is None else answer.retry_after
        return RenewalWindow(
            start=info.suggested_window.start,
            end=info.suggested_window.end,
            explanation_url=info.explanation_url,
            retry_after=min(max(asked, limits.ARI_RETRY_MIN), limits.ARI_RETRY_MAX),
        )

    async def revoke(self, certificate: x509.Certificate) -> None:
        """Revoke *certificate*; one that is revoked already is no failure.

        Raises:
            AcmeError: The authority refused, or revokes nothing.

        Source: RFC 8555 §7.6.
        """
        if self.directory.revoke_cert is None:
            raise AcmeError("the certificate authority has no way to revoke", retryable=False)
        request = Request(self.directory.revoke_cert, {"certificate": b64(certificate.public_bytes(Encoding.DER))})
        answer = await self._registration.send(request)
        if not answer.succeeded and (error := refusal(answer, "to revoke")).type != ALREADY_REVOKED:
            raise error

    # --- for orders --------------------------------------------------------------------------------

    async def send(self, request: Request) -> Answer:
        """Send a request signed by the account; a refusal is an answer too. For orders."""
        return await self._registration.send(request)

    async def thumbprint(self) -> str:
        """Return that of the account's key; the account is made if there is none. For orders."""
        await self._registration.url()
        return self._registration.thumbprint

    def time(self) -> datetime:
        """Return the time of day. For orders."""
        return self._now()


@final
@dataclass(frozen=True, slots=True)
class _Ordering:
    """One order: the machine's wishes, fulfilled."""

    client: AcmeClient
    names: tuple[Hostname, ...]
    key: ServerKey
    responder: Responder
    replaces: x509.Certificate | None
    preferred_chain: str | None
    seconds: float

    async def run(self) -> tuple[x509.Certificate, ...]:
        """Place the order and bring it to its end; raises AcmeError."""
        replaced = renewal_id(self.replaces) if self.replaces is not None else None
        machine = OrderMachine(
            self.names,
            b64(signing_request(self.names, self.key)),
            thumbprint=await self.client.thumbprint(),
            deadline=trio.current_time() + self.seconds,
            replaces=replaced if self.client.directory.renewal_info is not None else None,
        )
        try:
            return await self._choose(await self._drive(machine))
        except RemoteProtocolError as exc:
            await self._give_up(machine)
            raise _nonsense(exc) from exc
        except AcmeError:
            await self._give_up(machine)
            raise

    async def _drive(self, machine: OrderMachine) -> Done:
        """Do what the machine wants until it is done; raises AcmeError or RemoteProtocolError."""
        with ExitStack() as challenges:
            action = machine.start(self.client.directory.new_order)
            while True:
                step = machine.feed_untrusted(await self.client.send(action), trio.current_time())
                while isinstance(step, Wait):
                    await trio.sleep_until(step.until)
                    answer = await self.client.send(machine.resume())
                    step = machine.feed_untrusted(answer, trio.current_time())
                if isinstance(step, Done):
                    return step
                if isinstance(step, NeedChallenge):
                    context = context_for_challenge(step.name, step.key_authorization, self.client.time())
                    challenges.enter_context(self.responder.answering(step.name, context))
                    logger.debug("challenge awaited", extra={"hostname": step.name.value})
                action = step.request if isinstance(step, NeedChallenge) else step

    async def _choose(self, done: Done) -> tuple[x509.Certificate, ...]:
        """Return the chain under the preferred issuer if there is one, else the first; raises as `_drive`."""
        chain = read_chain_untrusted(done.chain, self.names, self.key)
        if self.preferred_chain is None or is_issued_under(chain, self.preferred_chain):
            return chain
        for url in done.alternates:
            try:
                answer = await self.client.send(Request(url))
                other = read_chain_untrusted(answer.body, self.names, self.key)
            except (AcmeError, RemoteProtocolError) as exc:  # the first one is good, whatever this is
                logger.warning("alternate chain of no use", extra={"reason": str(exc)})
                continue
            if is_issued_under(other, self.preferred_chain):
                return other
        logger.warning("preferred chain not offered", extra={"preferred": self.preferred_chain})
        return chain

    async def _give_up(self, machine: OrderMachine) -> None:
        """Deactivate what is still pending; whether that works does not matter (RFC 8555 §7.5.2)."""
        with trio.move_on_after(limits.ACME_GOODBYE_TIMEOUT):
            for url in machine.pending:
                try:
                    await self.client.send(Request(url, {"status": "deactivated"}))
                except AcmeError as exc:
                    logger.debug("authorisation left open", extra={"reason": exc.reason})
                    return


def _nonsense(error: RemoteProtocolError) -> AcmeError:
    return AcmeError(f"the certificate authority's answer makes no sense: {error.reason}")


@asynccontextmanager
async def open_client(settings: AcmeSettings, *, now: Callable[[], datetime] = utc_now) -> AsyncIterator[AcmeClient]:
    """Connect to the authority and read its directory; the account is asked for when it is needed.

    Args:
        settings: Which authority, and as whom.
        now: The time of day.

    Raises:
        AcmeError: The directory cannot be had.
        ConfigError: The CA file or the folder of accounts cannot be used.
    """
    async with open_exchange(settings.ca, now=now) as exchange:
        answer = await exchange.get(settings.directory)
        if not answer.succeeded:
            raise refusal(answer, "the directory")
        try:
            directory = decode_directory_untrusted(answer.body)
        except RemoteProtocolError as exc:
            raise _nonsense(exc) from exc
        file = AccountFile(settings.creds_path, settings.directory)
        yield AcmeClient(exchange, directory, Registration(settings, directory, exchange, file), now)
