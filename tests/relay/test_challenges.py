"""`acme-tls/1` visitors of a running relay: led to the owner of their name only, few at a time, not for long."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trunnel
from tests.relay.house import CHALLENGE, offering
from tests.tunnels import PATIENCE, House, house, knock
from trunnel.events import StreamClosed, VisitorRefused
from trunnel.settings import limits
from trunnel.settings.agent import TransportChoice
from trunnel.wire.alert import AlertDescription, plaintext_alert


class Echo:
    """An origin that sends back what comes, for as long as its visitor stays."""

    def __init__(self) -> None:
        self.visitors: list[trunnel.VisitorInfo] = []

    async def serve(self, stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
        self.visitors.append(visitor)
        while chunk := await stream.receive_some():
            await stream.send_all(chunk)


def challenge_of(hostname: str) -> bytes:
    return offering(b"acme-tls/1", name=hostname.encode())


async def knock_and_hear(home: House, opening: bytes, source: str = "127.0.0.1") -> trio.SocketStream:
    """Connect as a visitor from *source*, see *opening* come back, and stay."""
    stream = await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port, local_address=source)
    with trio.fail_after(PATIENCE):
        await stream.send_all(opening)
        echoed = b""
        while len(echoed) < len(opening):
            chunk = await stream.receive_some()
            assert chunk, "the challenge was not served"
            echoed += chunk
    assert echoed == opening
    return stream


async def test_a_challenge_is_led_to_the_owner_of_its_name_and_nobody_else(tmp_path: Path) -> None:
    """With --tls-passthrough the origin gets its hello to the byte."""
    owner, other = Echo(), Echo()
    async with house(tmp_path) as home:
        agent, _ = await home.expose(owner.serve, "owner", tls_passthrough=True)
        await home.expose(other.serve, "other", tls_passthrough=True)
        hostname = f"{agent.key.key_id}.localhost"
        async with await knock_and_hear(home, challenge_of(hostname)):
            pass
        assert [visitor.hostname.value for visitor in owner.visitors] == [hostname]
        assert other.visitors == []


async def test_a_challenge_for_a_name_without_an_owner_gets_an_alert(tmp_path: Path) -> None:
    served = Echo()
    async with house(tmp_path) as home:
        await home.expose(served.serve, tls_passthrough=True)
        said = await knock(home.relay.visitors_port, challenge_of("nobody.localhost"))
        assert said == plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["unknown-name"]
        assert served.visitors == []


async def test_the_agents_port_takes_no_challenges(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        said = await knock(home.relay.agents_port, CHALLENGE)
        assert said == plaintext_alert(AlertDescription.NO_APPLICATION_PROTOCOL)
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["wrong-port"]


async def test_an_agent_that_ends_tls_itself_refuses_challenges(tmp_path: Path) -> None:
    """It has no certificate of an ACME server's to show; its origin never hears of them."""
    served = Echo()
    async with house(tmp_path) as home:
        agent, _ = await home.expose(served.serve)
        with pytest.raises(trio.BrokenResourceError):
            await knock(home.relay.visitors_port, challenge_of(f"{agent.key.key_id}.localhost"))
        assert (await home.log.wait(StreamClosed)).bytes_out == 0
        assert served.visitors == []


@pytest.mark.skipif("sys.platform == 'darwin'", reason="macOS has one loopback address")
async def test_a_name_takes_only_so_many_challenges_at_once_and_fewer_of_one_address(tmp_path: Path) -> None:
    """LOAD-04: who stalls leaves room for an authority with as many addresses as there are places left."""
    served = Echo()
    crowd, authority = limits.CHALLENGES_PER_ADDRESS, limits.CHALLENGES_PER_NAME - limits.CHALLENGES_PER_ADDRESS
    async with house(tmp_path) as home:
        agent, _ = await home.expose(served.serve, tls_passthrough=True)
        hello = challenge_of(f"{agent.key.key_id}.localhost")
        opened = [await knock_and_hear(home, hello, "127.0.0.9") for _ in range(crowd)]
        opened += [await knock_and_hear(home, hello, f"127.0.1.{number + 1}") for number in range(authority)]
        with pytest.raises(trio.BrokenResourceError):
            await knock(home.relay.visitors_port, hello)
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["challenges-per-name"]
        for stream in opened:
            await stream.aclose()


async def test_an_address_takes_only_so_many_challenges_of_a_name_at_once(tmp_path: Path) -> None:
    """Its visitors, and the challenges of other names, are not in that count."""
    served = Echo()
    async with house(tmp_path) as home:
        agent, _ = await home.expose(served.serve, "one", tls_passthrough=True)
        neighbour, _ = await home.expose(served.serve, "two", tls_passthrough=True)
        hostname = f"{agent.key.key_id}.localhost"
        opened = [await knock_and_hear(home, challenge_of(hostname)) for _ in range(limits.CHALLENGES_PER_ADDRESS)]
        with pytest.raises(trio.BrokenResourceError):
            await knock(home.relay.visitors_port, challenge_of(hostname))
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["challenges-per-address"]
        opened.append(await knock_and_hear(home, offering(b"http/1.1", name=hostname.encode())))
        opened.append(await knock_and_hear(home, challenge_of(f"{neighbour.key.key_id}.localhost")))
        await opened.pop(0).aclose()
        await home.log.wait(StreamClosed)
        await trio.testing.wait_all_tasks_blocked()  # its ticket is given back right behind the record
        opened.append(await knock_and_hear(home, challenge_of(hostname)))
        for stream in opened:
            await stream.aclose()


async def test_a_challenge_ends_at_its_deadline_however_busy_it_is(tmp_path: Path, mock_clock: MockClock) -> None:
    """A visitor beside it, as busy, goes on.  Both over TCP: QUIC paces by the clock, which stands still here."""
    served = Echo()
    async with house(tmp_path) as home:
        agent, _ = await home.expose(served.serve, tls_passthrough=True, transport=TransportChoice.H2)
        hostname = f"{agent.key.key_id}.localhost"
        challenge = await knock_and_hear(home, challenge_of(hostname))
        visitor = await knock_and_hear(home, offering(b"http/1.1", name=hostname.encode()))
        for _ in range(4):
            mock_clock.jump(limits.CHALLENGE_TIMEOUT / 5)
            for stream in (challenge, visitor):
                await stream.send_all(b"more")
                assert await stream.receive_some() == b"more"
        mock_clock.jump(limits.CHALLENGE_TIMEOUT / 5)
        record = await home.log.wait(StreamClosed)
        assert (record.visitor_end, record.origin_end) == ("deadline", "deadline")
        assert limits.CHALLENGE_TIMEOUT <= record.seconds < 2 * limits.CHALLENGE_TIMEOUT
        with pytest.raises(trio.BrokenResourceError):
            await challenge.receive_some()
        await visitor.send_all(b"on")
        assert await visitor.receive_some() == b"on"
        assert len(home.log.of(StreamClosed)) == 1
        await challenge.aclose()
        await visitor.aclose()
