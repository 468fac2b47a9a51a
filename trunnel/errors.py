"""Every error trunnel raises, ordered by what the caller does next.

One hierarchy for all layers: a caller rarely cares *which module* failed, it
cares whether to retry, to close with a code, to print and exit, or to report
a bug.  Data lives in attributes, `str(error)` is a whole sentence for people.

Wrong arguments are `ValueError`/`TypeError`; using a closed object is
`trio.ClosedResourceError`; a broken byte stream is `trio.BrokenResourceError`
(with a `StreamReset` or `SessionClosed` as its cause where one is known).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import final


@final
class ErrorCode(IntEnum):
    """Why a stream or a carrier ended, as carried on the wire (32 bits).

    0x00-0x0d are the codes of RFC 9113 §7, so that HTTP/2 tools name them;
    0x100 and up are ours and are legal HTTP/2 codes too (unknown codes have
    no special meaning, RFC 9113 §7).
    """

    NO_ERROR = 0x00
    """Finished; nothing went wrong."""
    PROTOCOL_ERROR = 0x01
    """The peer broke the protocol."""
    INTERNAL_ERROR = 0x02
    """A bug or an exhausted resource on the sender's side."""
    FLOW_CONTROL_ERROR = 0x03
    """The peer sent more than it had credit for."""
    STREAM_CLOSED = 0x05
    """A frame came for a stream that had ended."""
    REFUSED_STREAM = 0x07
    """The stream was not processed at all; safe to retry elsewhere."""
    CANCEL = 0x08
    """The sender no longer wants the stream."""
    COMPRESSION_ERROR = 0x09
    """A header block does not decode."""
    ENHANCE_YOUR_CALM = 0x0B
    """The peer floods."""

    ORIGIN_UNREACHABLE = 0x100
    """The agent could not connect to its origin."""
    PEER_ABORTED = 0x101
    """The far socket was reset; what came before the reset was delivered."""
    DEADLINE = 0x102
    """A deadline of the stream ran out."""
    DRAINING = 0x103
    """The side that sends this is shutting down."""
    BAD_PREFACE = 0x104
    """The PROXY header at the head of a stream was malformed."""
    UNKNOWN_ENDPOINT = 0x105
    """The agent does not serve the name in the preface."""
    TLS_FAILURE = 0x106
    """The visitor's TLS handshake with the agent failed."""
    SLOW_CONSUMER = 0x107
    """The session ran out of buffer and this stream's reader had stalled."""

    @classmethod
    def from_wire(cls, value: int) -> ErrorCode:
        """Name a code from a peer; an unknown one is INTERNAL_ERROR (RFC 9113 §7)."""
        try:
            return cls(value)
        except ValueError:
            return cls.INTERNAL_ERROR


@final
class RejectCode(StrEnum):
    """Why a relay refuses or ends an agent's session (`rejected` message)."""

    UNAUTHORIZED = "unauthorized"
    """The key is not in the authorised list."""
    REVOKED = "revoked"
    """The key was removed from the list while connected."""
    REPLACED = "replaced"
    """Another instance with the same key took over."""
    VERSION = "version"
    """No protocol version in common."""
    OVERLOADED = "overloaded"
    """A limit of the relay is reached; retry after the hint."""
    DRAINING = "draining"
    """The relay is shutting down; retry after the hint."""
    NO_SESSION = "no-session"
    """A carrier was to join others, in a session that this process of the relay does not have."""
    PROTOCOL = "protocol"
    """The agent's messages made no sense."""
    NAME_TAKEN = "name-taken"
    """Another agent owns a name that was asked for."""
    INVITATION = "invitation"
    """The invitation is unknown, used by another key, revoked or expired."""

    @property
    def retryable(self) -> bool:
        """Whether a later try may succeed without a person doing something."""
        return self not in _FINAL


_FINAL = frozenset(
    {RejectCode.UNAUTHORIZED, RejectCode.REVOKED, RejectCode.VERSION, RejectCode.NAME_TAKEN, RejectCode.INVITATION}
)
"""What a person has to mend."""


class TrunnelError(Exception):
    """Base of all; never raised itself."""


@final
class InvalidName(TrunnelError, ValueError):
    """A name, id, address or target that a person wrote does not parse.

    Raised by the constructors in `trunnel.names`; the text says what is wrong
    and, where possible, what was meant.
    """


@final
class ConfigError(TrunnelError):
    """The configuration cannot work; exit status 2, never retried.

    Raised before anything is started.  `key` is the option's path (for
    example `relay.domain`), `reason` the sentence.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


@final
class LocalProtocolError(TrunnelError):
    """We broke the contract of an API: a bug.  Never caught below a task boundary."""


@final
class RemoteProtocolError(TrunnelError):
    """The peer broke a protocol; close with `code`.

    The only error that functions ending in `_untrusted` raise.
    """

    def __init__(self, reason: str, *, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class ConnectError(TrunnelError):
    """Dialling, name look-up or the TLS handshake failed; retry with backoff."""

    retryable = True


@final
class RelayIdentityError(ConnectError):
    """The relay is not who it should be: exit status 3, nothing was sent to it.

    `hint` tells the person what to do.
    """

    retryable = False

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason if not hint else f"{reason}\n{hint}")
        self.reason = reason
        self.hint = hint


@final
class AuthError(ConnectError):
    """The key is in use by another process (exit 4); a key file that cannot be used is a ConfigError."""

    retryable = False


@final
class SessionClosed(TrunnelError):
    """The session ended: by us, by the peer, or by loss.

    `retryable` says whether reconnecting makes sense.
    """

    def __init__(self, reason: str, *, retryable: bool = True, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable
        self.code = code


@final
class StreamReset(TrunnelError):
    """One stream ended abnormally, by the peer's reset; the session lives on.

    Usually the `__cause__` of a `trio.BrokenResourceError`.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(f"the stream was reset: {code.name}")
        self.code = code


@final
class Rejected(TrunnelError):
    """The relay said no; exit status 4 unless a retry may help."""

    def __init__(self, code: RejectCode, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        """Seconds the relay asks to wait, or None."""

    @property
    def retryable(self) -> bool:
        """Whether a later try may succeed by itself."""
        return self.code.retryable


@final
class AcmeError(TrunnelError):
    """A certificate could not be had from its authority; the one in use stays in use.

    Source: RFC 8555 §6.7 (problem documents, RFC 9457).
    """

    def __init__(
        self,
        reason: str,
        *,
        problem: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        retryable: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.problem = problem
        """The authority's problem document as a whole, if it sent one."""
        self.retry_after = retry_after
        """Seconds that the authority asks to wait, or None."""
        self.retryable = retryable
        """Whether a later try may succeed without a person doing something."""

    @property
    def type(self) -> str:
        """The problem's type, such as `urn:ietf:params:acme:error:rateLimited`; empty if there is none."""
        found = None if self.problem is None else self.problem.get("type")
        return found if isinstance(found, str) else ""
