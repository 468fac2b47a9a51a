"""The socket by which relays find each other: one relay a folder, of one user, wherever the folder is."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest
import trio

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.doorstep import NAME, Doorstep, knock
from trunnel.relay.handover import Accepting, Channel

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

PATIENCE = 5


def laid(folder: Path) -> Doorstep:
    doorstep = Doorstep.lay(folder)
    assert doorstep is not None
    doorstep.open()
    return doorstep


async def meet(folder: Path, doorstep: Doorstep) -> tuple[Channel, Channel]:
    """Knock, and open; returns both ends."""
    outside = knock(folder)
    assert outside is not None
    with trio.fail_after(PATIENCE):
        return outside, await doorstep.accept()


async def test_who_knocks_reaches_the_relay_of_the_folder(tmp_path: Path) -> None:
    doorstep = laid(tmp_path)
    outside, inside = await meet(tmp_path, doorstep)
    with closing(outside), closing(inside):
        outside.send(Accepting(quic=True))
        assert await inside.receive() == (Accepting(quic=True), [])
        assert outside.pid == inside.pid == os.getpid()
    doorstep.remove()


async def test_a_long_path_is_as_good_as_a_short_one(tmp_path: Path) -> None:
    """A Unix address has 107 bytes; a path has 4,096."""
    folder = tmp_path.joinpath(*["x" * 100] * 3)
    folder.mkdir(parents=True)
    doorstep = laid(folder)
    outside, inside = await meet(folder, doorstep)
    outside.close()
    inside.close()
    doorstep.remove()


def test_only_its_user_can_knock(tmp_path: Path) -> None:
    doorstep = laid(tmp_path)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    doorstep.remove()


def test_nobody_is_there_before_and_after(tmp_path: Path) -> None:
    assert knock(tmp_path) is None
    doorstep = laid(tmp_path)
    doorstep.remove()
    doorstep.remove()
    assert knock(tmp_path) is None
    assert not (tmp_path / NAME).exists()


def test_a_socket_of_a_relay_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(str(tmp_path / NAME))
        killed.listen()
    assert knock(tmp_path) is None
    doorstep = laid(tmp_path)
    channel = knock(tmp_path)
    assert channel is not None
    channel.close()
    doorstep.remove()


@pytest.mark.parametrize("content", ["", "text"])
def test_a_file_in_its_place_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert knock(tmp_path) is None
    laid(tmp_path).remove()


def test_a_second_relay_beside_the_first_does_not_start(tmp_path: Path) -> None:
    """Each would overwrite what the other keeps; and it must not take the first one's doorstep away."""
    first = laid(tmp_path)
    with pytest.raises(ConfigError, match="--takeover"):
        Doorstep.lay(tmp_path)
    channel = knock(tmp_path)
    assert channel is not None
    channel.close()
    first.remove()


def test_a_folder_that_cannot_be_written_costs_the_takeover_and_not_the_relay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Doorstep.lay(tmp_path / "missing") is None
    assert [record.message for record in caplog.records] == ["no_takeover"]


def test_a_relay_that_cannot_be_spoken_to_is_an_error_that_says_why(tmp_path: Path) -> None:
    """Its queue is full: somebody else is being served."""
    doorstep = Doorstep.lay(tmp_path)
    assert doorstep is not None
    doorstep._sock.listen(0)
    waiting = [knock(tmp_path)]
    with pytest.raises(ConfigError, match=NAME):
        while len(waiting) < 10:
            waiting.append(knock(tmp_path))
    for channel in waiting:
        assert channel is not None
        channel.close()
    doorstep.remove()


def test_one_that_was_left_to_a_successor_stays(tmp_path: Path) -> None:
    """The successor has the socket, too; whoever leaves must not take the name away."""
    old = laid(tmp_path)
    new = Doorstep(tmp_path, socket.socket(fileno=os.dup(old.fileno())))
    old.leave()
    old.leave()
    old.remove()
    channel = knock(tmp_path)
    assert channel is not None
    channel.close()
    new.remove()
    assert not (tmp_path / NAME).exists()


def test_without_the_system_s_help_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_SOCKET_PASSING", False)
    assert Doorstep.lay(tmp_path) is None
