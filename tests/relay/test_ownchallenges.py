"""Which challenges the relay answers, and with what."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from trunnel.acme.challenge import context_for_challenge
from trunnel.clock import utc_now
from trunnel.errors import LocalProtocolError
from trunnel.names import Hostname
from trunnel.relay.ownchallenges import OwnChallenges

NAME = Hostname("relay.example")
OTHER = Hostname("www.relay.example")


def proof(name: Hostname = NAME) -> SSL.Context:
    return context_for_challenge(name, "token.thumbprint", utc_now())


def test_only_names_that_are_to_be_certified_are_answered_for() -> None:
    challenges = OwnChallenges({NAME})
    with pytest.raises(LocalProtocolError), challenges.answering(OTHER, proof(OTHER)):
        pass
    assert challenges.context_for(OTHER) is None


def test_a_name_is_answered_for_as_long_as_somebody_proves_it() -> None:
    """Two orders for one name at a time: the later one's answer, then again the earlier one's."""
    challenges, first, second = OwnChallenges({NAME}), proof(), proof()
    with challenges.answering(NAME, first):
        with challenges.answering(NAME, second):
            assert challenges.context_for(NAME) is second
        assert challenges.context_for(NAME) is first
    assert challenges.context_for(NAME) is None
