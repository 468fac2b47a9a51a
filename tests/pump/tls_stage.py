"""What the tests of TLS in workers share: visitors who speak TLS, in a worker's hands and at its door.

Names: the *visitor* speaks TLS to the left socket, the *origin* plain TCP to
the right one.  Visitors are pyOpenSSL's (they can half-close), the forge's
(records that no library would send), or bytes by hand.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache

import pytest
import trio
from OpenSSL import SSL

from tests.pump.stage import LIMITS, ROOMY, open_descriptors, socket_pair, until
from tests.streams.tls_forge import Forge, KeyLog
from tests.streams.tls_pairs import Identity, make_identity, make_leaf, visitor_client
from trunnel import capabilities
from trunnel.pump import PumpResult, Terminated, Way, Workers, open_workers
from trunnel.pump.leaf import encode_leaves
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter
from trunnel.streams.tls import TlsRole, TlsStream

PROTOCOLS = (b"h2", b"http/1.1")
"""What the endpoint's worker speaks, preferred first."""
PATIENCE = 5.0
"""Seconds for a handshake that is meant to succeed."""
RUN = 8.0
"""Seconds for whatever happens to one stream."""
both_versions = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
on_linux = [
    pytest.mark.skipif(not capabilities.HAS_PUMP, reason="no splice on this system"),
    pytest.mark.may_skip("Linux only"),
]
"""Marks of every test here."""


@cache
def identity(name: str = "a.example") -> Identity:
    """Return the key and certificate of an endpoint."""
    return make_identity(name=name)


def leaf_order(name: str = "a.example", alpn: tuple[bytes, ...] = PROTOCOLS) -> bytes:
    """Return what a worker is told to show."""
    return encode_leaves([make_leaf(identity(name))], alpn)


def shown_name(visitor: TlsStream) -> str:
    """Return the name in the certificate that *visitor* was shown."""
    return str(visitor.peer_certificates[0].subject.rfc4514_string()).removeprefix("CN=")


@asynccontextmanager
async def hired_tls(count: int = 1, *, leaf: bytes | None = None) -> AsyncIterator[Workers]:
    """Workers that end TLS, and show *leaf*."""
    async with open_workers(count, ends_tls=True) as workers:
        workers.show(leaf_order() if leaf is None else leaf)
        yield workers


@dataclass
class TlsStage:
    """A stream whose visitor a worker has shaken hands with, and the two peers that talk through it."""

    visitor: TlsStream
    terminated: Terminated
    right: trio.SocketStream
    origin: trio.SocketStream
    keylog: KeyLog
    counter: Counter = field(default_factory=Counter)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    outcome: PumpResult | None = None

    @property
    def wire(self) -> trio.SocketStream:
        """The visitor's socket, below its TLS."""
        assert isinstance(self.visitor.transport, trio.SocketStream)
        return self.visitor.transport

    def forge(self) -> Forge:
        """Return one who writes the visitor's records from the first on; the visitor has sent none."""
        return Forge(self.keylog)

    async def run(self, deadlines: CopyLimits = LIMITS) -> None:
        """Pump; to be started in a nursery."""
        with self.scope:
            self.outcome = await self.terminated.pump(self.right, deadlines, counter=self.counter)
        self.done.set()

    async def result(self) -> PumpResult:
        """Wait for the result."""
        await self.done.wait()
        assert self.outcome is not None
        assert self.outcome.way is Way.TLS
        return self.outcome

    async def cancel(self) -> None:
        """Cancel the pump and wait until it has returned."""
        self.scope.cancel()
        await self.done.wait()

    async def is_moving(self) -> None:
        """Wait until bytes go from the origin to the visitor."""
        await self.origin.send_all(b"?")
        assert await self.visitor.receive_some(1) == b"?"

    def close(self) -> None:
        """Leave nothing open."""
        for stream in (self.visitor, self.right, self.origin):
            abort_stream(stream)


async def shaken(
    workers: Workers,
    *,
    version: int = SSL.TLS1_3_VERSION,
    alpn: Sequence[bytes] = (),
    pair: Sequence[trio.SocketStream] = (),
) -> tuple[TlsStream, Terminated, KeyLog]:
    """Return a visitor whose handshake is done, both ends of it; over *pair* if there is one."""
    near, left = pair or await socket_pair()
    context = visitor_client(version=version, alpn=alpn)
    keylog = KeyLog(context)
    ended: list[Terminated | None] = []

    async def terminate() -> None:
        ended.append(await workers.terminate(left.socket, timeout=PATIENCE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(terminate)
        visitor = await TlsStream.handshake(near, context, role=TlsRole.CLIENT, timeout=PATIENCE)
    (terminated,) = ended
    assert terminated is not None
    return visitor, terminated, keylog


@asynccontextmanager
async def tls_stage(
    workers: Workers,
    *,
    version: int = SSL.TLS1_3_VERSION,
    narrow: bool = False,
    visitors: Sequence[trio.SocketStream] = (),
    deadlines: CopyLimits | None = LIMITS,
) -> AsyncIterator[TlsStage]:
    """A stream that a worker pumps (unless *deadlines* is None); *narrow* ones stall soon, *visitors* is its left."""
    size = ROOMY if narrow else None
    pair = visitors or await socket_pair(sending=size, receiving=size)
    visitor, terminated, keylog = await shaken(workers, version=version, pair=pair)
    origin, right = await socket_pair(sending=size, receiving=size)
    play = TlsStage(visitor, terminated, right, origin, keylog)
    try:
        with trio.fail_after(RUN):
            async with trio.open_nursery() as nursery:
                if deadlines is not None:
                    nursery.start_soon(play.run, deadlines)
                yield play
                nursery.cancel_scope.cancel()
    finally:
        play.close()


@asynccontextmanager
async def nothing_lost(workers: Workers) -> AsyncIterator[None]:
    """Nothing that happens in the body costs a slot, or leaves a descriptor open on either side."""
    (worker,) = workers.employed
    await exchange(workers)  # the first one imports what it needs
    pid, free = worker.process.pid, len(worker._free)
    ours, theirs = open_descriptors(), open_descriptors(pid)
    yield
    # Fewer is fine: what was being closed when they were counted is gone meanwhile.
    await until(lambda: open_descriptors() <= ours and open_descriptors(pid) <= theirs)
    assert len(worker._free) == free
    assert worker.load == 0
    assert worker in workers.employed


async def exchange(workers: Workers) -> None:
    """Be a visitor who is served, to prove that others are."""
    with trio.fail_after(PATIENCE):
        async with tls_stage(workers) as play:
            await play.visitor.send_all(b"ping")
            assert await play.origin.receive_some() == b"ping"
            await play.origin.send_all(b"pong")
            assert await play.visitor.receive_some() == b"pong"
            await play.cancel()


# --- visitors by hand -------------------------------------------------------------------------


class HandVisitor:
    """Python's `ssl` between two buffers: what it says is sent as a test likes."""

    def __init__(self, alpn: Sequence[str] = ()) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.heard, self.said = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.heard, self.said, server_hostname="a.example")

    def hello(self) -> bytes:
        """Return the ClientHello."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.said.read()

    async def finish(self, stream: trio.SocketStream) -> bytes:
        """Take the server's flight from *stream*; return what ends the handshake."""
        while True:
            self.heard.write(await stream.receive_some())
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            return self.said.read()


def old_hello() -> bytes:
    """Return the ClientHello of one who knows TLS 1.1 and nothing later (RFC 4346 §7.4.1.2)."""
    ciphers = b"\xc0\x13\xc0\x14\x00\x2f"
    body = b"\x03\x02" + bytes(32) + b"\0" + struct.pack(">H", len(ciphers)) + ciphers + b"\x01\0"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message
