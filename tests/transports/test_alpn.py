"""ALPN tells agents, challenges and visitors apart."""

from __future__ import annotations

import pytest

from trunnel.transports.alpn import CHALLENGE_ALPN, LINK_ALPN_H2, offers_challenge, offers_link


@pytest.mark.parametrize("alpn", [(LINK_ALPN_H2,), (b"h2", LINK_ALPN_H2), (b"trunnel-new/7",)])
def test_every_trunnel_name_is_an_agents(alpn: tuple[bytes, ...]) -> None:
    assert offers_link(alpn)
    assert not offers_challenge(alpn)


@pytest.mark.parametrize("alpn", [(), (b"h2", b"http/1.1"), (b"TRUNNEL-h2/1",), (CHALLENGE_ALPN, b"h2")])
def test_everything_else_is_a_visitors(alpn: tuple[bytes, ...]) -> None:
    assert not offers_link(alpn)
    assert not offers_challenge(alpn)


def test_a_challenge_offers_nothing_else() -> None:
    """RFC 8737 §3: `acme-tls/1` is the only name."""
    assert offers_challenge((CHALLENGE_ALPN,))
    assert offers_challenge([CHALLENGE_ALPN])
