"""Agents judged by the program that embeds the relay, before the list of agents is asked.

    hello of a new session → the hook, within `AUTHORIZATION_TIMEOUT`
      → an `AuthorizedAgent`: it may attach, with these names, whatever the list says; kept as long as its session
      → a `Rejected`, returned or raised: it may not
      → None: the list decides, as if there were no hook

It fails closed: a hook that takes too long, raises or returns anything else,
authorises somebody else, or gives a name that the file of agents could not give
has said no, for now.  A carrier that joins a session is not judged again.

What an applicant says of itself is its own word, but for the key, which it has
proven, and the extension, which came in a certificate of that key.  A hook may
be asked about many at a time: as many as may be half-open.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, final

import trio

from trunnel import errors
from trunnel.errors import LocalProtocolError, RejectCode
from trunnel.names import Hostname, KeyId
from trunnel.relay.authorized import AuthorizedAgent, parse_name
from trunnel.settings import limits
from trunnel.transports.base import Peer
from trunnel.wire import control

logger = logging.getLogger(__name__)

_TROUBLE: Final = "the relay cannot judge agents now; its operator finds why in its log"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """An agent that would attach."""

    key_id: KeyId
    """Whose key it has proven to have."""
    extension: bytes
    """Bytes of extension 1.3.6.1.4.1.65535.1 of its certificate; empty if there is none."""
    address: str
    """Where it comes from, `HOST:PORT`."""
    name: str | None
    """The label of which it would like to show the address."""
    hostnames: tuple[Hostname, ...]
    """Names of its own that it would serve; DNS has to prove them, whatever is answered."""
    software: str
    """Version of its software, by its own word."""
    where: str
    """Host name of its machine, by its own word."""


Verdict = AuthorizedAgent | errors.Rejected | None
"""What a hook returns; see the module's head."""
AuthorizationHook = Callable[[Applicant], Awaitable[Verdict]]
"""Judges an applicant; may be cancelled."""


async def judge(hook: AuthorizationHook, peer: Peer, hello: control.Hello) -> AuthorizedAgent | control.Rejected | None:
    """Return what *hook* says of an agent; see the module's head.  Cancellation: the hook's, too."""
    verdict = await _ask(hook, _applicant(peer, hello))
    if not isinstance(verdict, errors.Rejected):
        return verdict
    wait = None if verdict.retry_after is None else max(0.0, verdict.retry_after)
    return control.Rejected(verdict.code, control.printable(verdict.reason), wait)


async def _ask(hook: AuthorizationHook, applicant: Applicant) -> Verdict:
    """Call the hook: a task boundary, because it is somebody else's program; whatever is no answer is a refusal."""
    named = {"agent": applicant.key_id.value, "peer": applicant.address}
    try:
        with trio.move_on_after(limits.AUTHORIZATION_TIMEOUT) as patience:
            verdict = await hook(applicant)
            if not patience.cancel_called:  # a late answer is none, even of a hook that let nobody interrupt it
                return _answer(verdict, applicant)
        logger.error("authorization_failed", extra={**named, "reason": "it took too long"})
    except errors.Rejected as exc:
        return exc
    except Exception:
        logger.exception("authorization_failed", extra=named)
    return errors.Rejected(RejectCode.OVERLOADED, _TROUBLE, retry_after=limits.BACKOFF_CAP)


def _answer(verdict: object, applicant: Applicant) -> Verdict:
    """Return *verdict* if it is one: the hook may come from a program without types.

    Raises:
        LocalProtocolError: It is not, or it is for somebody else.
        InvalidName: It gives a name that would be somebody else's id, or is no label.
    """
    if isinstance(verdict, AuthorizedAgent):
        if verdict.key_id != applicant.key_id:
            raise LocalProtocolError(f"the hook was asked about {applicant.key_id} and authorised {verdict.key_id}")
        for name in verdict.names:
            parse_name(name.value)
        return verdict
    if verdict is None or isinstance(verdict, errors.Rejected):
        return verdict
    raise LocalProtocolError(f"the hook returned {type(verdict).__name__}, not AuthorizedAgent, Rejected or None")


def _applicant(peer: Peer, hello: control.Hello) -> Applicant:
    return Applicant(
        key_id=peer.key_id,
        extension=peer.extension,
        address=peer.address,
        name=hello.name,
        hostnames=tuple(map(Hostname, hello.hostnames)),
        software=hello.agent,
        where=hello.where,
    )
