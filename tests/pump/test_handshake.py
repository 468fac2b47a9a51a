"""Handshakes in a worker: slow, broken, refused, cut off; one visitor's trouble is never another's."""

from __future__ import annotations

import base64
import itertools
import resource
import socket
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tests.pump.stage import block, cpu_ticks, read_exactly, read_to_end, send_until_stuck, socket_pair, until
from tests.pump.tls_stage import (
    HandVisitor,
    both_versions,
    exchange,
    hired_tls,
    leaf_order,
    nothing_lost,
    old_hello,
    on_linux,
    shaken,
    shown_name,
    tls_stage,
)
from tests.streams.tls_pairs import unix_transports
from trunnel.errors import ConnectError
from trunnel.pump import Terminated, Workers, open_workers
from trunnel.pump.leaf import decode_leaves
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.wire.alert import AlertDescription, plaintext_alert

pytestmark = on_linux

SHORT = 0.2
"""Seconds of a short deadline."""
LATE = 0.5
"""Seconds by which a deadline may come late on a busy machine."""
LONG = 60.0
"""Seconds of a deadline that must not matter."""
ALERT = b"\x15\x03"
"""How the record of an alert begins."""


async def fails(workers: Workers, left: trio.SocketStream, match: str, timeout: float = LONG) -> None:  # noqa: ASYNC109
    """Have workers end TLS on *left*; they must not manage."""
    with pytest.raises(ConnectError, match=match):
        await workers.terminate(left.socket, timeout=timeout)


def is_closed(stream: trio.SocketStream) -> bool:
    """Return whether the worker has the socket, and we have closed ours."""
    return stream.socket.fileno() < 0


# --- visitors as they should be ---------------------------------------------------------------


@both_versions
async def test_version_and_protocol_are_told(version: int) -> None:
    """The endpoint's preference decides; a visitor that offers nothing is let through."""
    async with hired_tls() as workers:
        for offered, chosen in ((), None), ([b"http/1.1"], b"http/1.1"), ([b"x", b"http/1.1", b"h2"], b"h2"):
            visitor, terminated, _ = await shaken(workers, version=version, alpn=offered)
            assert terminated.alpn == visitor.alpn == chosen
            assert terminated.tls_version == visitor.tls_version
            assert terminated.tls_version == ("TLSv1.2" if version == SSL.TLS1_2_VERSION else "TLSv1.3")
            visitor.abort()
            await terminated.abort()


async def test_a_handshake_byte_by_byte_succeeds() -> None:
    near, left = await socket_pair()
    visitor = HandVisitor(["http/1.1"])
    ended: list[Terminated | None] = []
    async with hired_tls() as workers:

        async def terminate() -> None:
            ended.append(await workers.terminate(left.socket, timeout=LONG))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminate)
            for byte in visitor.hello():
                await near.send_all(bytes([byte]))
            for byte in await visitor.finish(near):
                await near.send_all(bytes([byte]))
        (terminated,) = ended
        assert terminated is not None
        assert terminated.alpn == b"http/1.1"
        await terminated.abort()
    abort_stream(near)


async def test_a_handshake_that_has_to_write_waits_for_room_without_work() -> None:
    """The server's flight does not fit: the worker waits for the visitor to read, and only for that."""
    near, left = unix_transports()
    filler = await send_until_stuck(left, bytes(1 << 20), quiet=0.01)
    visitor = HandVisitor()
    async with hired_tls() as workers, trio.open_nursery() as nursery:
        (worker,) = workers.employed
        nursery.start_soon(partial(workers.terminate, left.socket, timeout=LONG))
        await near.send_all(visitor.hello())
        await exchange(workers)
        ticks = cpu_ticks(worker.process.pid)
        with block(0.2):
            await trio.sleep_forever()
        assert cpu_ticks(worker.process.pid) - ticks <= 1
        assert await read_exactly(near, filler) == bytes(filler)
        await near.send_all(await visitor.finish(near))
        assert visitor.tls.version() == "TLSv1.3"
        nursery.cancel_scope.cancel()
    abort_stream(near)


# --- visitors that are not ---------------------------------------------------------------------


async def test_a_handshake_that_does_not_go_on_ends_by_its_deadline_and_disturbs_nobody() -> None:
    async with hired_tls() as workers:
        for said in ("nothing", "half a hello", "a hello"):
            hello = HandVisitor().hello()
            async with nothing_lost(workers), trio.open_nursery() as nursery:
                (worker,) = workers.employed
                near, left = await socket_pair()
                await near.send_all({"nothing": b"", "half a hello": hello[:100], "a hello": hello}[said])
                started = trio.current_time()
                nursery.start_soon(fails, workers, left, "not done in time", SHORT)
                await exchange(workers)  # beside it
                ticks = cpu_ticks(worker.process.pid)
                received, end = await read_to_end(near)
                assert end is End.RESET
                assert bool(received) == (said == "a hello")
                assert SHORT - 0.05 <= trio.current_time() - started <= SHORT + LATE
                assert cpu_ticks(worker.process.pid) - ticks <= 3
                abort_stream(near)


async def test_what_is_no_tls_ends_at_once() -> None:
    """A visitor that just leaves, too; nobody waits for the deadline."""
    async with hired_tls() as workers:
        for said in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\xff" * 300, b"\x16\x03\x01\x00\x05hello", b""):
            async with nothing_lost(workers), trio.open_nursery() as nursery:
                near, left = await socket_pair()
                await near.send_all(said)
                if not said:
                    await near.send_eof()
                nursery.start_soon(fails, workers, left, "the TLS handshake failed: .+")
                with trio.fail_after(1):
                    received, _ = await read_to_end(near)
                assert not received or received.startswith(ALERT)
                await near.aclose()


async def test_a_refused_visitor_reads_why() -> None:
    """The alert, then FIN: also when bytes that nobody will read lie behind the hello (RST would overtake it)."""
    async with hired_tls() as workers:
        for why, behind in itertools.product(("protocol", "version"), (0, 200_000)):
            if why == "protocol":
                hello, alert = HandVisitor(["nonsense"]).hello(), AlertDescription.NO_APPLICATION_PROTOCOL
            else:
                hello, alert = old_hello(), AlertDescription.PROTOCOL_VERSION
            async with nothing_lost(workers), trio.open_nursery() as nursery:
                near, left = await socket_pair()
                async with trio.open_nursery() as meanwhile:
                    meanwhile.start_soon(near.send_all, hello + bytes(behind))
                    nursery.start_soon(fails, workers, left, "the TLS handshake failed: TLS: ")
                    received, end = await read_to_end(near)
                assert end is End.FIN
                assert received[:2] == ALERT
                assert received[3:] == plaintext_alert(alert)[3:]
                await near.aclose()


async def test_a_refused_visitor_that_does_not_leave_has_a_moment() -> None:
    """It may neither stay, nor keep the worker busy by sending without end: others are served meanwhile."""
    blast = bytes(1 << 20)

    def send_without_end(descriptor: int) -> None:
        with socket.socket(fileno=descriptor) as sock:
            sock.setblocking(True)
            try:
                while True:
                    sock.sendall(blast)
            except OSError:
                return

    async with hired_tls() as workers, nothing_lost(workers):
        near, left = await socket_pair()
        await near.send_all(HandVisitor(["nonsense"]).hello())
        sender = threading.Thread(target=send_without_end, args=(near.socket.dup().detach(),))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, workers, left, "no application protocol")
            await near.receive_some()
            sender.start()
            started = trio.current_time()
            for _ in range(5):
                await exchange(workers)
            assert trio.current_time() - started < limits.CLOSE_TIMEOUT / 2
        assert trio.current_time() - started <= limits.CLOSE_TIMEOUT + LATE
        abort_stream(near)
        await trio.to_thread.run_sync(sender.join)


# --- the leaf ----------------------------------------------------------------------------------


async def test_without_a_leaf_the_socket_is_still_the_callers() -> None:
    near, left = await socket_pair()
    async with open_workers(1, ends_tls=True) as workers:
        assert await workers.terminate(left.socket, timeout=LONG) is None
        workers._leaves = b"shown, and not told to this worker"
        assert await workers.terminate(left.socket, timeout=LONG) is None
        assert workers.employed[0].load == 0
    await near.send_all(b"hello")
    assert await left.receive_some() == b"hello"
    abort_stream(near)
    abort_stream(left)


async def test_a_worker_that_has_no_descriptor_left_refuses_and_the_socket_is_still_the_callers() -> None:
    near, left = await socket_pair()
    async with hired_tls() as workers:
        (worker,) = workers.employed
        await exchange(workers)
        exhaust(worker.process.pid)
        assert await workers.terminate(left.socket, timeout=LONG) is None
        assert worker.load == 0
    await near.send_all(b"hello")
    assert await left.receive_some() == b"hello"
    abort_stream(near)
    abort_stream(left)


def exhaust(pid: int) -> None:
    """Let a process have no more descriptors than it has."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))


async def test_a_new_leaf_is_for_the_next_visitor_and_open_streams_keep_theirs() -> None:
    async with hired_tls() as workers, tls_stage(workers) as old:
        workers.show(leaf_order("b.example", (b"http/1.1",)))
        visitor, terminated, _ = await shaken(workers, alpn=[b"h2", b"http/1.1"])
        assert (shown_name(old.visitor), shown_name(visitor)) == ("a.example", "b.example")
        assert terminated.alpn == b"http/1.1"
        await old.is_moving()
        visitor.abort()
        await terminated.abort()


async def test_a_worker_that_replaces_a_dead_one_shows_the_leaf_of_now_from_its_first_visitor_on() -> None:
    async with hired_tls() as workers:
        (dead,) = workers.employed
        dead.process.kill()
        await until(lambda: not workers.employed)
        workers.show(leaf_order("b.example"))
        await until(lambda: bool(workers.employed))
        visitor, terminated, _ = await shaken(workers)
        assert shown_name(visitor) == "b.example"
        visitor.abort()
        await terminated.abort()


async def test_no_key_is_where_others_can_read_it() -> None:
    """Neither in the worker's arguments nor in its environment, in whatever form."""
    (leaf,), _ = decode_leaves(leaf_order())
    async with hired_tls() as workers:
        await exchange(workers)
        folder = Path(f"/proc/{workers.employed[0].process.pid}")
        public = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    assert isinstance(leaf.private_key, ec.EllipticCurvePrivateKey)
    number = leaf.private_key.private_numbers().private_value.to_bytes(32, "big")
    assert number in leaf_order()
    assert not [form for form in (number, number.hex().encode(), base64.b64encode(number)[:-2]) if form in public]
    assert b"PRIVATE KEY" not in public


# --- cut off in the middle ----------------------------------------------------------------------


async def test_a_worker_that_dies_in_a_handshake_fails_its_visitors_and_nobody_else() -> None:
    near, left = await socket_pair()
    await near.send_all(HandVisitor().hello()[:50])
    async with hired_tls(2) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(fails, workers, left, "the worker died")
        await until(lambda: is_closed(left))
        busy, other = sorted(workers.employed, key=lambda each: -each.load)
        busy.process.kill()
        assert await read_to_end(near) == (b"", End.RESET)
        await until(lambda: busy not in workers.employed)
        assert other in workers.employed
        await exchange(workers)
    abort_stream(near)


async def test_a_cancelled_handshake_leaves_nothing() -> None:
    """And returns at once; the visitor gets RST, or keeps the FIN that it was sent."""
    async with hired_tls() as workers:
        for state in ("hello awaited", "finished awaited", "alert sent"):
            async with nothing_lost(workers):
                near, left = await socket_pair()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(workers.terminate, left.socket, timeout=LONG))
                    visitor = HandVisitor(["nonsense"] if state == "alert sent" else [])
                    await near.send_all(visitor.hello() if state != "hello awaited" else b"\x16")
                    if state == "hello awaited":
                        await until(partial(is_closed, left))
                    else:
                        await near.receive_some()
                    started = trio.current_time()
                    nursery.cancel_scope.cancel()
                assert trio.current_time() - started < limits.PUMP_CANCEL_WAIT / 2
                _, end = await read_to_end(near)
                assert end is (End.FIN if state == "alert sent" else End.RESET)
                abort_stream(near)
