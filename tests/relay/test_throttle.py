"""Trouble that can be repeated at will is reported once a while, and nothing is left uncounted."""

from __future__ import annotations

from trunnel.relay.throttle import Throttle


def test_a_throttle_counts_what_it_holds_back() -> None:
    throttle = Throttle(1.0)
    assert [throttle.due(now) for now in (5.0, 5.5, 5.9, 6.0, 6.5, 9.0)] == [1, 0, 0, 3, 0, 2]
