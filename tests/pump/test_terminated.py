"""A visitor in a worker's hands: before it has an origin, while it is pumped, and when either is cut off."""

from __future__ import annotations

import resource
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest
import trio
from OpenSSL import SSL

from tests.peers import require_program
from tests.pump.stage import LIMITS, block, cpu_ticks, pattern, read_exactly, read_to_end, socket_pair, until
from tests.pump.tls_stage import (
    HandVisitor,
    both_versions,
    exchange,
    hired_tls,
    nothing_lost,
    on_linux,
    shaken,
    tls_stage,
)
from trunnel.pump import Terminated, Workers
from trunnel.pump.employed import Employed
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, End

pytestmark = on_linux

SHORT = 0.2
"""Seconds of a short deadline."""
LATE = 0.5
"""Seconds by which a deadline may come late on a busy machine."""


# --- before there is an origin ------------------------------------------------------------------


async def test_what_the_visitor_says_before_there_is_an_origin_is_not_lost() -> None:
    """In the same segment as its Finished, or as much as its socket takes; its end, too."""
    async with hired_tls() as workers:
        for size in (1, 16 * 1024, 200_000):
            near, left = await socket_pair()
            async with trio.open_nursery() as nursery:
                terminated = await say_at_once(workers, near, left, pattern(1, size), nursery)
                origin, right = await socket_pair()
                nursery.start_soon(partial(terminated.pump, right, LIMITS, counter=Counter()))
                with trio.fail_after(5):
                    assert await read_to_end(origin) == (pattern(1, size), End.FIN)
                nursery.cancel_scope.cancel()
            abort_stream(near)
            abort_stream(origin)


async def say_at_once(
    workers: Workers, near: trio.SocketStream, left: trio.SocketStream, payload: bytes, nursery: trio.Nursery
) -> Terminated:
    """Be a visitor that sends *payload* and its end together with its Finished."""
    hand = HandVisitor()
    ended: list[Terminated | None] = []

    async def terminate() -> None:
        ended.append(await workers.terminate(left.socket, timeout=5))

    async with trio.open_nursery() as handshake:
        handshake.start_soon(terminate)
        await near.send_all(hand.hello())
        finished = await hand.finish(near)
        hand.tls.write(payload)
        with pytest.raises(ssl.SSLWantReadError):
            hand.tls.unwrap()  # says close_notify, and would wait for ours
        nursery.start_soon(near.send_all, finished + hand.said.read())
    (terminated,) = ended
    assert terminated is not None
    return terminated


async def test_a_visitor_that_leaves_before_there_is_an_origin_costs_nothing_and_truncates_it() -> None:
    async with hired_tls() as workers:
        pid = workers.employed[0].process.pid
        for how in ("fin", "reset"):
            async with nothing_lost(workers):
                visitor, terminated, _ = await shaken(workers)
                assert isinstance(visitor.transport, trio.SocketStream)
                if how == "fin":
                    await visitor.transport.send_eof()
                else:
                    visitor.abort()
                ticks = cpu_ticks(pid)
                with block(0.2):
                    await trio.sleep_forever()
                assert cpu_ticks(pid) - ticks <= 1
                origin, right = await socket_pair()
                with trio.fail_after(2):
                    outcome = await terminated.pump(right, LIMITS, counter=Counter())
                    assert await read_to_end(origin) == (b"", End.RESET)
                assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)
                visitor.abort()
                abort_stream(origin)


async def test_abort_before_there_is_an_origin_resets_the_visitor_and_leaves_nothing() -> None:
    """Idempotent; a pump that comes later ends at once, and resets its origin."""
    async with hired_tls() as workers, nothing_lost(workers):
        visitor, terminated, _ = await shaken(workers)
        await terminated.abort()
        await terminated.abort()
        assert await read_to_end(visitor) == (b"", End.RESET)
        origin, right = await socket_pair()
        with trio.fail_after(2):
            outcome = await terminated.pump(right, LIMITS, counter=Counter())
            assert await read_to_end(origin) == (b"", End.RESET)
        assert outcome.right_end is End.CANCELLED
        visitor.abort()
        abort_stream(origin)


async def test_a_pump_that_is_cancelled_before_it_begins_leaves_nothing() -> None:
    async with hired_tls() as workers, nothing_lost(workers):
        visitor, terminated, _ = await shaken(workers)
        origin, right = await socket_pair()
        started = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await terminated.pump(right, LIMITS, counter=Counter())
        assert trio.current_time() - started < limits.PUMP_CANCEL_WAIT / 2
        assert await read_to_end(origin) == (b"", End.RESET)
        assert await read_to_end(visitor) == (b"", End.RESET)
        visitor.abort()
        abort_stream(origin)


async def test_a_worker_without_a_descriptor_for_the_origin_resets_both() -> None:
    """It got the order and not the socket: neither side may take that for an end."""
    async with hired_tls() as workers:
        (worker,) = workers.employed
        visitor, terminated, _ = await shaken(workers)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (3, 3))
        origin, right = await socket_pair()
        with trio.fail_after(2):
            outcome = await terminated.pump(right, LIMITS, counter=Counter())
            assert await read_to_end(origin) == (b"", End.RESET)
            assert await read_to_end(visitor) == (b"", End.RESET)
        assert outcome.left_end is End.CANCELLED
        assert worker.load == 0
    visitor.abort()
    abort_stream(origin)


# --- cut off -----------------------------------------------------------------------------------------


async def test_a_cancelled_pump_resets_both_at_once_and_leaves_nothing() -> None:
    async with hired_tls() as workers:
        for state in ("idle", "stalled", "half-closed", "visitor's bulk"):
            async with nothing_lost(workers), tls_stage(workers, narrow=True) as play, trio.open_nursery() as nursery:
                await play.is_moving()
                if state == "stalled":
                    nursery.start_soon(in_vain, partial(play.origin.send_all, bytes(8_000_000)))
                elif state == "half-closed":
                    await play.visitor.send_eof()
                elif state == "visitor's bulk":
                    nursery.start_soon(in_vain, partial(play.visitor.send_all, bytes(8_000_000)))
                with block(0.05):
                    await trio.sleep_forever()
                started = trio.current_time()
                await play.cancel()
                assert trio.current_time() - started < limits.PUMP_CANCEL_WAIT / 2
                if state != "stalled":  # there the writer was told of the reset, and the kernel tells once
                    assert (await read_to_end(play.origin))[1] is (End.FIN if state == "half-closed" else End.RESET)
                assert (await read_to_end(play.visitor))[1] is End.RESET
                assert not play.visitor.truncated


async def in_vain(send: Callable[[], Awaitable[None]]) -> None:
    """Send what will be cut off."""
    with pytest.raises(trio.BrokenResourceError):
        await send()


async def test_a_worker_that_dies_between_handshake_and_origin_resets_both() -> None:
    async with hired_tls(2) as workers:
        visitor, terminated, _ = await shaken(workers)
        await kill(workers, terminated)
        assert await read_to_end(visitor) == (b"", End.RESET)
        origin, right = await socket_pair()
        with trio.fail_after(2):
            outcome = await terminated.pump(right, LIMITS, counter=Counter())
            assert await read_to_end(origin) == (b"", End.RESET)
        assert outcome.left_end is outcome.right_end is End.ERROR
        await exchange(workers)
        visitor.abort()
        abort_stream(origin)


async def test_a_worker_that_dies_while_it_pumps_resets_both_and_another_goes_on() -> None:
    """Its counts survive."""
    async with hired_tls(2) as workers, tls_stage(workers) as other, tls_stage(workers) as play:
        assert other.terminated._worker is not play.terminated._worker
        for each in (other, play):
            await each.visitor.send_all(b"request")
            assert await read_exactly(each.origin, 7) == b"request"
        await until(lambda: play.counter.figures() == (7, 0))  # counted a moment after it was delivered
        await kill(workers, play.terminated)
        with trio.fail_after(2):
            assert await read_to_end(play.origin) == (b"", End.RESET)
            assert await read_to_end(play.visitor) == (b"", End.RESET)
            assert not play.visitor.truncated
            outcome = await play.result()
        assert outcome.left_end is outcome.right_end is End.ERROR
        assert outcome.left_bytes == 7
        await other.origin.send_all(b"answer")
        assert await read_exactly(other.visitor, 6) == b"answer"


async def kill(workers: Workers, terminated: Terminated) -> None:
    """Kill the worker that has a visitor, and wait until that is known."""
    worker: Employed = terminated._worker
    worker.process.kill()
    await until(lambda: worker not in workers.employed)


# --- deadlines ------------------------------------------------------------------------------------------


async def test_deadlines() -> None:
    """They count from the origin's arrival on, and reset; who was promised an end has it."""
    async with hired_tls() as workers, nothing_lost(workers), trio.open_nursery() as nursery:
        nursery.start_soon(expires, workers, replace(LIMITS, first_byte=SHORT), "new")
        nursery.start_soon(expires, workers, replace(LIMITS, idle=SHORT), "answered")
        nursery.start_soon(expires, workers, replace(LIMITS, total=SHORT), "answered")
        nursery.start_soon(expires, workers, replace(LIMITS, half_closed=SHORT), "half-closed")


async def expires(workers: Workers, deadlines: CopyLimits, state: str) -> None:
    """Have a stream in *state* end by *deadlines*."""
    async with tls_stage(workers, deadlines=None) as play, trio.open_nursery() as nursery:
        if state == "answered":
            await play.origin.send_all(b"?")
        elif state == "half-closed":
            await play.visitor.send_eof()
        started = trio.current_time()
        nursery.start_soon(play.run, deadlines)
        outcome = await play.result()
        assert SHORT - 0.05 <= trio.current_time() - started <= SHORT + LATE
        assert outcome.right_end is End.DEADLINE
        assert outcome.left_end is (End.FIN if state == "half-closed" else End.DEADLINE)
        received, end = await read_to_end(play.visitor)
        assert (received, end) == (b"?" if state == "answered" else b"", End.RESET)
        assert (await read_to_end(play.origin))[1] is (End.FIN if state == "half-closed" else End.RESET)


# --- real visitors -----------------------------------------------------------------------------------------

ANSWER = pattern(2, 300_000)


async def serve_http(origin: trio.SocketStream, *, closes: bool) -> None:
    """Read one request, and answer it."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += await origin.receive_some()
    length = b"" if closes else b"Content-Length: %d\r\n" % len(ANSWER)
    await origin.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n" + ANSWER)
    if closes:
        await origin.send_eof()
    assert await origin.receive_some() == b"", "the visitor's end"
    await origin.send_eof()


Speech = Callable[[trio.Process], Awaitable[None]]


async def visit(workers: Workers, command: list[str], *, speak: Speech | None = None, closes: bool = True) -> bytes:
    """Run a program that visits once (`{port}` is where) while *speak* types; return what it writes."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = str(listener.socket.getsockname()[1])
    origin, right = await socket_pair()
    written = bytearray()

    async def read(process: trio.Process) -> None:
        assert process.stdout is not None
        async for chunk in process.stdout:
            written.extend(chunk)

    with trio.fail_after(10):
        async with listener, trio.open_nursery() as nursery:
            arguments = [argument.replace("{port}", port) for argument in command]
            pipes = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            process = await nursery.start(pipes, arguments)
            nursery.start_soon(read, process)
            nursery.start_soon(partial(serve_http, origin, closes=closes))
            if speak is not None:
                nursery.start_soon(speak, process)
            left = await listener.accept()
            terminated = await workers.terminate(left.socket, timeout=5)
            assert terminated is not None
            outcome = await terminated.pump(right, LIMITS, counter=Counter())
    abort_stream(origin)
    assert outcome.left_end is outcome.right_end is End.FIN
    return bytes(written)


@pytest.mark.interop
@pytest.mark.parametrize("framing", ["close", "length"])
async def test_curl_gets_its_answer_whole(framing: str) -> None:
    """Also one that lasts until close_notify: curl takes anything else for a cut."""
    curl = str(require_program("curl"))
    options = ["--silent", "--show-error", "--insecure", "--noproxy", "*", "--http1.1", "--output", "-"]
    async with hired_tls() as workers, nothing_lost(workers):
        answer = await visit(workers, [curl, *options, "https://127.0.0.1:{port}/"], closes=framing == "close")
    assert answer == ANSWER


@pytest.mark.interop
@both_versions
async def test_openssl_s_client_gets_its_answer_whole(version: int) -> None:
    """With TLS 1.3 it sends KeyUpdates (`k`, and `K`, which asks for ours) before its request."""
    openssl = str(require_program("openssl"))
    flag = {SSL.TLS1_2_VERSION: "-tls1_2", SSL.TLS1_3_VERSION: "-tls1_3"}[version]

    async def speak(process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        if version == SSL.TLS1_3_VERSION:
            heard = b""
            for number in range(10):
                await process.stdin.send_all(b"K\n" if number % 2 else b"k\n")
                while heard.count(b"KEYUPDATE") <= number:
                    heard += await process.stderr.receive_some()
        await process.stdin.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    command = [openssl, "s_client", "-connect", "127.0.0.1:{port}", "-alpn", "http/1.1", flag]
    async with hired_tls() as workers, nothing_lost(workers):
        output = await visit(workers, command, speak=speak)
    assert ANSWER in output
    assert b"ALPN protocol: http/1.1" in output
