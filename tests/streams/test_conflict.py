"""One task at a time."""

from __future__ import annotations

import pytest
import trio

from trunnel.streams.conflict import ConflictDetector


def test_a_second_entry_is_refused_and_the_first_stays_inside() -> None:
    detector = ConflictDetector("busy here")
    with detector:
        for _ in range(2):
            with pytest.raises(trio.BusyResourceError, match="busy here"), detector:
                pytest.fail("two inside")
    with detector:
        pass
