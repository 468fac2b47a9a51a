"""What a supervisor gives and is told: the protocols of sd_listen_fds(3) and sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from trunnel import capabilities
from trunnel.cli.systemd import Notifier, given_sockets
from trunnel.errors import ConfigError

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="systemd is Linux's")


def activation(count: object, names: str | None = None, *, pid: int | None = None) -> dict[str, str]:
    """Return the variables that systemd sets."""
    said = {"LISTEN_PID": str(os.getpid() if pid is None else pid), "LISTEN_FDS": str(count), "OTHER": "kept"}
    return said if names is None else {**said, "LISTEN_FDNAMES": names}


@pytest.fixture
def first() -> Iterator[int]:
    """Return the first of two descriptors in a row: a TCP listener and a UDP socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        for start in range(100, 1_000, 2):
            try:
                os.fstat(start), os.fstat(start + 1)
            except OSError:
                break
        os.dup2(listener.fileno(), start)
        os.dup2(udp.fileno(), start + 1)
        yield start
        for descriptor in (start, start + 1):
            try:
                os.close(descriptor)
            except OSError:
                continue


# --- sockets --------------------------------------------------------------------------------------


def test_sockets_come_with_their_names_and_the_variables_go(first: int) -> None:
    """No process that we start must believe that they are meant for it, or inherit them."""
    environ = activation(2, "port:quic")
    given = given_sockets(environ, first=first)
    assert [(one.name, one.is_udp, one.supervised) for one in given] == [("port", False, True), ("quic", True, True)]
    assert [one.sock.fileno() for one in given] == [first, first + 1]
    assert not any(os.get_inheritable(one.sock.fileno()) for one in given)
    assert environ == {"OTHER": "kept"}
    for one in given:
        one.sock.close()


@pytest.mark.parametrize("names", [None, "", "port", "port:"])
def test_a_socket_without_a_name_is_unknown(first: int, names: str | None) -> None:
    given = given_sockets(activation(2, names), first=first)
    assert [one.name for one in given] == ["port" if names else "unknown", "unknown"]
    for one in given:
        one.sock.close()


def test_sockets_of_another_process_are_left_alone(first: int) -> None:
    environ = activation(2, pid=os.getpid() + 1)
    assert given_sockets(environ, first=first) == []
    assert environ == {"OTHER": "kept"}
    os.fstat(first)


def test_without_activation_there_are_none() -> None:
    assert given_sockets({}) == []
    assert given_sockets(activation(0)) == []


@pytest.mark.parametrize("count", ["", "x", "-1", "1.0", "٣", "129", "9" * 30])
def test_a_count_that_makes_no_sense_is_an_error(count: str) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS is"):
        given_sockets(activation(count))


def test_a_descriptor_that_is_no_socket_is_an_error_with_its_name(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigError, match=r"\(port\) is no socket"):
        given_sockets(activation(1, "port"), first=file.fileno())


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    with pytest.raises(ConfigError, match="is no socket"):
        given_sockets(activation(1), first=9_999)


# --- notification -----------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A supervisor's socket, and its address as NOTIFY_SOCKET gives it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        if request.param == "path":
            sock.bind(str(tmp_path / "notify"))
            yield sock, str(tmp_path / "notify")
        else:
            name = f"trunnel-test-{os.getpid()}"
            sock.bind(f"\0{name}")
            yield sock, f"@{name}"


def said(sock: socket.socket) -> dict[str, str]:
    lines = sock.recv(4_096).decode().split("\n")
    return dict(line.split("=", 1) for line in lines)


def test_the_supervisor_hears_what_becomes_of_the_service(supervisor: tuple[socket.socket, str]) -> None:
    sock, address = supervisor
    notifier = Notifier(address)
    notifier.ready()
    assert said(sock).items() >= {"READY": "1", "MAINPID": str(os.getpid())}.items()
    notifier.stopping()
    assert said(sock)["STOPPING"] == "1"
    notifier.succeeded_by(4711)
    assert said(sock) == {"MAINPID": "4711"}


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens-here", "x" * 200])
def test_nobody_to_tell_is_no_error(address: str) -> None:
    Notifier(address).ready()


def test_a_supervisor_that_does_not_listen_is_not_waited_for(supervisor: tuple[socket.socket, str]) -> None:
    _, address = supervisor
    notifier = Notifier(address)
    for _ in range(1_000):
        notifier.ready()


def test_without_unix_sockets_nobody_is_told(
    supervisor: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, address = supervisor
    monkeypatch.setattr(capabilities, "HAS_UNIX_SOCKETS", False)
    Notifier(address).ready()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
