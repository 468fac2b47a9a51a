"""Downloads that stand still in the middle until a test says so."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import final

import trio

from tests.e2e.origins import Exchange
from tests.e2e.programs import PATIENCE, Agent
from tests.e2e.visitors import curl_command

HALF = b"half an answer, "
BODY = 2 * HALF
CUT_OFF = 56
"""curl's exit code for a connection that broke while it was read (CURLE_RECV_ERROR)."""


@final
class PausingOrigin:
    """Sends half of each answer, and the other half when it is told to."""

    def __init__(self) -> None:
        self.go_on = trio.Event()

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        await exchange.begin(length=len(BODY))
        await exchange.send(HALF)
        await self.go_on.wait()
        await exchange.send(HALF)


@final
class Download:
    """A curl that has half of its answer."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def outcome(self) -> tuple[bytes, int, str]:
        """Wait for its end; return what came after the half, its exit code, what it complained of."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with trio.fail_after(PATIENCE):
            rest = b"".join([chunk async for chunk in self._process.stdout])
            complaint = b"".join([chunk async for chunk in self._process.stderr])
            return rest, await self._process.wait(), complaint.decode()

    async def succeeds(self) -> None:
        """Wait for its end; the answer is whole."""
        assert await self.outcome() == (HALF, 0, "")

    async def is_cut_off(self) -> None:
        """Wait for its end, which is an RST: a FIN would be another complaint."""
        rest, status, complaint = await self.outcome()
        assert (rest, status) == (b"", CUT_OFF)
        assert "reset by peer" in complaint


async def begin_download(agent: Agent, nursery: trio.Nursery, *words: object) -> Download:
    """Have curl begin, and return once it has half of the answer; the nursery's end ends it."""
    command = curl_command(agent.site, "--no-buffer", *words)
    process: trio.Process = await nursery.start(
        partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    )
    assert process.stdout is not None
    received = b""
    with trio.fail_after(PATIENCE):
        while len(received) < len(HALF):
            chunk = await process.stdout.receive_some(len(HALF) - len(received))
            assert chunk, "the answer ended early"
            received += chunk
    assert received == HALF
    return Download(process)
