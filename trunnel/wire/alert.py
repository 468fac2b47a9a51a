"""Fatal TLS alerts in plaintext: the one thing a relay says to a visitor it refuses.

Before keys exist an alert is a plain record, so the relay can name its reason
in a form that every client prints, although it never takes part in the
handshake.  Source: RFC 8446 §6, Appendix B.2; RFC 6066 §3; RFC 7301 §3.2.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, final

from trunnel.wire.clienthello import Verdict

_FATAL_ALERT_RECORD: Final = b"\x15\x03\x03\x00\x02\x02"
"""Type alert, version 3.3, two bytes long, level fatal; the description follows."""


@final
class AlertDescription(IntEnum):
    """Why a TLS connection ends, as carried on the wire (RFC 8446 §6)."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    ILLEGAL_PARAMETER = 47
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    USER_CANCELED = 90
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


_ANSWERS: Final = {
    Verdict.NO_SNI: AlertDescription.UNRECOGNIZED_NAME,
    Verdict.BAD_NAME: AlertDescription.UNRECOGNIZED_NAME,
    Verdict.MALFORMED: AlertDescription.DECODE_ERROR,
    Verdict.TOO_LARGE: AlertDescription.RECORD_OVERFLOW,
}


def plaintext_alert(description: AlertDescription) -> bytes:
    """Return the record, 7 bytes, of a fatal alert."""
    return _FATAL_ALERT_RECORD + bytes([description])


def alert_for(verdict: Verdict) -> AlertDescription | None:
    """Return the alert that answers *verdict*.

    Returns:
        1. The alert's description.
        2. None: nothing to refuse (ROUTE, NEED_MORE), or a peer that does not
           speak TLS and would not understand (NOT_TLS).
    """
    return _ANSWERS.get(verdict)
