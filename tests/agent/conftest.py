"""What tests of the agent ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from tests.agent.far_relay import FarRelay, far_relay
from trunnel import capabilities


@pytest.fixture
async def relay(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarRelay]:
    """Yield a relay by script; time is virtual if the test itself asks for that clock, so no process is started."""
    monkeypatch.setattr(capabilities, "HAS_PUMP", False)
    async with far_relay(monkeypatch) as running:
        yield running


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Return virtual time that leaves the kernel a moment to deliver: sockets are in the game."""
    autojump_clock.autojump_threshold = 0.01
    return autojump_clock
