"""How a relay stops, alone or in favour of another: who is told, who is still led on, and how long it waits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL

from tests.relay.test_binding import take_over
from tests.tunnels import PATIENCE, Gate, House, greet, house, read_to_end, until
from trunnel import capabilities
from trunnel.clock import utc_now
from trunnel.events import Connected, Disconnected, Draining, SessionEnded
from trunnel.names import Hostname
from trunnel.relay.admission import Admission, Decision
from trunnel.streams.tls import TlsRole, TlsStream

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

HALF_AN_HOUR = timedelta(minutes=30)


@dataclass
class Accepted:
    """How many connections were accepted, by any relay."""

    count: int = 0

    async def silent(self, home: House, count: int = 1) -> list[trio.SocketStream]:
        """Connect visitors that say nothing yet; returns once the relay has accepted them."""
        wanted = self.count + count
        streams = [await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port) for _ in range(count)]
        await until(lambda: self.count >= wanted)
        return streams


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> Accepted:
    counted = Accepted()
    admit = Admission.admit_connection

    def count(admission: Admission, host: str) -> Decision:
        counted.count += 1
        return admit(admission, host)

    monkeypatch.setattr(Admission, "admit_connection", count)
    return counted


async def speak(stream: trio.SocketStream, hostname: str) -> bytes:
    """Be the visitor whom *stream* belongs to; returns the answer."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.clear_mode(0x1)
    with trio.fail_after(PATIENCE):
        visitor = await TlsStream.handshake(
            stream, context, role=TlsRole.CLIENT, server_name=Hostname(hostname), timeout=PATIENCE
        )
        await visitor.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await visitor.send_eof()
        return await read_to_end(visitor)


async def test_whoever_was_accepted_is_led_on_although_another_relay_has_taken_over(
    tmp_path: Path, accepted: Accepted
) -> None:
    """Their hello comes after the agents have been told to go."""
    async with house(tmp_path) as home:
        agent, agent_log = await home.expose(greet)
        hostname = f"{agent.key.key_id}.localhost"
        streams = await accepted.silent(home, 3)
        await take_over(home)
        await agent_log.wait(Connected, 2)
        for stream in streams:
            assert await speak(stream, hostname) == hostname.encode()
        await home.log.wait(SessionEnded)


async def test_a_visitor_of_the_relay_itself_is_answered_although_another_has_taken_over(
    tmp_path: Path, accepted: Accepted
) -> None:
    async with house(tmp_path) as home:
        [stream] = await accepted.silent(home)
        await take_over(home)
        assert (await speak(stream, "localhost")).startswith(b"HTTP/1.1 200")


async def test_somebody_who_says_nothing_does_not_keep_a_relay_that_was_taken_over(
    tmp_path: Path, accepted: Accepted
) -> None:
    async with house(tmp_path, hello_timeout=0.5) as home:
        await home.expose(greet)
        [stream] = await accepted.silent(home)
        await take_over(home)
        await home.log.wait(SessionEnded)
        await stream.aclose()


async def test_somebody_who_says_nothing_does_not_keep_a_relay_that_stops(tmp_path: Path, accepted: Accepted) -> None:
    """Nobody else leads him on: the stop has no reason to wait."""
    async with house(tmp_path) as home:
        _, agent_log = await home.expose(greet)
        [stream] = await accepted.silent(home)
        home.relay.drain("SIGTERM")
        await agent_log.wait(Disconnected)
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        await stream.aclose()


async def test_visitors_have_an_hour_after_a_takeover_and_the_usual_grace_once_it_is_asked_to_stop(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with house(tmp_path, drain_grace=0.2) as home:
        agent, agent_log = await home.expose(gate.serve)
        visitor = await home.visit(f"{agent.key.key_id}.localhost")
        await gate.entered.wait()
        await take_over(home)
        await agent_log.wait(Connected, 2)
        draining = await home.log.wait(Draining)
        assert draining.deadline > (utc_now() + HALF_AN_HOUR).isoformat()
        assert not home.log.of(SessionEnded)
        home.relay.drain("SIGTERM")
        await home.log.wait(SessionEnded)
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(visitor)
