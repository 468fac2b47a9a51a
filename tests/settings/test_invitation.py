"""The string of an invitation: whole, or refused with a sentence; and never shown."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime

import msgspec
import pytest

from trunnel.errors import InvalidName
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.invitation import JoinString

SECRET = "s3cr3t-" + "x" * 36
INVITATION = JoinString(
    server=ServerAddress("t.example.com", 4433),
    relay=KeyId.of_spki(b"relay"),
    secret=SECRET,
    expires=datetime(2027, 1, 31, 12, tzinfo=UTC),
    names=(Hostname("shop"), Hostname("www")),
)
TEXT = INVITATION.to_text()
DAMAGED = "cut or altered"


def packed(content: object) -> str:
    """Return a string with a right checksum and any content."""
    octets = content if isinstance(content, bytes) else msgspec.json.encode(content)
    octets += hashlib.sha256(octets).digest()[:4]
    return "trunnel-join-1." + base64.urlsafe_b64encode(octets).decode().rstrip("=")


def fields(**changed: object) -> dict[str, object]:
    """Return the content of a good invitation with some of it changed."""
    return {"a": "t.example.com:4433", "p": INVITATION.relay.value, "s": SECRET, "e": 1, **changed}


def test_what_is_printed_is_read() -> None:
    assert JoinString.parse(TEXT) == INVITATION
    assert TEXT.startswith("trunnel-join-1.")
    assert TEXT.isascii()


@pytest.mark.parametrize("wrap", ["{}\n", "  {}  ", "'{}'", '"{}"', "<{}>", "`{}`"])
def test_what_mail_and_chat_add_is_ignored(wrap: str) -> None:
    assert JoinString.parse(wrap.format(TEXT)) == INVITATION


@pytest.mark.parametrize("every", [1, 10, 64, 76])
@pytest.mark.parametrize("break_", ["\n", "\r\n", " ", "\n    ", "\N{NO-BREAK SPACE}"])
def test_broken_lines_are_joined(every: int, break_: str) -> None:
    text = break_.join(TEXT[at : at + every] for at in range(0, len(TEXT), every))
    assert JoinString.parse(text) == INVITATION


def test_every_cut_is_refused() -> None:
    for length in range(len("trunnel-join-1."), len(TEXT)):
        with pytest.raises(InvalidName, match=DAMAGED):
            JoinString.parse(TEXT[:length])


def test_every_altered_character_is_refused() -> None:
    """Also those of which base64 would ignore bits."""
    for at in range(len("trunnel-join-1."), len(TEXT)):
        for other in "Aq-9":
            if TEXT[at] != other:
                with pytest.raises(InvalidName, match=DAMAGED):
                    JoinString.parse(TEXT[:at] + other + TEXT[at + 1 :])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "begins with trunnel-join-1."),
        ("3000", "begins with trunnel-join-1."),
        ("trunnel-join-", DAMAGED),
        (TEXT.replace("-1.", "-2."), "update it"),
        (TEXT + TEXT, DAMAGED),
        (f"please: {TEXT}", DAMAGED),
        (TEXT + "=", DAMAGED),
        (TEXT + "\0", DAMAGED),
        ("x" * (limits.JOIN_STRING_MAX + 1), "longer than any"),
        (packed(b"[]"), "update it"),
        (packed(b"\xff\xfe"), "update it"),
        (packed({"a": "t.example.com"}), "update it"),
        (packed(fields(e=-1)), "update it"),
        (packed(fields(e=1 << 60)), "update it"),
        (packed(fields(s="short")), "update it"),
        (packed(fields(s=SECRET + "\n")), "update it"),
        (packed(fields(a="two words")), "not a host name"),
        (packed(fields(p="me")), "not a key id"),
        (packed(fields(n=["a.b"])), DAMAGED),
        (packed(fields(n=["x"] * 65)), DAMAGED),
    ],
)
def test_what_is_none_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidName, match=sentence):
        JoinString.parse(text)


def test_what_a_later_version_adds_is_ignored() -> None:
    assert JoinString.parse(packed(fields(x=["new"], n=["shop", "www"], e=1801396800))) == INVITATION


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(INVITATION)
    assert SECRET not in str(INVITATION)
    for text in (TEXT[:-1], packed(fields(e="soon")), packed(fields(a="two words"))):
        with pytest.raises(InvalidName) as refused:
            JoinString.parse(text)
        assert SECRET not in str(refused.value)
        assert text not in str(refused.value)
