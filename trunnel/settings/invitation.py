"""The string of an invitation: what `trunnel invite` prints and `--join` reads.

    trunnel-join-1.BASE64URL(JSON CHECKSUM)

JSON is an object: `a` the relay's address as an agent dials it, `p` the pin of
its key, `s` the single-use secret (32 bytes, base64url), `e` when it ends
(seconds since 1970), `n` the names that come with it, left out if there are
none.  Keys that are not known are ignored.  CHECKSUM is the first four bytes
of SHA-256 of what stands before it: it tells a string that was cut or altered on its way
from one that the relay does not know.  It protects from accidents; from
everybody else it is the secret that protects.

People send the string by mail and chat, which break lines and add blanks and
quotation marks: those are ignored, nothing else is.

Whoever has the string before it is used can use it: it is never logged, never
part of an event, and `repr` does not show its secret.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Final, final

import msgspec

from trunnel.errors import InvalidName
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings import limits

_PREFIX: Final = "trunnel-join-"
_VERSION: Final = "1"
_CHECKSUM_BYTES: Final = 4
_SHAPE: Final = re.compile(rf"{_PREFIX}([0-9]{{1,4}})\.([A-Za-z0-9_-]+)", re.ASCII)
_QUOTES: Final = "\"'`<>"
_SECRET: Final = r"\A[A-Za-z0-9_-]{43}\Z"  # noqa: S105 - its form
_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, beyond which `datetime` does not go."""
_DAMAGED: Final = "the invitation was cut or altered on its way: copy the whole string that `trunnel invite` printed"


class _Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON object."""

    a: str
    p: str
    s: Annotated[str, msgspec.Meta(pattern=_SECRET)]
    e: Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND)]
    n: list[str] = []


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JoinString:
    """What an invitation says."""

    server: ServerAddress
    """The relay, as the agent dials it."""
    relay: KeyId
    """The key that the relay has; nobody else is told the secret."""
    secret: str = field(repr=False)
    """Lets one key in, once: 32 bytes in base64url."""
    expires: datetime
    """When it ends, by the relay's clock; whole seconds."""
    names: tuple[Hostname, ...] = ()
    """Single labels that the agent gets."""

    @classmethod
    def parse(cls, text: str) -> JoinString:
        """Parse what a person pasted.

        Raises:
            InvalidName: It is no invitation, or a damaged one; the sentence does not repeat it.
        """
        if len(text) > limits.JOIN_STRING_MAX:
            raise InvalidName(f"it is longer than any invitation ({limits.JOIN_STRING_MAX} characters)")
        found = _SHAPE.fullmatch("".join(text.split()).strip(_QUOTES))
        if found is None:
            raise InvalidName(_why_not(text))
        if found[1] != _VERSION:
            raise InvalidName("the invitation is of a form that this trunnel does not know: update it")
        return cls._of(_decode(found[2]))

    @classmethod
    def _of(cls, content: _Content) -> JoinString:
        names = tuple(Hostname.parse(name) for name in content.n)
        if len(names) > limits.AUTHORIZED_NAMES_MAX or any("." in name.value for name in names):
            raise InvalidName(_DAMAGED)
        return cls(
            server=ServerAddress.parse(content.a),
            relay=KeyId.parse(content.p),
            secret=content.s,
            expires=datetime.fromtimestamp(content.e, UTC),
            names=names,
        )

    def to_text(self) -> str:
        """Return the string, which holds the secret."""
        content = msgspec.json.encode(
            _Content(
                a=str(self.server),
                p=self.relay.value,
                s=self.secret,
                e=int(self.expires.timestamp()),
                n=[name.value for name in self.names],
            )
        )
        return f"{_PREFIX}{_VERSION}.{_to_base64(content + _checksum(content))}"


def _decode(text: str) -> _Content:
    """Undo base64 and checksum; raises InvalidName."""
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as exc:
        raise InvalidName(_DAMAGED) from exc
    content = octets[:-_CHECKSUM_BYTES]
    if octets != content + _checksum(content) or _to_base64(octets) != text:  # one form: no bit is ignored
        raise InvalidName(_DAMAGED)
    try:
        return msgspec.json.decode(content, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Whole, and yet not what we know; the cause may show its content, and is left out.
        raise InvalidName("the invitation is of a form that this trunnel does not know: update it") from None


def _to_base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_CHECKSUM_BYTES]


def _why_not(text: str) -> str:
    if _PREFIX not in text:
        return f"it is no invitation: one begins with {_PREFIX}{_VERSION}. and comes from `trunnel invite`"
    return _DAMAGED
