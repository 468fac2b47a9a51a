"""What tests of the agent ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.agent.far_relay import FarRelay, far_relay


@pytest.fixture
async def relay(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarRelay]:
    """Yield a relay by script; time is virtual if the test itself asks for that clock."""
    async with far_relay(monkeypatch) as running:
        yield running
