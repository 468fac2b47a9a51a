"""The relay as a service: what a supervisor gives and hears, from activation through a reload to the stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

import trunnel
from tests.tunnels import PATIENCE, Log
from trunnel import capabilities
from trunnel.cli.serving import serve_supervised
from trunnel.events import Listening, TakenOver
from trunnel.relay.bound import BoundRelay
from trunnel.relay.doorstep import NAME
from trunnel.settings.relay import RelaySettings

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

ACTIVATED = """
import os, sys
given, *command = sys.argv[1:]
os.dup2(int(given), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="port")
os.execv(command[0], command)
"""
"""What systemd does for a service with a socket unit, between fork and exec."""


@dataclass
class Supervisor:
    """Hears what a service says."""

    sock: trio.socket.SocketType

    async def hears(self) -> dict[str, str]:
        """Return the next message."""
        with trio.fail_after(PATIENCE):
            message = await self.sock.recv(4_096)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))


@pytest.fixture
async def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    await sock.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    return Supervisor(sock)


@pytest.fixture
def port_of_unit() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def settings_in(folder: Path) -> RelaySettings:
    return RelaySettings(state_dir=folder / "relay", bind_addrs=("127.0.0.1",), api_port=0, pub_port=0, quic=False)


async def start(nursery: trio.Nursery, settings: RelaySettings) -> tuple[BoundRelay, Log]:
    log = Log()
    relay: BoundRelay = await nursery.start(partial(serve_supervised, settings, on_event=log))
    return relay, log


async def test_the_supervisor_hears_of_the_start_and_the_stop(tmp_path: Path, supervisor: Supervisor) -> None:
    with supervisor.sock:
        async with trio.open_nursery() as nursery:
            relay, log = await start(nursery, settings_in(tmp_path))
            assert (await supervisor.hears())["READY"] == "1"
            assert len(log.of(Listening)) == 1
            relay.drain("SIGTERM")
            assert (await supervisor.hears())["STOPPING"] == "1"


async def test_a_relay_that_was_taken_over_names_its_successor_and_says_nothing_of_stopping(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    """STOPPING would have the supervisor wait for the end of what goes on."""
    settings = settings_in(tmp_path)
    with supervisor.sock:
        async with trio.open_nursery() as nursery:
            await start(nursery, settings)
            await supervisor.hears()
            relay, log = await start(nursery, msgspec.structs.replace(settings, takeover=True))
            assert len(log.of(TakenOver)) == 1
            heard = [await supervisor.hears(), await supervisor.hears()]
            assert not any("STOPPING" in message for message in heard)
            assert {message["MAINPID"] for message in heard} == {str(os.getpid())}
            relay.drain("SIGTERM")
            assert (await supervisor.hears())["STOPPING"] == "1"


async def test_a_relay_that_cannot_start_says_nothing(tmp_path: Path, supervisor: Supervisor) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), tls_cert=tmp_path / "a", tls_key=tmp_path / "b")
    with supervisor.sock, pytest.RaisesGroup(trunnel.ConfigError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await start(nursery, settings)
    assert not (tmp_path / "relay" / NAME).exists()


async def test_activated_reloaded_and_stopped_by_a_supervisor(
    tmp_path: Path, supervisor: Supervisor, port_of_unit: socket.socket
) -> None:
    """The whole life with real processes: its socket is systemd's; SIGHUP replaces it, and nobody is refused."""
    folder = tmp_path / "relay"
    place = port_of_unit.getsockname()
    command = [sys.executable, "-m", "trunnel", "serve", "--no-quic", "--state-dir", str(folder)]
    with supervisor.sock:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", ACTIVATED, str(port_of_unit.fileno()), *command],
            pass_fds=[port_of_unit.fileno()],
            stdin=subprocess.DEVNULL,
        )
        assert (await supervisor.hears()).items() >= {"READY": "1", "MAINPID": str(process.pid)}.items()
        async with await trio.open_tcp_stream(*place):
            process.send_signal(signal.SIGHUP)
            heard = [await supervisor.hears(), await supervisor.hears()]
            [successor] = {int(message["MAINPID"]) for message in heard}
            assert successor != process.pid
            assert [message.get("READY") for message in heard].count("1") == 1
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
        async with await trio.open_tcp_stream(*place):
            os.kill(successor, signal.SIGTERM)
            assert (await supervisor.hears())["STOPPING"] == "1"
    assert place == port_of_unit.getsockname()
