"""The plain origin and its visitors: bytes are exact, and what is not is a failure."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from scripts.bench.hello import client_hello
from scripts.bench.pattern import CHUNK, PERIOD, block, matches
from scripts.bench.plain import GREETED, GREETING
from tests.rules.sources import ROOT
from trunnel.wire.clienthello import ClientHelloParser, Verdict

HELLO = client_hello("a.example")
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark is Linux only: epoll")


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    words = [sys.executable, "-m", "scripts.bench.origin"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def load(port: int, kind: str, *arguments: object) -> dict[str, float]:
    words = [sys.executable, "-m", "scripts.bench.load", kind, str(port), HELLO.hex(), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30, cwd=ROOT)
    return dict(json.loads(done.stdout))


def test_the_canned_hello_is_one_that_a_relay_routes() -> None:
    parser = ClientHelloParser()
    assert parser.feed_untrusted(HELLO) is Verdict.ROUTE
    assert parser.hello is not None
    assert parser.hello.raw_server_name == b"a.example"


@pytest.mark.parametrize("offset", [0, 1, PERIOD - 5, 3 * PERIOD + 17])
def test_the_pattern_is_known_at_each_offset(offset: int) -> None:
    assert matches(block(offset, CHUNK), offset)
    assert matches(block(offset, 7), offset)
    assert not matches(block(offset, CHUNK), offset + 1)
    assert not matches(block(offset + CHUNK, CHUNK), offset), "a lost chunk shows"


def test_a_pattern_that_goes_wrong_at_the_end_of_a_chunk_shows() -> None:
    chunk = bytearray(block(0, CHUNK))
    chunk[-1] ^= 1
    assert not matches(memoryview(chunk), 0)


@LINUX_ONLY
@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("streams", [1, 8])
def test_bulk_is_counted_and_exact(origin: int, direction: str, streams: int) -> None:
    figures = load(origin, "bulk", direction, streams, 16 << 20)
    assert (figures["bytes"], figures["failed"], figures["hung"]) == (16 << 20, 0, 0)


@LINUX_ONLY
@pytest.mark.parametrize(("kind", "arguments"), [("connect", (0.1, 8)), ("request", (0.1, 4)), ("exchange", (0.1,))])
def test_small_work_is_answered(origin: int, kind: str, arguments: tuple[float, ...]) -> None:
    figures = load(origin, kind, *arguments)
    assert figures["failed"] == 0
    assert figures["count"] > 0
    assert 0 < figures["p50"] <= figures["p99"]


@LINUX_ONLY
def test_the_origin_swallows_exactly_the_hello_however_it_is_cut(origin: int) -> None:
    with socket.create_connection(("127.0.0.1", origin), timeout=10) as visitor:
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HELLO[:6]:
            visitor.sendall(bytes([byte]))
        visitor.sendall(HELLO[6:] + GREETING)
        assert visitor.recv(100) == GREETED


class Liar:
    """Greets, then sends one byte too few and ends."""

    def __init__(self, stack_of: socket.socket) -> None:
        self.listener = stack_of
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        visitor, _ = self.listener.accept()
        with visitor:
            visitor.recv(10_000)
            visitor.sendall(GREETED)
            amount = int(visitor.recv(100).split()[1])
            visitor.sendall(block(0, amount - 1))
            visitor.shutdown(socket.SHUT_WR)
            visitor.recv(1)


@LINUX_ONLY
def test_one_byte_too_few_is_a_failed_stream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        liar = Liar(listener)
        liar.thread.start()
        figures = load(listener.getsockname()[1], "bulk", "down", 1, CHUNK)
        liar.thread.join(10)
    assert figures["failed"] == 1
