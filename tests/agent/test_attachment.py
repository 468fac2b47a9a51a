"""A session at the agent: heartbeat, carriers, probes, new addresses, the relay's goodbye; in memory."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, QUIC, FarRelay, attached_to, endpoints, far_relay, no_visitor
from trunnel.agent.attachment import Attachment, attached
from trunnel.errors import RejectCode, Rejected, SessionClosed
from trunnel.settings import limits
from trunnel.wire import control

WINDOW = limits.STREAM_WINDOW_MIN


@pytest.fixture
async def relay(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> FarRelay:
    """A relay by script; it ends with the test's nursery."""
    raise NotImplementedError


# --- the first carrier ------------------------------------------------------------------------------
