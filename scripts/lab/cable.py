"""A network whose link to the relay is a `wire`, and the hand on that wire."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import trio

from scripts.lab.hosts import Network, network
from scripts.lab.programs import Program, Record
from scripts.lab.wire import Behaviour

QUEUE = 20_000
"""Packets that a device of the wire may hold for it."""


class Cable:
    """The wire as its users see it."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def behave(self, behaviour: Behaviour) -> None:
        """Treat packets so from now on, both ways."""
        self._program.tell(wire=asdict(behaviour))

    async def report(self) -> Record:
        """Return what the wire did so far."""
        seen = len(self._program.events)
        self._program.tell(report=True)
        return await self._program.event("report", after=seen)


@asynccontextmanager
async def cable(behaviour: Behaviour, *, segments: bool = False) -> AsyncIterator[tuple[Network, Cable]]:
    """Open a network with a wire to the relay that behaves so."""
    async with network(wired=True) as net, trio.open_nursery() as nursery:
        words = [sys.executable, "-m", "scripts.lab.wire", *(["--segments"] if segments else [])]
        with (net.folder / "wire").open("wb") as log:
            program = Program(net.inside("net", *words), log)
        nursery.start_soon(program.listen)
        try:
            await program.event("devices")
            await net.ip("net", f"link set wire1 netns {net.name('relay')} txqueuelen {QUEUE}")
            await net.ip("net", f"link set wire0 txqueuelen {QUEUE}")
            await net.join("wire0", "wire1")
            if segments:
                await net.whole_segments("wire0", "wire1")
            made = Cable(program)
            made.behave(behaviour)
            yield net, made
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 10, shield=True):
                await program.stop()
            nursery.cancel_scope.cancel()
