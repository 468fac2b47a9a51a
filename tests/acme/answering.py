"""Who answers challenges in tests: a TLS server on a port of 127.0.0.1, as the agent and the relay do it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, final

import trio
from OpenSSL import SSL

from trunnel.names import Hostname
from trunnel.streams.nursery import bare_nursery
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.wire.clienthello import ClientHelloParser, Verdict

TIMEOUT: Final = 10.0
"""Seconds for one challenge."""


@final
class Answering:
    """A `trunnel.acme.challenge.Responder`."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Where it listens."""
        self.contexts: dict[Hostname, SSL.Context] = {}
        """What is answered now."""
        self.asked: list[Hostname] = []
        """The names for which it was ever to answer."""
        self.deaf = False
        """Whether it accepts connections and never says a word."""
        self.entered = trio.Event()
        """The first challenge is there."""

    @contextmanager
    def answering(self, name: Hostname, context: SSL.Context) -> Iterator[None]:
        """Answer challenges for *name* with *context*."""
        self.asked.append(name)
        self.contexts[name] = context
        self.entered.set()
        try:
            yield
        finally:
            del self.contexts[name]

    async def serve(self, transport: trio.SocketStream) -> None:
        """Answer one connection."""
        async with transport:
            if self.deaf:
                await trio.sleep_forever()
            parser, prefix = ClientHelloParser(), b""
            with trio.move_on_after(TIMEOUT):
                while parser.verdict is Verdict.NEED_MORE and (chunk := await transport.receive_some(4096)):
                    prefix += chunk
                    parser.feed_untrusted(chunk)
                name = parser.hello.server_name if parser.hello is not None else None
                context = self.contexts.get(name) if name is not None else None
                if context is not None:
                    stream = await TlsStream.handshake(
                        transport, context, role=TlsRole.SERVER, prefix=prefix, timeout=TIMEOUT
                    )
                    await stream.aclose()


@asynccontextmanager
async def answering_on_loopback() -> AsyncIterator[Answering]:
    """Listen on a free port while the body runs."""
    async with bare_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        responder = Answering(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, responder.serve, listeners)
        yield responder
        nursery.cancel_scope.cancel()
