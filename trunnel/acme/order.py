"""One order from the first request to the chain, as a machine without I/O (RFC 8555 §7.4, §7.5).

Answers go in, what to do next comes out:

    start()  -> Request                         POST newOrder
    feed()   -> Request                         send this, feed its answer
              | Wait(until, reason)             feed `resume()`'s answer once the time has come
              | NeedChallenge(name, …, request) be ready for the challenge, then send the request
              | Done(chain, alternates)
              or AcmeError

First every authorisation is looked at and its challenge is answered, then each
is awaited, so that the server validates all names at once; then the order is
finalised, awaited and fetched.  A challenge is answered once; only TLS-ALPN-01
is offered.  What an answer says counts only if it fits: the order must be for
our names and each authorisation for one of them, or a server could have us
prove, to itself or to another server, names of its choice.

Waiting follows Retry-After, never less than `ACME_POLL_MIN`; without one the
pause grows.  A wait that would end after `deadline` is not begun: the error
carries the time that was asked for.  So is every other road bounded: a machine
asks at most (deadline - start) / ACME_POLL_MIN times plus three times for each
name.

`replaces` (RFC 9773 §5) is a courtesy.  If the server refuses the order that
has it, for whatever reason but its limits, the order is placed without it.

Nonces, accounts and signatures are the client's.  There is no clock: `now` is
any number of seconds that grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never, final

from trunnel.acme.answer import Answer, of_problem, refusal
from trunnel.acme.messages import (
    PROBLEM_PREFIX,
    Authorization,
    Order,
    Status,
    decode_authorization_untrusted,
    decode_order_untrusted,
)
from trunnel.errors import AcmeError, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings import limits

KEEP_REPLACES: Final = frozenset(PROBLEM_PREFIX + short for short in ("accountDoesNotExist", "rateLimited"))
"""Refusals of a new order that have nothing to do with `replaces`."""
ORDER_NOT_READY: Final = f"{PROBLEM_PREFIX}orderNotReady"
"""The server still makes up its mind about an authorisation (RFC 8555 §7.4)."""
TOO_MANY_REQUESTS: Final = 429
"""Status of a rate limit (RFC 6585 §4)."""


@final
@dataclass(frozen=True, slots=True)
class Request:
    """POST a signed request."""

    url: str
    payload: Mapping[str, object] | None = None
    """The JSON; None is POST-as-GET (RFC 8555 §6.3)."""


@final
@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until a moment, then send `OrderMachine.resume()`."""

    until: float
    """On the clock of `now`."""
    reason: str
    """What is waited for, for people."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NeedChallenge:
    """Be ready for a challenge, then send `request` and feed its answer; stay ready until the order is over."""

    name: Hostname
    token: str
    key_authorization: str
    """What is to be proven (RFC 8555 §8.1)."""
    request: Request


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The certificate is there."""

    chain: bytes
    """PEM, leaf first; not looked at yet."""
    alternates: tuple[str, ...] = ()
    """URLs of other chains for the same leaf (RFC 8555 §7.4.2)."""


Action = Request | Wait | NeedChallenge | Done


@dataclass(slots=True)
class _New:
    """The order was placed."""


@dataclass(slots=True)
class _Look:
    """An authorisation was asked for: `waiting[0]` of the machine, for the first time."""


@dataclass(slots=True)
class _Answered:
    """Its challenge was answered."""


@dataclass(slots=True)
class _Await:
    """`pending[0]` was asked for once more."""


@dataclass(slots=True)
class _Finalize:
    """The order was asked for: is it ready?  `sent`: the request for the certificate was among what was asked."""

    sent: bool = False


@dataclass(slots=True)
class _Fetch:
    """The certificate was asked for."""


_Stage = _New | _Look | _Answered | _Await | _Finalize | _Fetch


@final
class OrderMachine:
    """One order."""

    def __init__(
        self, names: Sequence[Hostname], csr: str, *, thumbprint: str, deadline: float, replaces: str | None = None
    ) -> None:
        """Prepare an order.

        Args:
            names: What the certificate is for.
            csr: The request for it, DER in base64url.
            thumbprint: Of the account's key (RFC 7638).
            deadline: When to give up, on the clock of `now`.
            replaces: Identifier of the certificate that this one follows (RFC 9773 §5).
        """
        self._names = frozenset(name.value for name in names)
        self._csr = csr
        self._thumbprint = thumbprint
        self._deadline = deadline
        self._replaces = replaces
        self._new_order = ""
        self._url = ""
        self._order: Order | None = None
        self._stage: _Stage = _New()
        self._unseen: list[str] = []
        self._pending: list[str] = []
        self._pause = limits.ACME_POLL_MIN

    @property
    def pending(self) -> tuple[str, ...]:
        """URLs of authorisations that are neither granted nor refused: to be given up if the order fails."""
        return (*self._pending, *self._unseen)

    def start(self, new_order: str) -> Request:
        """Return the first request, to the URL *new_order*."""
        self._new_order = new_order
        wanted: dict[str, object] = {
            "identifiers": [{"type": "dns", "value": name} for name in sorted(self._names)],
        }
        if self._replaces is not None:
            wanted["replaces"] = self._replaces
        return Request(new_order, wanted)

    def resume(self) -> Request:
        """Return what to send after a `Wait`."""
        return Request(self._pending[0] if isinstance(self._stage, _Await) else self._url)

    def feed_untrusted(self, answer: Answer, now: float) -> Action:
        """Take the answer to the last request.

        Args:
            answer: As it came, a refusal too.
            now: The time.

        Returns:
            What to do next.

        Raises:
            AcmeError: The order failed; nothing more is to be sent.
            RemoteProtocolError: The answer makes no sense; likewise.
        """
        match self._stage:
            case _New():
                return self._placed_untrusted(answer)
            case _Look():
                return self._looked_untrusted(answer)
            case _Answered():
                return self._answered(answer)
            case _Await():
                return self._awaited_untrusted(answer, now)
            case _Finalize():
                return self._finalized_untrusted(answer, now)
            case _Fetch():
                return self._fetched_untrusted(answer)
        assert_never(self._stage)

    # --- the order ------------------------------------------------------------------------------

    def _placed_untrusted(self, answer: Answer) -> Action:
        if not answer.succeeded:
            error = refusal(answer, "the order")
            if self._replaces is None or error.type in KEEP_REPLACES or answer.status == TOO_MANY_REQUESTS:
                raise error
            self._replaces = None
            return self.start(self._new_order)
        order = self._our_order_untrusted(answer)
        self._url = answer.made_at_untrusted()
        self._unseen = list(dict.fromkeys(order.authorizations))
        return self._next_look() if order.status is Status.PENDING else self._ask_for_order()

    def _our_order_untrusted(self, answer: Answer) -> Order:
        """Decode an order and look whether it is ours, and alive."""
        order = decode_order_untrusted(answer.body)
        if order.names != self._names:
            raise RemoteProtocolError("the order is for other names than were asked for")
        if order.status is Status.INVALID:
            raise of_problem(order.error, "the certificate authority gave the order up")
        self._order = order
        return order

    def _ask_for_order(self) -> Request:
        self._stage = _Finalize()
        return Request(self._url)

    # --- authorisations -------------------------------------------------------------------------

    def _next_look(self) -> Request:
        """Look at the next authorisation; once all were seen, await them."""
        if self._unseen:
            self._stage = _Look()
            return Request(self._unseen[0])
        return self._next_wait()

    def _looked_untrusted(self, answer: Answer) -> Action:
        authorization = self._authorization_untrusted(answer)
        url = self._unseen.pop(0)
        if authorization.status is Status.VALID:
            return self._next_look()
        challenge = authorization.challenge()
        if challenge is None:
            self._unseen.insert(0, url)
            offered = ", ".join(each.type for each in authorization.challenges)
            raise RemoteProtocolError(f"no challenge by TLS-ALPN-01 for {authorization.name}, only {offered!a}")
        self._pending.append(url)
        self._stage = _Answered()
        return NeedChallenge(
            name=authorization.name,
            token=challenge.token,
            key_authorization=f"{challenge.token}.{self._thumbprint}",
            request=Request(challenge.url, {}),
        )

    def _authorization_untrusted(self, answer: Answer) -> Authorization:
        """Decode an authorisation and look whether it is for one of our names, and alive."""
        if not answer.succeeded:
            raise refusal(answer, "to show an authorisation")
        authorization = decode_authorization_untrusted(answer.body)
        if authorization.name.value not in self._names:
            raise RemoteProtocolError(f"an authorisation for {authorization.name}, which was not asked for")
        if authorization.status not in (Status.PENDING, Status.VALID):
            problem = next((each.error for each in authorization.challenges if each.error is not None), None)
            raise of_problem(problem, f"the certificate authority could not validate {authorization.name}")
        return authorization

    def _answered(self, answer: Answer) -> Action:
        if not answer.succeeded:
            raise refusal(answer, "the answer to a challenge")
        return self._next_look()

    def _next_wait(self) -> Request:
        """Look again at the first authorisation that is not granted; once all are, at the order."""
        self._pause = limits.ACME_POLL_MIN
        if not self._pending:
            return self._ask_for_order()
        self._stage = _Await()
        return Request(self._pending[0])

    def _awaited_untrusted(self, answer: Answer, now: float) -> Action:
        try:
            authorization = self._authorization_untrusted(answer)
        except AcmeError:
            if answer.succeeded:
                self._pending.pop(0)  # refused, so nothing is left to be given up
            raise
        if authorization.status is Status.PENDING:
            return self._wait(answer, now, f"the validation of {authorization.name}")
        self._pending.pop(0)
        return self._next_wait()

    # --- the certificate ------------------------------------------------------------------------

    def _finalized_untrusted(self, answer: Answer, now: float) -> Action:
        if not answer.succeeded:
            error = refusal(answer, "to issue the certificate")
            if error.type != ORDER_NOT_READY:
                raise error
            self._stage = _Finalize()
            return self._wait(answer, now, "the order to be ready")
        order = self._our_order_untrusted(answer)
        match order.status:
            case Status.VALID if order.certificate is not None:
                self._stage = _Fetch()
                return Request(order.certificate)
            case Status.READY if self._stage == _Finalize(sent=False):
                self._stage = _Finalize(sent=True)
                return Request(order.finalize, {"csr": self._csr})
            case Status.PENDING | Status.READY | Status.PROCESSING | Status.VALID:
                return self._wait(answer, now, "the certificate to be issued")
            case _:
                raise RemoteProtocolError(f"an order cannot be {order.status}")

    def _fetched_untrusted(self, answer: Answer) -> Done:
        if not answer.succeeded:
            raise refusal(answer, "to hand the certificate out")
        return Done(chain=answer.body, alternates=answer.linked_untrusted("alternate"))

    def _wait(self, answer: Answer, now: float, what: str) -> Wait:
        """Wait as long as the server asks, or longer each time; raises AcmeError if the deadline comes before."""
        pause = self._pause if answer.retry_after is None else max(answer.retry_after, limits.ACME_POLL_MIN)
        self._pause = min(self._pause * limits.ACME_POLL_GROWTH, limits.ACME_POLL_MAX)
        if now + pause > self._deadline:
            raise AcmeError(f"the certificate authority takes too long: still waiting for {what}", retry_after=pause)
        return Wait(now + pause, f"waiting for {what}")
