"""Targets for what this machine tells of its network and what we remembered of it.

Invariants: the file of outcomes is read or refused with ConfigError, and what
was read survives being written; a route file of any content leads to a usable
default route or to none.
"""

from __future__ import annotations

from trunnel.agent.choices import content_of, outcomes_in
from trunnel.agent.network import default_route_v4, default_route_v6
from trunnel.errors import ConfigError
from trunnel.settings import limits


def fuzz_choices(data: bytes) -> None:
    """Outcomes that were read are written in a form that reads the same, the oldest of too many apart."""
    try:
        outcomes = outcomes_in(data)
    except ConfigError as refused:
        assert str(refused)
        return
    again = outcomes_in(content_of(outcomes))
    assert len(again) == min(len(outcomes), limits.CHOICES_MAX)
    assert sorted(map(repr, again)) == sorted(map(repr, outcomes)) or len(outcomes) > limits.CHOICES_MAX


def fuzz_route_files(data: bytes) -> None:
    """A default route has an interface and a gateway, each one word."""
    for read in (default_route_v4, default_route_v6):
        route = read(data)
        assert route is None or [route.interface, route.gateway] == f"{route.interface} {route.gateway}".split()
