"""Big bodies arrive byte-exact both ways, and neither process grows with them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.e2e.origins import Exchange, serve_web
from tests.e2e.programs import Agent, Programs, Relay
from tests.e2e.visitors import curl, curl_command

MIB = 2**20
GIB = 2**30
RESIDENT_MAX = 80.0
"""MiB of resident memory that either process may ever have had."""
BLOCK = hashlib.shake_256(b"trunnel").digest(MIB)
"""One MiB without a pattern; block n of a body is this one rotated by n bytes."""


def block(number: int) -> bytes:
    """Return the MiB *number* of a body: each differs, so that a lost or doubled one shows."""
    turn = number % MIB
    return BLOCK[turn:] + BLOCK[:turn]


def digest_of(size: int) -> str:
    """Return the SHA-256 of a body of *size* bytes."""
    digest = hashlib.sha256()
    for number in range(size // MIB):
        digest.update(block(number))
    return digest.hexdigest()


async def serve_bulk(exchange: Exchange) -> None:
    """GET /SIZE: a body of that size.  PUT: length and SHA-256 of what was sent."""
    if exchange.method == "GET":
        size = int(exchange.path[1:])
        await exchange.begin(length=size)
        for number in range(size // MIB):
            await exchange.send(block(number))
        return
    digest = hashlib.sha256()
    length = await exchange.read_body(digest.update)
    await exchange.answer(f"{length} {digest.hexdigest()}".encode())


async def download(agent: Agent, size: int) -> str:
    """Let curl download *size* bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    command = curl_command(agent.site, path=f"/{size}")
    async with trio.open_nursery() as visit:
        process = await visit.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
        while chunk := await process.stdout.receive_some(MIB):
            digest.update(chunk)
    return digest.hexdigest()


async def upload(agent: Agent, size: int, folder: Path) -> str:
    """Let curl upload *size* bytes; returns what the origin got, as length and SHA-256."""
    body = folder / "body"
    with body.open("wb") as file:
        for number in range(size // MIB):
            file.write(block(number))
    try:
        return await curl(agent.site, "--upload-file", body)
    finally:
        body.unlink()


def check_memory(relay: Relay, agent: Agent) -> str:
    """Neither process has ever been bigger than it may; returns the figures."""
    figures = {"relay": relay.program.memory(), "agent": agent.program.memory()}
    assert all(each["VmHWM"] < RESIDENT_MAX for each in figures.values()), figures
    return ", ".join(f"{name} {each['VmRSS']:.0f} MiB, at most {each['VmHWM']:.0f}" for name, each in figures.items())


@pytest.mark.parametrize(
    ("transport", "size"),
    [
        *(pytest.param(transport, 64 * MIB, id=f"{transport}, 64 MiB") for transport in ("quic", "h2", "yamux")),
        pytest.param("h2", GIB, id="h2, 1 GiB", marks=pytest.mark.slow),
    ],
)
async def test_big_bodies_arrive_byte_exact_with_flat_memory(
    programs: Programs, nursery: trio.Nursery, tmp_path: Path, transport: str, size: int
) -> None:
    """The figures are on the test's output (`-s`)."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, serve_bulk), relay, "--transport", transport)
    expected = digest_of(size)

    started = trio.current_time()
    assert await download(agent, size) == expected
    middle = trio.current_time()
    assert await upload(agent, size, tmp_path) == f"{size} {expected}"
    ended = trio.current_time()

    speeds = f"download {size / 1e6 / (middle - started):.0f} MB/s, upload {size / 1e6 / (ended - middle):.0f} MB/s"
    sys.stdout.write(f"{speeds}; {check_memory(relay, agent)}\n")


async def test_a_visitor_that_stops_reading_costs_a_window_and_not_the_body(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """While one stalls amid 1 GiB, others get theirs, and no process holds what the stalled one does not read."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, serve_bulk), relay)
    command = curl_command(agent.site, path=f"/{GIB}")
    stalled = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert stalled.stdout is not None
        await stalled.stdout.receive_some(1)
        for _ in range(2):
            assert await download(agent, 16 * MIB) == digest_of(16 * MIB)
        check_memory(relay, agent)
    finally:
        stalled.kill()
        await stalled.wait()
