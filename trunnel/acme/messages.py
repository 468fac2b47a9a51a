"""What an ACME server says, checked: directory, account, order, authorisation, problem, renewal information.

The server is a stranger with a good reputation: it may be wrong, broken, or
somebody else's.  So its texts are decoded here, by functions that raise
`RemoteProtocolError` only, and nowhere else.  They are capped before (an
answer has at most `ACME_ANSWER_MAX` bytes), fields that are unknown are passed
over (RFC 8555 §6.1), and what is used later is judged now:

- every URL is https, with a host and without spaces or control characters: a
  key that signs for `http:` signs for whoever is on the way;
- names are host names by the rule of `trunnel.names`;
- tokens are base64url of 128 bits or more (RFC 8555 §8.1), as they become
  part of what we hash.

Texts for people are escaped and cut (`sentence`); the problem document is kept
whole beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeGuard, TypeVar, final
from urllib.parse import urlsplit

import msgspec

from trunnel.errors import RemoteProtocolError
from trunnel.names import Hostname, parse_hostname_untrusted
from trunnel.settings import limits

PROBLEM_PREFIX: Final = "urn:ietf:params:acme:error:"
"""What the types of ACME's own problems begin with (RFC 8555 §6.7)."""
TLS_ALPN_01: Final = "tls-alpn-01"
"""The one kind of challenge that is answered here (RFC 8737)."""

_URL: Final = re.compile(r"https://[!-~]+", re.ASCII)
_TOKEN: Final = re.compile(rf"[A-Za-z0-9_-]{{{limits.ACME_TOKEN_MIN},{limits.ACME_TOKEN_MAX}}}", re.ASCII)


class Status(StrEnum):
    """Of an order, an authorisation, a challenge, or an account (RFC 8555 §7.1.6)."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all: JSON's names in camel case."""


@final
class DirectoryMeta(Message, frozen=True):
    """What a server says of itself (RFC 8555 §7.1.1)."""

    terms_of_service: str | None = None
    website: str | None = None
    caa_identities: list[str] = []
    external_account_required: bool = False


@final
class Directory(Message, frozen=True):
    """Where each thing is done (RFC 8555 §7.1.1, RFC 9773 §4.1)."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str | None = None
    key_change: str | None = None
    renewal_info: str | None = None
    meta: DirectoryMeta = DirectoryMeta()


@final
class AccountObject(Message, frozen=True):
    """An account (RFC 8555 §7.1.2)."""

    status: Status
    contact: list[str] = []


@final
class Identifier(Message, frozen=True):
    """A name (RFC 8555 §7.1.3)."""

    type: str
    value: str


@final
class Order(Message, frozen=True):
    """An order (RFC 8555 §7.1.3)."""

    status: Status
    identifiers: list[Identifier]
    authorizations: list[str]
    finalize: str
    certificate: str | None = None
    error: dict[str, object] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The host names that it is for."""
        return frozenset(identifier.value for identifier in self.identifiers)


@final
class Challenge(Message, frozen=True):
    """One way to prove a name (RFC 8555 §8)."""

    type: str
    url: str = ""
    status: str = ""
    token: str = ""
    error: dict[str, object] | None = None


@final
class Authorization(Message, frozen=True):
    """Whether we may have certificates for a name (RFC 8555 §7.1.4)."""

    status: Status
    identifier: Identifier
    challenges: list[Challenge]

    @property
    def name(self) -> Hostname:
        """The host name; it was checked when this was decoded."""
        return Hostname(self.identifier.value)

    def challenge(self) -> Challenge | None:
        """Return the one by TLS-ALPN-01, or None if the server does not offer it."""
        return next((each for each in self.challenges if each.type == TLS_ALPN_01), None)


@final
class Window(Message, frozen=True):
    """When to renew (RFC 9773 §4.2)."""

    start: datetime
    end: datetime


@final
class RenewalInfo(Message, frozen=True):
    """What the server thinks of a certificate's renewal (RFC 9773 §4.2)."""

    suggested_window: Window
    explanation_url: str | None = msgspec.field(default=None, name="explanationURL")


M = TypeVar("M", bound=Message)


def _decode_untrusted(body: bytes, kind: type[M]) -> M:
    """Decode one JSON object."""
    if len(body) > limits.ACME_ANSWER_MAX:
        raise RemoteProtocolError(f"an answer of {len(body)} bytes is over {limits.ACME_ANSWER_MAX}")
    try:
        return msgspec.json.decode(body.decode(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RemoteProtocolError(f"no {kind.__name__.lower()}: {escaped(str(exc))}") from exc
    except RecursionError as exc:
        raise RemoteProtocolError(f"no {kind.__name__.lower()}: nested too deeply") from exc


def decode_directory_untrusted(body: bytes) -> Directory:
    """Decode a directory.

    Raises:
        RemoteProtocolError: It is none, or names something that is not https.
    """
    directory = _decode_untrusted(body, Directory)
    optional = (directory.revoke_cert, directory.key_change, directory.renewal_info)
    for url in (directory.new_nonce, directory.new_account, directory.new_order, *(url for url in optional if url)):
        check_url_untrusted(url)
    return directory


def decode_account_untrusted(body: bytes) -> AccountObject:
    """Decode an account; raises RemoteProtocolError."""
    return _decode_untrusted(body, AccountObject)


def decode_order_untrusted(body: bytes) -> Order:
    """Decode an order.

    Raises:
        RemoteProtocolError: It is none, is too long, or one of its URLs or names cannot be used.
    """
    order = _decode_untrusted(body, Order)
    if not 0 < len(order.identifiers) <= limits.ACME_NAMES_MAX:
        raise RemoteProtocolError(f"an order for {len(order.identifiers)} names")
    if not 0 < len(order.authorizations) <= len(order.identifiers):
        raise RemoteProtocolError(f"{len(order.authorizations)} authorisations for {len(order.identifiers)} names")
    for url in (*order.authorizations, order.finalize, *([order.certificate] if order.certificate else [])):
        check_url_untrusted(url)
    return msgspec.structs.replace(order, identifiers=[_canonical_untrusted(each) for each in order.identifiers])


def decode_authorization_untrusted(body: bytes) -> Authorization:
    """Decode an authorisation.

    Raises:
        RemoteProtocolError: It is none, is too long, or its challenge by TLS-ALPN-01 cannot be used.
    """
    authorization = _decode_untrusted(body, Authorization)
    if len(authorization.challenges) > limits.ACME_CHALLENGES_MAX:
        raise RemoteProtocolError(f"{len(authorization.challenges)} challenges for one name")
    challenge = authorization.challenge()
    if challenge is not None:
        check_url_untrusted(challenge.url)
        if _TOKEN.fullmatch(challenge.token) is None:
            raise RemoteProtocolError("a challenge whose token is not base64url of 128 bits or more")
    return msgspec.structs.replace(authorization, identifier=_canonical_untrusted(authorization.identifier))


def decode_renewal_info_untrusted(body: bytes) -> RenewalInfo:
    """Decode renewal information.

    Raises:
        RemoteProtocolError: It is none, or its window ends before it starts (then it counts as
            not received, RFC 9773 §4.2) or names no time zone.
    """
    info = _decode_untrusted(body, RenewalInfo)
    window = info.suggested_window
    if window.start.tzinfo is None or window.end.tzinfo is None or window.end <= window.start:
        raise RemoteProtocolError("a renewal window that is none")
    return info


def decode_problem_untrusted(body: bytes) -> Mapping[str, object] | None:
    """Decode a problem document (RFC 9457), whole; None if it is none. Nothing is raised."""
    if len(body) > limits.ACME_ANSWER_MAX:
        return None
    try:
        return msgspec.json.decode(body.decode(), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def check_url_untrusted(url: str) -> str:
    """Return *url* if it is one that we may ask: https with a host.

    Raises:
        RemoteProtocolError: It is none.
    """
    try:
        usable = len(url) <= limits.ACME_URL_MAX and _URL.fullmatch(url) is not None and _has_host(url)
    except ValueError:  # of urlsplit: brackets or a port that make no sense
        usable = False
    if not usable:
        raise RemoteProtocolError(f"not an https URL: {escaped(url)}")
    return url


def _has_host(url: str) -> bool:
    """Whether *url* names a host, a port that can be, and nobody's password; raises ValueError if it is no URL."""
    parts = urlsplit(url)
    return bool(parts.hostname) and parts.port != 0 and parts.username is None


def _canonical_untrusted(identifier: Identifier) -> Identifier:
    """Return *identifier* with its host name as `Hostname` has it."""
    if identifier.type != "dns" or not identifier.value.isascii():
        raise RemoteProtocolError(f"not the name of a host: {escaped(identifier.value)}")
    name = parse_hostname_untrusted(identifier.value.encode())
    return Identifier(type="dns", value=name.value)


# --- for people --------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Return a stranger's *text* on one line, cut, without anything that moves a terminal's cursor."""
    cut = text if len(text) <= limits.ACME_TEXT_MAX else f"{text[: limits.ACME_TEXT_MAX]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def sentence(problem: Mapping[str, object]) -> str:
    """Return what a problem document says: its detail or title, its type, and its subproblems' (RFC 8555 §6.7.1)."""
    said = _said(problem)
    further = "; ".join(_subproblems(problem))
    return f"{said} ({further})" if further else said


def _said(problem: Mapping[str, object]) -> str:
    kind, detail = (problem.get(field) for field in ("type", "detail"))
    text = detail if isinstance(detail, str) and detail else problem.get("title")
    short = escaped(kind).removeprefix(PROBLEM_PREFIX) if isinstance(kind, str) else ""
    words = [short, escaped(text) if isinstance(text, str) else ""]
    return ": ".join(word for word in words if word) or "no reason given"


def _subproblems(problem: Mapping[str, object]) -> Iterator[str]:
    listed = problem.get("subproblems")
    for each in listed[: limits.ACME_SUBPROBLEMS_SHOWN] if _is_list(listed) else ():
        if _is_object(each):
            identifier = each.get("identifier")
            name = identifier.get("value") if _is_object(identifier) else None
            yield f"{escaped(name)}: {_said(each)}" if isinstance(name, str) else _said(each)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list)


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)
