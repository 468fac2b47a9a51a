"""Visitors of a running relay: whom they reach, how they are refused, and what a lost agent does to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import trunnel
from tests.relay.house import offering
from tests.tunnels import PATIENCE, Gate, greet, house, knock, read_to_end
from trunnel.events import CarrierLost, StreamClosed, VisitorRefused
from trunnel.settings.agent import DataChoice
from trunnel.wire.alert import AlertDescription, plaintext_alert


async def test_a_name_without_an_owner_gets_an_alert(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await home.expose(greet)
        said = await knock(home.relay.visitors_port, offering(b"http/1.1", name=b"nobody.localhost"))
        assert said == plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
        assert home.log.of(VisitorRefused)[0].verdict == "unknown-name"


async def test_a_session_at_its_limit_refuses_the_next_visitor(tmp_path: Path) -> None:
    gate = Gate()
    async with house(tmp_path, streams_per_session=1) as home:
        agent, _ = await home.expose(gate.serve)
        visitor = await home.visit(f"{agent.key.key_id}.localhost")
        await gate.entered.wait()
        with pytest.raises(trunnel.ConnectError):
            await home.visit(f"{agent.key.key_id}.localhost")
        assert home.log.of(VisitorRefused)[0].verdict == "streams-per-session"
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"


async def test_a_lost_agent_resets_its_visitors_and_no_others(tmp_path: Path) -> None:
    """Truncation never looks like an end; each visitor leaves a record.  Those on data connections live on."""
    lost, kept = Gate(), Gate()
    async with house(tmp_path) as home:
        first, _ = await home.expose(lost.serve, "first", data=DataChoice.SESSION)
        second, _ = await home.expose(kept.serve, "second")
        victim = await home.visit(f"{first.key.key_id}.localhost")
        other = await home.visit(f"{second.key.key_id}.localhost")
        await lost.entered.wait()
        await kept.entered.wait()
        assert first.supervisors[0].attachment is not None
        first.supervisors[0].attachment.link.abort("cut")
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await read_to_end(victim)
        assert (await home.log.wait(CarrierLost)).carriers == 0
        assert (await home.log.wait(StreamClosed)).hostname == f"{first.key.key_id}.localhost"
        kept.opened.set()
        assert await read_to_end(other) == b"inout"


async def test_a_handler_that_raises_hurts_only_its_visitor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
        if await stream.receive_some() == b"bad":
            raise ValueError("a bug of the program's")
        await greet(stream, visitor)

    async with house(tmp_path) as home:
        agent, _ = await home.expose(serve)
        hostname = f"{agent.key.key_id}.localhost"
        visitor = await home.visit(hostname)
        await visitor.send_all(b"bad")
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await read_to_end(visitor)
        assert await home.ask(hostname) == hostname.encode()
    assert "stream_failed" in [record.message for record in caplog.records]
