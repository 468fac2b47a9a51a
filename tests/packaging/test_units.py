"""The systemd units are valid, hardened (SEC-25), and say what the programs understand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.texts import SYSTEMD, directives
from tests.peers import require_program
from trunnel.settings import options

SERVICES = ("trunnel-relay.service", "trunnel-agent@.service")
UNITS = (*SERVICES, "trunnel-relay.socket")
EXPOSURE_MAX = 20
"""Tenths: SEC-25 asks for 2.0 at most."""
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "LockPersonality": "yes",
    "KillMode": "mixed",
    "Restart": "on-failure",
}
REFUSE_EXEC_GAIN = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
    sys.exit(99)
from OpenSSL import SSL
SSL.Context(SSL.TLS_METHOD).set_verify(SSL.VERIFY_PEER, lambda *given: True)
"""
"""prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), Linux 6.3: what MemoryDenyWriteExecute= does; then a callback."""


def text_of(unit: str) -> str:
    """Return what a unit says."""
    return (SYSTEMD / unit).read_text("utf-8")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder of the units, with a program that exists on every machine."""
    for unit in UNITS:
        (tmp_path / unit).write_text(text_of(unit).replace("/usr/local/bin/trunnel", "/bin/true"), "utf-8")
    return tmp_path


@pytest.mark.interop
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(units: Path, unit: str) -> None:
    completed = subprocess.run(
        [require_program("systemd-analyze"), "verify", "--man=no", units / unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (completed.returncode, completed.stderr) == (0, "")


@pytest.mark.interop
@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_finds_little_exposed(units: Path, unit: str) -> None:
    judge: list[str | Path] = [
        require_program("systemd-analyze"),
        "security",
        "--offline=yes",
        f"--threshold={EXPOSURE_MAX}",
    ]
    completed = subprocess.run([*judge, units / unit], capture_output=True, text=True, check=False, timeout=20)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_may_do_little(unit: str) -> None:
    said = directives(text_of(unit))
    assert {name: said.get(name, [""])[-1] for name in HARDENED} == HARDENED
    assert "@system-service" in said["SystemCallFilter"]
    assert int(said["LimitNOFILE"][0]) >= 65_536
    assert {"MemoryMax", "RestartSec", "StateDirectory", "User"} <= said.keys()
    assert said["User"][0] != "root"


def test_only_the_relay_has_a_capability_and_it_is_for_its_port() -> None:
    relay, agent = (directives(text_of(unit)) for unit in SERVICES)
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert (relay[name], agent[name]) == (["CAP_NET_BIND_SERVICE"], [""])


def test_the_two_programs_have_two_users() -> None:
    users = re.findall(r"^u (\S+)", (SYSTEMD / "trunnel.sysusers").read_text("ascii"), re.MULTILINE)
    assert [directives(text_of(unit))["User"][0] for unit in SERVICES] == users


def test_the_relay_is_restarted_hot_by_another_main_process() -> None:
    said = directives(text_of("trunnel-relay.service"))
    assert said["Type"] == ["notify"]
    assert said["NotifyAccess"] == ["all"]
    assert said["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_the_socket_is_named_as_the_option_of_its_port() -> None:
    text = text_of("trunnel-relay.socket")
    ports = {option.name for option in options.RELAY_OPTIONS if option.name.endswith("port")}
    assert set(directives(text)["FileDescriptorName"]) | set(re.findall(r"[a-z]+-port", text)) <= ports
    assert directives(text)["BindIPv6Only"] == ["ipv6-only"]


@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_names_variables_that_exist(unit: str) -> None:
    named = re.findall(r"\b(TRUNNEL_[A-Z_]+)=", text_of(unit))
    assert named
    assert set(named) <= options.VARIABLES


@pytest.mark.parametrize("unit", SERVICES)
@pytest.mark.may_skip(reason="Linux 6.3 and later have the rule as a system call")
def test_memory_that_is_written_and_executed_is_allowed_only_while_tls_needs_it(unit: str) -> None:
    """The day this fails, cffi does without: turn MemoryDenyWriteExecute on."""
    completed = subprocess.run(
        [sys.executable, "-c", REFUSE_EXEC_GAIN], capture_output=True, text=True, check=False, timeout=20
    )
    if completed.returncode == 99:
        pytest.skip("this kernel has no PR_SET_MDWE")
    needed = completed.returncode != 0
    assert not needed or "write+execute memory" in completed.stderr
    assert directives(text_of(unit))["MemoryDenyWriteExecute"] == ["no" if needed else "yes"]
