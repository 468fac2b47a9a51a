"""Plaintext alerts: bytes as RFC 8446 writes them, and one for each refusal."""

from __future__ import annotations

import pytest

from trunnel.wire.alert import AlertDescription, alert_for, plaintext_alert
from trunnel.wire.clienthello import Verdict


def test_an_alert_is_one_record_of_two_bytes() -> None:
    assert plaintext_alert(AlertDescription.UNRECOGNIZED_NAME) == bytes.fromhex("15 0303 0002 02 70")


@pytest.mark.parametrize(
    ("description", "number"),
    [
        (AlertDescription.UNEXPECTED_MESSAGE, 10),
        (AlertDescription.RECORD_OVERFLOW, 22),
        (AlertDescription.DECODE_ERROR, 50),
        (AlertDescription.PROTOCOL_VERSION, 70),
        (AlertDescription.INTERNAL_ERROR, 80),
        (AlertDescription.UNRECOGNIZED_NAME, 112),
        (AlertDescription.NO_APPLICATION_PROTOCOL, 120),
    ],
)
def test_descriptions_have_their_registered_numbers(description: AlertDescription, number: int) -> None:
    assert plaintext_alert(description)[-1] == number


@pytest.mark.parametrize(
    ("verdict", "description"),
    [
        (Verdict.NO_SNI, AlertDescription.UNRECOGNIZED_NAME),
        (Verdict.BAD_NAME, AlertDescription.UNRECOGNIZED_NAME),
        (Verdict.MALFORMED, AlertDescription.DECODE_ERROR),
        (Verdict.TOO_LARGE, AlertDescription.RECORD_OVERFLOW),
        (Verdict.ROUTE, None),
        (Verdict.NEED_MORE, None),
        (Verdict.NOT_TLS, None),
    ],
)
def test_each_verdict_has_its_answer(verdict: Verdict, description: AlertDescription | None) -> None:
    """A peer that does not speak TLS gets none: it could not read it."""
    assert alert_for(verdict) is description
