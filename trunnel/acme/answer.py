"""One answer of an ACME server: its headers read, and what a refusal means.

`Answer` is all that the rest of the package knows of HTTP.  Retry-After comes
in seconds or as a date (RFC 9110 §10.2.3), which is counted from the answer's
own Date: our clock may be wrong.  Here it becomes seconds from now, once, so
that the pure parts need no time of day.  Links are those of RFC 8288,
as far as ACME uses them: `alternate` and `up`.

A refusal becomes an `AcmeError` whose text is a whole sentence, with the
problem document beside it and the time that the server asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, final
from urllib.parse import urljoin

from trunnel.acme.messages import (
    PROBLEM_PREFIX,
    check_url_untrusted,
    decode_problem_untrusted,
    escaped,
    sentence,
)
from trunnel.errors import AcmeError, RemoteProtocolError
from trunnel.settings import limits

NEEDS_A_PERSON: Final = frozenset(
    PROBLEM_PREFIX + short
    for short in (
        "badCSR",
        "badPublicKey",
        "badSignatureAlgorithm",
        "externalAccountRequired",
        "invalidContact",
        "rejectedIdentifier",
        "unsupportedContact",
        "unsupportedIdentifier",
        "userActionRequired",
    )
)
"""Problems that come again at every try until somebody changes something."""

FAILED: Final = 400
"""The first status of HTTP that is a refusal."""
_SUCCESS: Final = range(200, 300)
_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_LINK: Final = re.compile(r'<([^<>\s]{1,2048})>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s",;]*))*)', re.ASCII)
_RELATION: Final = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]*))', re.ASCII | re.IGNORECASE)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request."""

    status: int
    """Of HTTP."""
    body: bytes = b""
    """At most `ACME_ANSWER_MAX` bytes."""
    url: str = ""
    """What was asked; links are relative to it."""
    location: str | None = None
    """The URL of what was made."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    links: tuple[str, ...] = ()
    """Values of the Link fields, as they came."""

    @property
    def succeeded(self) -> bool:
        """Whether the status is one of success."""
        return self.status in _SUCCESS

    def linked_untrusted(self, relation: str) -> tuple[str, ...]:
        """Return the URLs that are linked as *relation*, the first few; what is not https is passed over.

        Source: RFC 8288 §3, RFC 8555 §7.4.2.
        """
        text = ", ".join(self.links)[: limits.ACME_LINKS_MAX]
        found: list[str] = []
        for target, parameters in _LINK.findall(text):
            named = _RELATION.search(parameters)
            if named is not None and relation in (named[1] or named[2] or "").split():
                with suppress(RemoteProtocolError):
                    found.append(check_url_untrusted(_joined(self.url, target)))
            if len(found) == limits.ACME_ALTERNATES_MAX:
                break
        return tuple(found)

    def made_at_untrusted(self) -> str:
        """Return the URL of what was made; raises RemoteProtocolError if none was named, or one that is not https."""
        if self.location is None:
            raise RemoteProtocolError("an answer without the Location of what it made")
        return check_url_untrusted(_joined(self.url, self.location))


def _joined(base: str, target: str) -> str:
    """Return *target* relative to *base*, or itself if the two make no URL."""
    try:
        return urljoin(base, target)
    except ValueError:
        return target


def retry_after_untrusted(text: str | None, *, now: datetime) -> float | None:
    """Read a Retry-After: a number of seconds, or a date.

    Args:
        text: The field's value, or None.
        now: The time by the clock of whoever wrote it, with its zone.

    Returns:
        Seconds from now, 0 or more and at most `RENEW_RETRY_AFTER_MAX`; None if there is none that makes sense.

    Source: RFC 9110 §10.2.3.
    """
    if text is None:
        return None
    bare = text.strip()
    if _SECONDS.fullmatch(bare):
        return min(float(bare), limits.RENEW_RETRY_AFTER_MAX)
    moment = date_untrusted(bare)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), limits.RENEW_RETRY_AFTER_MAX)


def date_untrusted(text: str | None) -> datetime | None:
    """Read a date of HTTP; None if it is none (RFC 9110 §5.6.7)."""
    try:
        moment = parsedate_to_datetime((text or "")[: limits.ACME_TEXT_MAX])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def refusal(answer: Answer, doing: str) -> AcmeError:
    """Return the error for an *answer* that is no success.

    Args:
        answer: Of the server.
        doing: What was asked, as in "the authority refused DOING".
    """
    problem = decode_problem_untrusted(answer.body)
    if problem is None:
        said = escaped(answer.body.decode("utf-8", "replace").strip()) or "no reason given"
        text = f"the certificate authority answered {answer.status} to {doing}: {said}"
        return AcmeError(text, retry_after=answer.retry_after)
    return of_problem(problem, f"the certificate authority refused {doing}", retry_after=answer.retry_after)


def of_problem(problem: Mapping[str, object] | None, what: str, *, retry_after: float | None = None) -> AcmeError:
    """Return the error for a problem document that came by itself or within another object.

    Args:
        problem: The document; None if the server gave none.
        what: What happened, the beginning of the sentence.
        retry_after: Seconds that the server asks to wait.
    """
    if problem is None:
        return AcmeError(f"{what}, and gave no reason", retry_after=retry_after)
    kind = problem.get("type")
    retryable = not (isinstance(kind, str) and kind in NEEDS_A_PERSON)
    return AcmeError(f"{what}: {sentence(problem)}", problem=problem, retry_after=retry_after, retryable=retryable)
