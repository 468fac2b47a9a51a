"""Fuzz targets for what an ACME server sends.

Invariants: an answer is understood or a `RemoteProtocolError`; what is
understood names https URLs, host names and tokens only; an order is for the
names that were asked for, waits only until its deadline, and fails in two
ways; an error's text is one line that a terminal can show.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.acme.answer import Answer, date_untrusted, refusal, retry_after_untrusted
from trunnel.acme.certificates import read_chain_untrusted
from trunnel.acme.messages import (
    decode_account_untrusted,
    decode_authorization_untrusted,
    decode_directory_untrusted,
    decode_order_untrusted,
    decode_problem_untrusted,
    decode_renewal_info_untrusted,
)
from trunnel.acme.order import Done, NeedChallenge, OrderMachine, Request, Wait
from trunnel.errors import AcmeError, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings import limits

DECODERS: Final = (
    decode_account_untrusted,
    decode_authorization_untrusted,
    decode_directory_untrusted,
    decode_order_untrusted,
    decode_renewal_info_untrusted,
)
NAME: Final = Hostname("a.example")
KEY: Final = ec.generate_private_key(ec.SECP256R1())
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE: Final = 50.0
HTTPS: Final = "https://"


def fuzz_acme_messages(data: bytes) -> None:
    """Every decoder refuses, or returns what can be used."""
    for decode in DECODERS:
        try:
            decode(data)
        except RemoteProtocolError as refused:
            assert refused.reason.isprintable()
    problem = decode_problem_untrusted(data)
    assert problem is None or isinstance(problem, dict)


def fuzz_acme_answer(data: bytes) -> None:
    """Headers never raise but for a place that is not https; every refusal makes a line."""
    text = data.decode("latin-1")
    wait = retry_after_untrusted(text, now=NOW)
    assert wait is None or 0 <= wait <= limits.RENEW_RETRY_AFTER_MAX
    moment = date_untrusted(text)
    assert moment is None or moment.tzinfo is UTC
    answer = Answer(status=400, body=data, url="https://ca.example/x", location=text, links=(text,))
    assert str(refusal(answer, "something")).isprintable()
    assert all(url.startswith(HTTPS) for url in answer.linked_untrusted("alternate"))
    with suppress(RemoteProtocolError):
        assert answer.made_at_untrusted().startswith(HTTPS)


def fuzz_acme_order(data: bytes) -> None:
    """An order fed with answers cut at zero bytes; the first byte of each says its status."""
    machine = OrderMachine([NAME], "CSR", thumbprint="thumb", deadline=DEADLINE, replaces="id")
    machine.start("https://ca.example/new-order")
    now = 0.0
    for part in data.split(b"\0"):
        status = 400 if part.startswith(b"!") else 200
        answer = Answer(status=status, body=part, url="https://ca.example/", location="/order/1", retry_after=0)
        try:
            action = machine.feed_untrusted(answer, now)
        except (AcmeError, RemoteProtocolError):
            return
        if isinstance(action, Wait):
            assert now < action.until <= DEADLINE
            now = action.until
        elif isinstance(action, NeedChallenge):
            assert action.name == NAME
            assert action.request.url.startswith(HTTPS)
        elif isinstance(action, Request):
            assert action.url.startswith(HTTPS)
        elif isinstance(action, Done):
            return


def fuzz_acme_chain(data: bytes) -> None:
    """No bytes are a chain for a key that was just made."""
    try:
        read_chain_untrusted(data, [NAME], KEY)
    except RemoteProtocolError as refused:
        assert refused.reason.isprintable()
    else:
        raise AssertionError("a chain for a key that nobody else has")
