"""An agent that is spoken to message by message, with data connections that a test parks and serves by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from tests.relay.house import offering
from tests.relay.test_agents import Caller, caller
from tests.tunnels import PATIENCE, House
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId
from trunnel.settings.agent import DataChoice
from trunnel.streams.copy import abort_stream
from trunnel.transports import direct
from trunnel.transports.base import Stream
from trunnel.transports.direct import DirectLink, DirectTerms
from trunnel.wire import control
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import Preface, ProxyParser, StreamKind, read_preface_untrusted


def preface_of(header: bytes) -> Preface:
    """Return what a relay said of a visitor."""
    parsed = ProxyParser(versions=(2,)).feed_untrusted(header)
    assert parsed is not None
    return read_preface_untrusted(parsed)


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Return the next *size* bytes."""
    heard = b""
    with trio.fail_after(PATIENCE):
        while len(heard) < size:
            chunk = await stream.receive_some(size - len(heard))
            assert chunk, f"it ended after {heard!r}"
            heard += chunk
    return heard


async def dial(port: int, terms: DirectTerms) -> DirectLink:
    """Dial a relay and park one data connection."""
    return await direct.prove(await trio.open_tcp_stream("127.0.0.1", port), terms, timeout=PATIENCE)


@dataclass
class DirectAgent:
    """An attached agent."""

    home: House
    caller: Caller
    welcome: control.Welcome
    key: IdentityKey
    prefaces: list[Preface] = field(default_factory=list)
    """Of the visitors that were accepted."""
    streams: list[trio.SocketStream] = field(default_factory=list)
    """Whatever was dialled; closed in the end."""

    @property
    def name(self) -> str:
        """Its public name."""
        return self.welcome.endpoints[0].hostname

    @property
    def hello(self) -> bytes:
        """What its visitors send first."""
        return offering(b"http/1.1", name=self.name.encode())

    @property
    def terms(self) -> DirectTerms:
        """What its data connections prove."""
        assert self.welcome.direct is not None
        return DirectTerms(self.welcome.direct.key, KeyId.parse(self.welcome.relay), self.welcome.session)

    async def park(self, count: int = 1) -> list[DirectLink]:
        """Park *count* data connections; returns them once the relay has them, the newest last."""
        links: list[DirectLink] = []
        for _ in range(count):
            links.append(await dial(self.home.relay.agents_port, self.terms))
            self.streams.append(links[-1].stream)
        return links

    async def accept(self, link: DirectLink, said: Answer = Answer.ACCEPTED) -> trio.SocketStream:
        """Wait until *link* is taken, answer, and return its stream behind the hello of `visitor`."""
        with trio.fail_after(PATIENCE):
            self.prefaces.append(preface_of(await direct.wait_taken(link)))
            await direct.answer(link, said)
            if self.prefaces[-1].kind is StreamKind.VISITOR:
                assert await read_exactly(link.stream, len(self.hello)) == self.hello
        return link.stream

    async def visitor(self) -> trio.SocketStream:
        """Come as a visitor: connect and send the hello."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.home.relay.visitors_port)
        self.streams.append(stream)
        await stream.send_all(self.hello)
        return stream

    async def accept_in_session(self) -> Stream:
        """Return the next visitor's stream inside the session, behind its hello."""
        return await self.caller.visitor(self.hello)

    def cut(self) -> None:
        """Lose the carrier."""
        abort_stream(self.caller.carrier)


@asynccontextmanager
async def attached(
    home: House,
    data: DataChoice = DataChoice.AUTO,
    key: IdentityKey | None = None,
    *,
    instance: int = 0,
    session: str | None = None,
) -> AsyncIterator[DirectAgent]:
    """Attach to a running relay, perhaps to a *session* that has lost its carriers; the carrier is cut in the end."""
    key = key or IdentityKey.generate()
    async with caller(home, key) as line:
        welcome = await line.say(
            control.Hello(
                versions=[1],
                instance=f"{instance:032x}",
                agent="test",
                where="box",
                session=session,
                alone=session is not None,
                data=data,
            )
        )
        assert isinstance(welcome, control.Welcome), welcome
        agent = DirectAgent(home, line, welcome, key)
        try:
            yield agent
        finally:
            for stream in agent.streams:
                stream.socket.close()
