"""Fuzz target of DNS answers: whatever arrives is an answer to our question, or nothing; never another error.

The first byte says which question was asked; the rest is what came back.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import dns.message
import dns.name
from dns.message import QueryMessage

from trunnel.errors import ConnectError
from trunnel.names import Hostname
from trunnel.relay.dnsclient import answer_untrusted, cname_in, texts_in
from trunnel.settings.limits import DNS_TEXTS_MAX

NAME: Final = dns.name.from_text("www.shop.example.")
MESSAGE_ID: Final = 0x1234


def question(kind: str) -> QueryMessage:
    """Return a question about NAME."""
    return dns.message.make_query(NAME, kind, use_edns=0, id=MESSAGE_ID)


QUESTIONS: Final = (question("CNAME"), question("TXT"))


def fuzz_dns_answer(data: bytes) -> None:
    """An answer has our id and our question; what it says has its form, and is not too much."""
    asked = QUESTIONS[data[0] % 2] if data else QUESTIONS[0]
    answer = answer_untrusted(data[1:], asked)
    if answer is None:
        return
    assert answer.id == MESSAGE_ID
    assert answer.question == asked.question or not answer.question
    target = cname_in(answer, NAME)
    assert target is None or Hostname.parse(target.value) == target
    with suppress(ConnectError):
        assert len(texts_in(answer)) <= DNS_TEXTS_MAX
