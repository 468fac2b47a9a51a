"""The whole path with every capability that one platform lacks switched off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tunnels import greet, house
from trunnel import capabilities

FLAGS = ["MSG_PEEK", "RCVLOWAT", "TCP_INFO", "NOTSENT_LOWAT", "OUTQ", "KEEPALIVE_TIMES", "RLIMIT"]
FLAGS += ["NOFOLLOW", "FOLDER_FSYNC", "HARD_LINKS", "PUMP", "USER_TIMEOUT", "SOCKET_FILES"]
ELSEWHERE = """
import importlib, os, pkgutil, select, socket, sys, types
import trio, OpenSSL.SSL, msgspec  # these know the system that they run on
bare = types.ModuleType("select")
vars(bare).update({name: value for name, value in vars(select).items() if not name.lower().startswith("epoll")})
sys.modules["select"] = bare
for module in sys.argv[1].split():
    sys.modules[module] = None
for owner, name in ((os, "splice"), (os, "memfd_create"), (os, "sched_getaffinity"), (socket, "TCP_USER_TIMEOUT")):
    delattr(owner, name)
for name in [name for name in vars(os) if name.startswith("SPLICE_")]:
    delattr(os, name)
for package in ("trunnel.agent", "trunnel.cli"):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""
"""Imports the agent where the system has nothing of Linux's."""


@pytest.mark.parametrize("missing", [*([flag] for flag in FLAGS), FLAGS], ids=lambda flags: "+".join(flags)[:20])
async def test_a_visitor_is_served_without(missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in missing:
        monkeypatch.setattr(capabilities, f"HAS_{flag}", False)
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()


@pytest.mark.may_skip("Linux only")
@pytest.mark.skipif(sys.platform != "linux", reason="the others are their own exam")
@pytest.mark.parametrize("absent", ["", "fcntl termios resource"], ids=["macOS", "Windows"])
def test_the_agent_can_be_imported_elsewhere(absent: str) -> None:
    """Neither its modules nor the command's need splice, epoll or, on Windows, what is POSIX's."""
    tried = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, absent], capture_output=True, text=True, timeout=60, check=False
    )
    assert tried.returncode == 0, tried.stderr
