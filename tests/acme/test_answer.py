"""Headers of an answer, and what a refusal means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trunnel.acme.answer import Answer, of_problem, refusal, retry_after_untrusted
from trunnel.acme.messages import PROBLEM_PREFIX
from trunnel.errors import RemoteProtocolError
from trunnel.settings import limits

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999", limits.RENEW_RETRY_AFTER_MAX),
        ("9" * 100, None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 21 Oct 2026 07:29:00 GMT", 60.0),
        ("Wed, 21 Oct 2026 07:29:00", 60.0),
        ("Wed, 21 Oct 2026 09:29:00 +0200", 60.0),
        ("Wed, 21 Oct 2020 07:29:00 GMT", 0.0),
        ("Wed, 21 Oct 9999 07:29:00 GMT", limits.RENEW_RETRY_AFTER_MAX),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    """RFC 9110 §10.2.3: from now, never negative, cut."""
    assert retry_after_untrusted(text, now=NOW) == seconds


def linked(*fields: str) -> tuple[str, ...]:
    return Answer(status=200, url="https://ca.example/a/b", links=fields).linked_untrusted("alternate")


def test_links_are_found_by_relation_and_are_relative_to_what_was_asked() -> None:
    """RFC 8288 §3: one field or several, quoted or not, other parameters before."""
    fields = ('<https://ca.example/d>;rel="index"', '<c>; title=x; rel=alternate, </d>;rel="up alternate"')
    assert linked(*fields) == ("https://ca.example/a/c", "https://ca.example/d")
    assert linked("<x", "x>;rel=alternate", "<x>;foo=alternate", "<x>") == ()


def test_links_are_few_and_https() -> None:
    assert len(linked(*(f"</{each}>;rel=alternate" for each in range(50)))) == limits.ACME_ALTERNATES_MAX
    assert linked("<http://ca.example/>;rel=alternate, <ftp:x>;rel=alternate, </y>;rel=alternate") == (
        "https://ca.example/y",
    )


def test_place_of_what_was_made_is_relative_to_what_was_asked() -> None:
    """RFC 9110 §10.2.2."""
    assert Answer(status=201, url="https://ca.example/a", location="/b").made_at_untrusted() == "https://ca.example/b"
    with pytest.raises(RemoteProtocolError):
        Answer(status=201, url="https://ca.example/a").made_at_untrusted()


def test_refusal_is_a_sentence_with_the_document_and_the_time_to_wait() -> None:
    body = b'{"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down","x":[1]}'
    error = refusal(Answer(status=429, body=body, retry_after=5.0), "the order")
    assert str(error) == "the certificate authority refused the order: rateLimited: slow down"
    assert error.problem == {"type": f"{PROBLEM_PREFIX}rateLimited", "detail": "slow down", "x": [1]}
    assert (error.retry_after, error.retryable) == (5.0, True)


@pytest.mark.parametrize(("body", "said"), [(b"", "no reason given"), (b"<p>\x07", r"<p>\x07"), (b"\xff", "\ufffd")])
def test_refusal_without_a_document_shows_what_came(body: bytes, said: str) -> None:
    error = refusal(Answer(status=502, body=body), "the order")
    assert str(error) == f"the certificate authority answered 502 to the order: {said}"
    assert (error.problem, error.type) == (None, "")


@pytest.mark.parametrize(
    ("short", "retryable"),
    [("rateLimited", True), ("serverInternal", True), ("dns", True), ("badCSR", False), ("rejectedIdentifier", False)],
)
def test_what_needs_a_person_is_not_retried(short: str, retryable: bool) -> None:
    assert of_problem({"type": f"{PROBLEM_PREFIX}{short}"}, "it failed").retryable is retryable
