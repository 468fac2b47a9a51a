"""Our yamux against hashicorp's, in both roles over loopback TCP; the Go program is `yamux_peer/main.go`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from tests.peers import require_program
from tests.transports.conformance import AGENT, RELAY
from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.transports.base import Stream
from trunnel.transports.mux import MuxSession
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire.muxevents import Role

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).with_name("yamux_peer")
BUILD_SECONDS = 120
ANSWER_SECONDS = 20
BULK = bytes(range(256)) * 4 * 4_096
"""Four MiB: sixteen opening windows."""
MANY = 400
"""Streams at once: more than a backlog of 256."""
BOTH = pytest.mark.parametrize("role", list(Role))
UNREACHABLE = (
    "dial tcp",
    "no such host",
    "i/o timeout",
    "proxyconnect",
    "connection refused",
    "disabled by GOPROXY=off",
)
"""What Go says when it cannot fetch a module."""


@pytest.fixture(scope="session")
def peer_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go peer; Go keeps what it compiled in a cache of its own."""
    go = require_program("go")
    folder = tmp_path_factory.mktemp("yamux_peer")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
    program = folder / "yamux_peer"
    built = subprocess.run(
        [go, "build", "-buildvcs=false", "-o", program, "."],
        cwd=folder,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if built.returncode and any(sign in built.stderr for sign in UNREACHABLE):
        pytest.skip(f"the Go module proxy cannot be reached for hashicorp/yamux: {built.stderr.strip()[-300:]}")
    assert built.returncode == 0, built.stderr
    return program


class GoPeer:
    """The running Go program: lines in, lines out."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = bytearray()

    async def line(self) -> str:
        """Return its next line."""
        assert self._process.stdout is not None
        with trio.fail_after(ANSWER_SECONDS):
            while b"\n" not in self._buffer:
                chunk = await self._process.stdout.receive_some()
                assert chunk, "the peer has ended"
                self._buffer += chunk
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.decode()

    async def ask(self, order: str) -> str:
        """Give an order and return the answer."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(order.encode() + b"\n")
        return await self.line()


@asynccontextmanager
async def against_go(program: Path, role: Role) -> AsyncIterator[tuple[MuxSession, GoPeer]]:
    """Our session in *role*, and the Go program as the other end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    theirs = "server" if role is Role.CLIENT else "client"
    async with trio.open_nursery() as nursery:
        order = [program, theirs, f"{host}:{port}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "check": False}
        process: trio.Process = await nursery.start(partial(trio.run_process, order, **pipes))
        with trio.fail_after(ANSWER_SECONDS):
            carrier = await listener.accept()
        await listener.aclose()
        async with open_yamux_session(carrier, role, AGENT if role is Role.CLIENT else RELAY) as session:
            yield session, GoPeer(process)
        nursery.cancel_scope.cancel()


async def read_all(stream: Stream) -> bytes:
    """Read to the FIN."""
    received = bytearray()
    with trio.fail_after(ANSWER_SECONDS):
        while chunk := await stream.receive_some():
            received += chunk
    return bytes(received)


async def opened(session: MuxSession, verb: bytes) -> Stream:
    """Open a stream that asks the peer for *verb*."""
    stream = await session.open_stream()
    await stream.send_all(verb)
    return stream


async def echo_all(stream: Stream) -> None:
    """Send back what comes, then the end."""
    while chunk := await stream.receive_some():
        await stream.send_all(chunk)
    await stream.aclose()


async def serve_echoes(session: MuxSession) -> None:
    """Echo on every stream of the peer."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(echo_all, await session.accept_stream())


# --- streams that we open -----------------------------------------------------------------------


@BOTH
async def test_echo_and_half_close(peer_program: Path, role: Role) -> None:
    """The far end answers after our FIN, and its FIN ends the stream."""
    async with against_go(peer_program, role) as (session, _):
        stream = await opened(session, b"e")
        await stream.send_all(b"before ")
        await stream.send_all(b"the end")
        await stream.send_eof()
        assert await read_all(stream) == b"before the end"
        await stream.aclose()
        assert session.connection.streams == {}


@BOTH
async def test_a_large_upload_follows_the_peers_credit(peer_program: Path, role: Role) -> None:
    async with against_go(peer_program, role) as (session, _):
        stream = await opened(session, b"u")
        await stream.send_all(BULK)
        await stream.send_eof()
        assert (await read_all(stream)).decode() == f"{len(BULK)} {sha256(BULK).hexdigest()}"


@BOTH
async def test_a_large_download_follows_our_credit(peer_program: Path, role: Role) -> None:
    """While nothing is read no more than the opening window comes; then everything does."""
    async with against_go(peer_program, role) as (session, peer):
        stream = await opened(session, b"d" + len(BULK).to_bytes(8, "big"))
        while session.statistics().unread < 256 * 1024:
            assert await peer.ask("ping") == "ok"
        for _ in range(3):
            assert await peer.ask("ping") == "ok"
        assert session.statistics().unread == 256 * 1024
        assert await read_all(stream) == b"0123456789abcdef" * (len(BULK) // 16)
        await stream.aclose()


@BOTH
async def test_many_streams_at_once(peer_program: Path, role: Role) -> None:
    """More than the peer's backlog: we wait for its acknowledgements, and none is refused."""
    answered: list[bytes] = []

    async def one(number: int) -> None:
        stream = await opened(session, b"e")
        await stream.send_all(b"%d" % number)
        await stream.send_eof()
        answered.append(await read_all(stream))
        await stream.aclose()

    async with against_go(peer_program, role) as (session, _):
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(one, number)
        assert sorted(answered) == sorted(b"%d" % number for number in range(MANY))


@BOTH
async def test_a_reset_with_a_code_is_a_reset_to_the_peer_and_nothing_else(peer_program: Path, role: Role) -> None:
    """The code in an RST's length is credit for a stream that is gone: the session goes on."""
    async with against_go(peer_program, role) as (session, peer):
        for code in (ErrorCode.PEER_ABORTED, ErrorCode.CANCEL, ErrorCode.ORIGIN_UNREACHABLE):
            stream = await opened(session, b"r")
            assert await stream.receive_some() == b"r"
            stream.reset(code)
            assert await peer.line() == "read: connection reset"
        assert await peer.ask("streams") == "0"
        stream = await opened(session, b"e")
        await stream.send_eof()
        assert await read_all(stream) == b""


@BOTH
async def test_a_sender_to_a_stream_that_we_closed_is_reset(peer_program: Path, role: Role) -> None:
    """Also when it has used up its credit before."""
    async with against_go(peer_program, role) as (session, peer):
        for exhausted in (False, True):
            stream = await opened(session, b"s")
            while exhausted and session.statistics().unread < 256 * 1024:
                assert await peer.ask("ping") == "ok"
            await stream.aclose()
            assert (await peer.line()) in ("write: connection reset", "write: stream closed")
        assert session.connection.streams == {}


@BOTH
async def test_last_words_of_a_stream_that_we_closed_are_read(peer_program: Path, role: Role) -> None:
    """Our FIN is not followed by an RST that would make the peer drop what it has not read."""
    async with against_go(peer_program, role) as (session, peer):
        stream = await opened(session, b"c" + bytes(200_000))
        await stream.aclose()
        assert await peer.line() == "read: ok"


# --- streams that the peer opens ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("order", ["echo 1 10", "echo 400 1000", "echo 8 1500000"], ids=["one", "many", "large"])
async def test_streams_of_the_peer_are_echoed(peer_program: Path, role: Role, order: str) -> None:
    """Many at once: their numbers may come out of order."""
    async with against_go(peer_program, role) as (session, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve_echoes, session)
        assert await peer.ask(order) == "ok"
        assert await peer.ask("ping") == "ok"
        nursery.cancel_scope.cancel()


@BOTH
async def test_a_reset_of_the_peer_behind_its_end_is_no_error(peer_program: Path, role: Role) -> None:
    """It closed, and has waited long enough for us: RST without a code, NO_ERROR behind a FIN."""
    async with against_go(peer_program, role) as (session, peer):
        assert await peer.ask("abandoned") == "ok"
        stream = await session.accept_stream()
        assert await read_all(stream) == b"w"
        with pytest.raises(trio.BrokenResourceError) as caught, trio.fail_after(ANSWER_SECONDS):
            while True:
                await stream.send_all(b"x" * 1_000)
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code is ErrorCode.NO_ERROR


# --- the session --------------------------------------------------------------------------------


@BOTH
async def test_pings_are_answered_both_ways(peer_program: Path, role: Role) -> None:
    async with against_go(peer_program, role) as (session, peer):
        while not session.round_trip:  # ours goes out when the session begins
            assert await peer.ask("ping") == "ok"


@BOTH
async def test_after_the_peers_goodbye_we_open_nothing_and_open_streams_go_on(peer_program: Path, role: Role) -> None:
    async with against_go(peer_program, role) as (session, peer):
        stream = await opened(session, b"e?")
        assert await stream.receive_some() == b"?"  # so that it has accepted it
        assert await peer.ask("goaway") == "ok"
        assert await peer.ask("ping") == "ok"  # so that it has come
        with pytest.raises(SessionClosed, match="NO_ERROR"):
            await session.open_stream()
        await stream.send_all(b"still here")
        await stream.send_eof()
        assert await read_all(stream) == b"still here"


@BOTH
async def test_after_our_goodbye_the_peer_opens_nothing_and_open_streams_go_on(peer_program: Path, role: Role) -> None:
    async with against_go(peer_program, role) as (session, peer):
        stream = await opened(session, b"e")
        session.go_away()
        assert await peer.ask("ping") == "ok"
        assert await peer.ask("open") == "remote end is not accepting connections"
        await stream.send_all(b"still here")
        await stream.send_eof()
        assert await read_all(stream) == b"still here"


@BOTH
async def test_the_end_of_our_session_ends_the_peers(peer_program: Path, role: Role) -> None:
    async with against_go(peer_program, role) as (session, peer):
        session.abort("enough", code=ErrorCode.DEADLINE)
        assert await peer.ask("wait-closed") == "closed"
