"""Two agents that want the same names, in the row's process: what each is sent is counted where it arrives.

Each is a real agent that passes TLS through to a handler of ours.  The handler
reads the ClientHello, counts challenges, and answers those for which somebody
has a certificate of RFC 8737: an ACME client's responder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import trio
from OpenSSL import SSL

import trunnel
from scripts.rows.lab import WAIT, Lab
from trunnel.agent.agent import Agent
from trunnel.agent.runner import run_agent
from trunnel.errors import ConnectError
from trunnel.events import Event, NameRefused, Ready
from trunnel.identity.contexts import CHALLENGE_ALPN, visiting_context
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings.agent import DataChoice, TransportChoice
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.wire.clienthello import ClientHelloParser, Verdict

CHUNK = 4_096


class Rival:
    """One agent's key, and what came to it."""

    def __init__(self, lab: Lab, label: str) -> None:
        self.folder = lab.folder / label
        self.folder.mkdir(mode=0o700)
        self.key_id: KeyId = IdentityKey.load_or_create(self._settings(lab, ()).key_path).key_id
        self.challenges: Counter[str] = Counter()
        """Connections with ALPN `acme-tls/1` that reached it, by name."""
        self._lab = lab
        self._contexts: dict[Hostname, SSL.Context] = {}

    def _settings(self, lab: Lab, names: tuple[Hostname, ...]) -> trunnel.AgentSettings:
        return trunnel.AgentSettings(
            state_dir=self.folder,
            servers=(ServerAddress("127.0.0.1", lab.agents_port or 1),),
            hostnames=names,
            tls_passthrough=True,
            transport=TransportChoice.H2,
            data=DataChoice.SESSION,
        )

    def came_for(self, *names: Hostname) -> int:
        """Return how many challenges for these names reached it."""
        return sum(self.challenges[name.value] for name in names)

    @contextmanager
    def answering(self, name: Hostname, context: SSL.Context) -> Iterator[None]:
        """Answer challenges for *name*: an ACME client's responder."""
        self._contexts[name] = context
        try:
            yield
        finally:
            self._contexts.pop(name, None)

    async def _serve(self, stream: trio.abc.HalfCloseableStream, _: trunnel.VisitorInfo) -> None:
        parser, prefix = ClientHelloParser(), b""
        while parser.verdict is Verdict.NEED_MORE and (chunk := await stream.receive_some(CHUNK)):
            prefix += chunk
            parser.feed_untrusted(chunk)
        hello = parser.hello
        if hello is None or hello.server_name is None or CHALLENGE_ALPN not in hello.alpn:
            return
        self.challenges[hello.server_name.value] += 1
        if (context := self._contexts.get(hello.server_name)) is not None:
            with suppress(ConnectError, trio.BrokenResourceError):
                tls = await TlsStream.handshake(stream, context, role=TlsRole.SERVER, prefix=prefix, timeout=WAIT)
                await tls.aclose()

    @asynccontextmanager
    async def attached(self, *names: Hostname) -> AsyncIterator[Voice]:
        """Run the agent, which asks for *names*, while the body runs."""
        voice = Voice()
        async with trio.open_nursery() as nursery:
            start = partial(run_agent, self._serve, self._settings(self._lab, names), on_event=voice)
            agent: Agent = await nursery.start(start)
            with trio.fail_after(WAIT):
                await agent.ready.wait()
            yield voice
            nursery.cancel_scope.cancel()


class Voice:
    """What an agent reports."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._news = trio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self._events.append(event)
        self._news.set()
        self._news = trio.Event()

    async def decided(self, *names: Hostname, has: bool) -> None:
        """Wait until the relay has given all of *names*, or refused them."""
        wanted = {name.value for name in names}
        kind = Ready if has else NameRefused
        with trio.fail_after(2 * WAIT):
            while not wanted <= {event.hostname for event in self._events if isinstance(event, kind)}:
                await self._news.wait()


async def knock(lab: Lab, name: Hostname, *, source: str) -> bool:
    """Connect as an authority does, from *source*; whether a handshake came about."""
    raw = await lab.connect(source=source)
    try:
        tls = await TlsStream.handshake(
            raw, visiting_context([CHALLENGE_ALPN]), role=TlsRole.CLIENT, server_name=name, timeout=WAIT
        )
    except ConnectError:
        return False
    await tls.aclose()
    return True
