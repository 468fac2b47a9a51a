"""One QUIC session of ours over loopback, relay and agent a process each, and nothing around it.

    python -m scripts.bench.quic_pair relay IDLE...     prints its port, then a line for each: bytes and seconds
    python -m scripts.bench.quic_pair agent PORT BYTES

For each IDLE the relay opens so many streams, and one more on which the agent
sends BYTES; the idle ones stay open meanwhile.  The first quarter is not timed:
windows grow.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime

import trio

from trunnel.errors import SessionClosed
from trunnel.identity.keys import IdentityKey, id_of, link_certificate
from trunnel.settings import limits
from trunnel.streams.udp import open_udp_sockets
from trunnel.transports.base import Peer, Session, Stream
from trunnel.transports.quic import open_quic_session
from trunnel.transports.quic_configuration import QuicCredentials
from trunnel.transports.quic_endpoint import QuicEndpoint, serve_quic
from trunnel.transports.quic_handshake import QuicCarrier, dial_quic

HOST = "127.0.0.1"
WARMED = 0.25
BUSY, IDLE = b"b", b"i"


class Place:
    """A place for a handshake: there is always one."""

    def release(self) -> None:
        """Give it back."""


def credentials() -> QuicCredentials:
    """Return a key of our own."""
    key = IdentityKey.generate()
    return QuicCredentials(private_key=key.private_key, chain=(link_certificate(key, now=datetime.now(UTC)),))


def peer_of(carrier: QuicCarrier) -> Peer:
    """Return who is at the other end."""
    return Peer(key_id=id_of(carrier.peer_certificates[0]), address=HOST)


async def receive(session: Session, idle: int) -> None:
    """Open streams, take what comes on the busy one, print bytes and seconds."""
    opened: list[Stream] = []
    for _ in range(idle):
        opened.append(await session.open_stream())
        await opened[-1].send_all(IDLE)
    busy = await session.open_stream()
    await busy.send_all(BUSY)
    size = int.from_bytes(await busy.receive_some(8), "big")
    total, marked, begun = 0, 0, 0.0
    while chunk := await busy.receive_some(limits.COPY_CHUNK):
        total += len(chunk)
        if not begun and total > WARMED * size:
            begun, marked = trio.current_time(), total
    print(total - marked, trio.current_time() - begun, flush=True)
    for stream in opened:
        await stream.aclose()
    await busy.aclose()


async def relay(idles: list[int]) -> None:
    """Serve one agent."""
    ended = trio.Event()

    async def serve(carrier: QuicCarrier) -> None:
        async with open_quic_session(carrier, peer_of(carrier)) as session:
            for idle in idles:
                await receive(session, idle)
        ended.set()

    async with trio.open_nursery() as nursery:

        async def start(*, task_status: trio.TaskStatus[QuicEndpoint]) -> None:
            await serve_quic(
                open_udp_sockets([HOST], 0),
                credentials(),
                serve=serve,
                admit=lambda _host: Place(),
                task_status=task_status,
            )

        endpoint = await nursery.start(start)
        print(endpoint.addresses[0][1], flush=True)
        await ended.wait()
        nursery.cancel_scope.cancel()


async def answer(stream: Stream, amount: int) -> None:
    """Be what the relay has opened a stream for."""
    with suppress(trio.BrokenResourceError):
        await send(stream, amount)


async def send(stream: Stream, amount: int) -> None:
    """Send if the stream is the busy one, and wait for its end."""
    if await stream.receive_some(1) == BUSY:
        await stream.send_all(amount.to_bytes(8, "big"))
        block = bytes(limits.COPY_CHUNK)
        for start in range(0, amount, len(block)):
            await stream.send_all(block[: amount - start])
        await stream.send_eof()
    while await stream.receive_some(1):
        pass
    await stream.aclose()


async def agent(port: int, amount: int) -> None:
    """Serve every stream until the relay ends."""
    carrier = await dial_quic((HOST, port), credentials(), server_name=None)
    async with open_quic_session(carrier, peer_of(carrier)) as session, trio.open_nursery() as nursery:
        with suppress(SessionClosed):
            while True:
                nursery.start_soon(answer, await session.accept_stream(), amount)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        trio.run(relay, [int(word) for word in sys.argv[2:]])
    else:
        trio.run(agent, int(sys.argv[2]), int(sys.argv[3]))
