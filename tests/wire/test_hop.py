"""Who failed, the proxy or the way behind it, is told in words."""

from __future__ import annotations

from trunnel.names import ServerAddress
from trunnel.wire.hop import Refusal

HOP, TARGET = ServerAddress("10.0.0.1", 3128), ServerAddress("relay.example", 443)


def test_a_proxy_that_would_not_is_named() -> None:
    refusal = Refusal(reason="407 Proxy Authentication Required", beyond=False)
    assert refusal.sentence(HOP, TARGET) == "the proxy at 10.0.0.1:3128 refused: 407 Proxy Authentication Required"


def test_a_proxy_that_could_not_names_the_relay() -> None:
    refusal = Refusal(reason="connection refused", beyond=True)
    assert refusal.sentence(HOP, TARGET) == (
        "the proxy at 10.0.0.1:3128 could not reach relay.example:443: connection refused"
    )
