"""A visitor's bytes on the way to the origin: what is known of them, and where they go."""

from __future__ import annotations

import trio
import trio.testing

from tests.agent.stage import NAME, echo, origin_of, terminator, visit_over
from trunnel.agent.plaintext import Here
from trunnel.settings import limits
from trunnel.streams.copy import CopyLimits, Counter, End

DEADLINES = CopyLimits(first_byte=5, idle=5, half_closed=5, first_byte_from="right")


async def test_tls_that_is_passed_through_tells_nothing() -> None:
    near, far = trio.testing.memory_stream_pair()
    visitor = Here(near, workers=None)
    assert (visitor.alpn, visitor.tls_version) == (None, None)
    await far.aclose()


async def test_tls_that_ended_here_tells_its_version_and_protocol() -> None:
    near, far = trio.testing.memory_stream_pair()
    seen: list[tuple[bytes | None, str | None]] = []

    async def serve() -> None:
        async with await terminator(b"http/1.1").handshake(near) as ended:
            visitor = Here(ended, workers=None)
            seen.append((visitor.alpn, visitor.tls_version))
            served.set()

    served = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        visit = await visit_over(far, NAME, b"http/1.1")
        await served.wait()  # the client's end of a handshake comes first
        await visit.aclose()
    assert seen == [(b"http/1.1", "TLSv1.3")]


async def test_bytes_are_carried_to_the_origin_and_back() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with origin_of(echo) as origin, trio.open_nursery() as nursery:
        counter, ends = Counter(), list[tuple[End, End]]()

        async def carry() -> None:
            ends.append(await Here(near, workers=None).carry(await origin.connect(), DEADLINES, counter))

        nursery.start_soon(carry)
        await far.send_all(b"hello")
        assert await far.receive_some() == b"hello"
        await far.send_eof()
        assert await far.receive_some() == b""
    assert ends == [(End.FIN, End.FIN)]
    assert (counter.left_bytes, counter.right_bytes) == (5, 5)


async def test_brought_here_they_are_the_stream_itself() -> None:
    near, far = trio.testing.memory_stream_pair()
    visitor = Here(near, workers=None)
    async with visitor.here() as stream:
        await stream.send_all(NAME.value.encode())
    assert await far.receive_some(limits.HTTP_HEAD_MAX) == NAME.value.encode()
    await visitor.abandon()  # leaves the stream to its owner
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"
