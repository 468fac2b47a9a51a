"""What a server says is checked before it is used (RFC 8555 §7.1, RFC 9773 §4.2)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acme.transcripts import authorization, order
from trunnel.acme import messages
from trunnel.acme.messages import check_url_untrusted, escaped, sentence
from trunnel.errors import RemoteProtocolError
from trunnel.settings import limits

URL = "https://ca.example/x"
DIRECTORY: dict[str, object] = {"newNonce": URL, "newAccount": URL, "newOrder": URL}


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


def test_directory_names_what_the_authority_offers() -> None:
    meta = {"caaIdentities": ["ca.example"], "externalAccountRequired": True, "unknown": [1]}
    said = encoded({**DIRECTORY, "renewalInfo": URL, "newAuthz": "not looked at", "meta": meta})
    directory = messages.decode_directory_untrusted(said)
    assert (directory.new_order, directory.renewal_info, directory.key_change) == (URL, URL, None)
    assert (directory.meta.caa_identities, directory.meta.external_account_required) == (["ca.example"], True)


@pytest.mark.parametrize("field", ["newNonce", "newAccount", "newOrder", "keyChange", "revokeCert", "renewalInfo"])
def test_directory_with_a_url_that_is_not_https_is_refused(field: str) -> None:
    with pytest.raises(RemoteProtocolError, match="not an https URL"):
        messages.decode_directory_untrusted(encoded({**DIRECTORY, field: "http://ca.example/x"}))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://ca.example/",
        "HTTPS://ca.example/",
        "https://",
        "https:///path",
        "https://ca.example/a b",
        "https://ca.example/\r\nHost: x",
        "https://user@ca.example/",
        "https://[::1",
        "https://ca.example:99999/",
        "https://ca.example:0/",
        "https://ca.example/é",
        f"https://ca.example/{'x' * limits.ACME_URL_MAX}",
    ],
)
def test_url_that_is_not_plain_https_is_refused(url: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_url_untrusted(url)


@pytest.mark.parametrize("url", ["https://ca.example", "https://ca.example:14000/a?b=c#d", "https://[::1]:1/"])
def test_url_that_is_plain_https_is_taken(url: str) -> None:
    assert check_url_untrusted(url) == url


def test_names_are_compared_in_their_canonical_form() -> None:
    assert messages.decode_order_untrusted(encoded(order("pending", "A.Example."))).names == {"a.example"}
    assert (
        messages.decode_authorization_untrusted(encoded(authorization("valid", "A.Example"))).name.value == "a.example"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"identifiers": []},
        {"identifiers": [{"type": "dns", "value": f"{each}.example"} for each in range(limits.ACME_NAMES_MAX + 1)]},
        {"identifiers": [{"type": "dns", "value": "*.example"}]},
        {"identifiers": [{"type": "dns", "value": "\u212a.example"}]},
        {"authorizations": [URL, URL]},
        {"certificate": "http://ca.example/"},
    ],
)
def test_order_that_cannot_be_followed_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode_order_untrusted(encoded({**order("pending"), **more}))


def test_authorisation_with_many_challenges_is_refused() -> None:
    said = {**authorization("pending"), "challenges": [{"type": "x"}] * (limits.ACME_CHALLENGES_MAX + 1)}
    with pytest.raises(RemoteProtocolError, match="challenges"):
        messages.decode_authorization_untrusted(encoded(said))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"', b"[" * 100_000, b'{"status":"\xff"}'])
def test_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode_account_untrusted(body)
    assert messages.decode_problem_untrusted(body) is None


def test_body_over_the_limit_is_not_decoded() -> None:
    body = b'{"status":"valid"}' + b" " * limits.ACME_ANSWER_MAX
    with pytest.raises(RemoteProtocolError, match="is over"):
        messages.decode_account_untrusted(body)
    assert messages.decode_problem_untrusted(body) is None


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-02T00:00:00", "2026-01-03T00:00:00"),
        ("2026-01-02T00:00:00", "2026-01-03T00:00:00Z"),
        ("soon", "later"),
    ],
)
def test_renewal_window_that_is_none_is_refused(start: str, end: str) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode_renewal_info_untrusted(encoded({"suggestedWindow": {"start": start, "end": end}}))


def test_sentence_tells_of_each_subproblem() -> None:
    """RFC 8555 §6.7.1."""
    prefix = messages.PROBLEM_PREFIX
    caa = {"type": f"{prefix}caa", "detail": "CAA forbids", "identifier": {"type": "dns", "value": "a.example"}}
    compound = {"type": f"{prefix}compound", "title": "Errors", "subproblems": [caa, {"detail": "more"}, 1]}
    assert sentence(compound) == "compound: Errors (a.example: caa: CAA forbids; more)"
    assert sentence({}) == "no reason given"


@given(st.text(max_size=2 * limits.ACME_TEXT_MAX))
def test_text_of_a_server_is_one_short_line(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * limits.ACME_TEXT_MAX + 3
