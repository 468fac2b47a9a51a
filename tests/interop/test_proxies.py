"""Our way through proxies against other people's: tinyproxy (HTTP CONNECT) and microsocks (SOCKS 5)."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.agent.proxies import listening
from tests.agent.stage import closed_port, echo
from tests.peers import require_program
from tests.tunnels import PATIENCE
from trunnel.agent.resolve import Resolver
from trunnel.agent.via import connect_via
from trunnel.errors import ConnectError
from trunnel.names import ServerAddress
from trunnel.settings.via import ViaAddress

pytestmark = pytest.mark.interop

BULK = bytes(range(256)) * 4096
"""1 MiB."""
ACCOUNT = pytest.mark.parametrize("account", ["", "ann:s3cret@"])


@asynccontextmanager
async def running(command: list[str | Path], port: int) -> AsyncIterator[None]:
    """Run *command* until the end of the body; it listens on *port* when the body begins."""
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, deliver_cancel=_kill)
        await nursery.start(run, command)
        with trio.fail_after(PATIENCE):
            while not await _answers(port):
                await trio.testing.wait_all_tasks_blocked(0.02)
        yield
        nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    """End *process* for certain: tinyproxy loses a SIGTERM that comes between two looks at its flag."""
    process.kill()


async def _answers(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


@asynccontextmanager
async def tinyproxy(folder: Path, account: str) -> AsyncIterator[ViaAddress]:
    program, port = require_program("tinyproxy"), await closed_port()
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 30", "LogLevel Critical", "MaxClients 10"]
    if account:
        lines.append("BasicAuth " + account.removesuffix("@").replace(":", " "))
    config = folder / "tinyproxy.conf"
    config.write_text("\n".join([*lines, ""]))
    async with running([program, "-d", "-c", config], port):
        yield ViaAddress.parse(f"http://{account}127.0.0.1:{port}")


@asynccontextmanager
async def microsocks(account: str, scheme: str = "socks5h") -> AsyncIterator[ViaAddress]:
    program, port = require_program("microsocks"), await closed_port()
    user, _, password = account.removesuffix("@").partition(":")
    proof = ["-u", user, "-P", password] if user else []
    async with running([program, "-i", "127.0.0.1", "-p", str(port), *proof], port):
        yield ViaAddress.parse(f"{scheme}://{account}127.0.0.1:{port}")


async def check_tunnel(via: ViaAddress, host: str = "localhost") -> None:
    """Send a megabyte through *via* and back."""
    async with listening(echo) as origin, trio.open_nursery() as nursery:
        server = ServerAddress(host, origin.port)
        with trio.fail_after(PATIENCE):
            async with await connect_via(via, server, resolver=Resolver()) as stream:
                nursery.start_soon(stream.send_all, BULK)
                received = bytearray()
                while len(received) < len(BULK):
                    received += await stream.receive_some()
                assert received == BULK


async def refused(via: ViaAddress) -> str:
    with trio.fail_after(PATIENCE), pytest.raises(ConnectError) as raised:
        await connect_via(via, ServerAddress("127.0.0.1", await closed_port()), resolver=Resolver())
    return str(raised.value)


@ACCOUNT
async def test_tinyproxy_connects_us(tmp_path: Path, account: str) -> None:
    async with tinyproxy(tmp_path, account) as via:
        await check_tunnel(via)


@ACCOUNT
async def test_microsocks_connects_us(account: str) -> None:
    async with microsocks(account) as via:
        await check_tunnel(via)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_microsocks_connects_us_by_address(host: str) -> None:
    """`localhost` is ::1 first on many machines, where the origin does not listen: the next address is tried."""
    async with microsocks("", "socks5") as via:
        await check_tunnel(via, host)


async def test_tinyproxy_says_that_nobody_listens(tmp_path: Path) -> None:
    async with tinyproxy(tmp_path, "") as via:
        assert "could not reach 127.0.0.1:" in await refused(via)


async def test_microsocks_says_that_nobody_listens() -> None:
    async with microsocks("") as via:
        assert (await refused(via)).endswith("connection refused")


@pytest.mark.parametrize("given", ["", "ann:wrong@"])
async def test_tinyproxy_refuses_who_it_does_not_know(tmp_path: Path, given: str) -> None:
    async with tinyproxy(tmp_path, "ann:s3cret@") as via:
        text = await refused(ViaAddress.parse(f"http://{given}{via.address}"))
    assert text.startswith(f"the proxy at {via.address} refused: 40")


@pytest.mark.parametrize("given", ["", "ann:wrong@"])
async def test_microsocks_refuses_who_it_does_not_know(given: str) -> None:
    async with microsocks("ann:s3cret@") as via:
        text = await refused(ViaAddress.parse(f"socks5h://{given}{via.address}"))
    assert text.startswith(f"the proxy at {via.address} refused: ")
