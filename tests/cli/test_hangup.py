"""SIGHUP: the command line of the next process, and what becomes of it and of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipapp
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.places import RELAY
from trunnel import capabilities
from trunnel.cli import hangup
from trunnel.cli.hangup import command_of_successor, hangups, has_terminal, obey_hangups
from trunnel.relay.bound import BoundRelay
from trunnel.settings import limits

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")

PATIENCE = 20
PRINTS_ITS_SUCCESSOR = """
import sys
from trunnel.cli.hangup import command_of_successor
print(*command_of_successor(sys.orig_argv, sys.executable), sep=chr(10))
"""


def relay() -> BoundRelay:
    """Return a relay without sockets."""
    return BoundRelay([], RELAY)


async def once() -> AsyncIterator[int]:
    """Be sent SIGHUP once."""
    yield signal.SIGHUP


@contextmanager
def successor(monkeypatch: pytest.MonkeyPatch, program: str) -> Iterator[None]:
    """Have the next process be a Python *program*."""
    with monkeypatch.context() as context:
        context.setattr(hangup, "command_of_successor", lambda *_: [sys.executable, "-c", program])
        yield


def reasons(caplog: pytest.LogCaptureFixture, message: str) -> list[str]:
    return [record.__dict__["reason"] for record in caplog.records if record.message == message]


# --- its command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "next_one"),
    [
        (["python3", "-m", "trunnel", "serve"], ["-m", "trunnel", "serve", "--takeover"]),
        (["python", "/usr/bin/trunnel", "serve", "--open"], ["/usr/bin/trunnel", "serve", "--open", "--takeover"]),
        (["python3", "./trunnel.pyz", "serve", "--takeover"], ["./trunnel.pyz", "serve", "--takeover"]),
        (["python", "-X", "dev", "-m", "trunnel", "serve"], ["-X", "dev", "-m", "trunnel", "serve", "--takeover"]),
    ],
)
def test_it_is_our_own_with_takeover_once(ours: list[str], next_one: list[str]) -> None:
    assert command_of_successor(ours, "/opt/python") == ["/opt/python", *next_one]


@pytest.mark.parametrize("directly", [True, False], ids=["executed", "by the interpreter"])
def test_a_single_file_starts_itself_again(tmp_path: Path, directly: bool) -> None:
    """A zip application, as the released single file is one: by its path, so that a new version there starts."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text(PRINTS_ITS_SUCCESSOR)
    file = tmp_path / "trunnel.pyz"
    zipapp.create_archive(source, file, interpreter=sys.executable)
    program = [str(file)] if directly else [sys.executable, str(file)]
    run = subprocess.run([*program, "serve", "--open"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert run.stdout.splitlines() == [sys.executable, str(file), "serve", "--open", "--takeover"]


# --- receiving ----------------------------------------------------------------------------------


async def test_a_hangup_is_received_and_does_not_end_the_process() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with hangups() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(PATIENCE):
            assert await anext(received) == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is before


async def test_where_it_is_ignored_it_stays_ignored(autojump_clock: trio.testing.MockClock) -> None:
    """By `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with hangups() as received, trio.move_on_after(1) as waited:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            await anext(received)
        assert waited.cancelled_caught
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_is_one_of_the_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0), os.fdopen(theirs, "w") as terminal, open(os.devnull) as null:  # noqa: PTH123
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, null)
        assert not has_terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert has_terminal()
        monkeypatch.setattr(sys, "stderr", None)
        assert not has_terminal()


# --- what is done -------------------------------------------------------------------------------


async def test_with_a_terminal_it_means_that_the_terminal_has_gone() -> None:
    bound = relay()
    await obey_hangups(once(), bound, terminal=True)
    assert bound.is_draining
    assert bound.drain_reason == "SIGHUP"


async def test_once_the_next_one_has_taken_over_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trunnel")
    bound, lives, started = relay(), tmp_path / "lives", list[trio.Process]()
    open_process = trio.lowlevel.open_process

    async def note(command: list[str], **options: object) -> trio.Process:
        started.append(await open_process(command, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(trio.lowlevel, "open_process", note)
    os.mkfifo(lives)
    with successor(monkeypatch, f"open({str(lives)!r}).read()"):  # until somebody has written there, and closed it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(obey_hangups, once(), bound, terminal=False))
            writer = await trio.to_thread.run_sync(lives.open, "w")
            bound.yield_to(started[0].pid)
        assert started[0].poll() is None
        writer.close()
        assert await started[0].wait() == 0
    assert not reasons(caplog, "takeover_failed")


async def test_one_that_ends_is_reported_and_we_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bound = relay()
    with successor(monkeypatch, "raise SystemExit(3)"), trio.fail_after(PATIENCE):
        await obey_hangups(once(), bound, terminal=False)
    assert reasons(caplog, "takeover_failed") == ["it ended with 3"]
    assert not bound.is_draining


async def test_one_that_does_not_take_over_is_ended_and_we_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "TAKEOVER_READY", 0.1)
    bound = relay()
    with successor(monkeypatch, "import signal; signal.pause()"), trio.fail_after(PATIENCE):
        await obey_hangups(once(), bound, terminal=False)
    assert reasons(caplog, "takeover_failed") == ["it did not take over in time"]
    [pid] = [record.__dict__["pid"] for record in caplog.records if record.message == "takeover_failed"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_program_that_is_not_there_any_more_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    await obey_hangups(once(), relay(), terminal=False)
    assert reasons(caplog, "takeover_failed") == ["/nowhere/python: No such file or directory"]


async def test_a_relay_that_drains_starts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trunnel")
    bound = relay()
    bound.drain("SIGTERM")
    await obey_hangups(once(), bound, terminal=False)
    assert reasons(caplog, "no_takeover") == ["this relay is about to end"]


async def test_the_first_process_of_a_container_starts_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end would be the container's, and the next one's."""
    with monkeypatch.context() as container:
        container.setattr("trunnel.cli.hangup.os.getpid", lambda: 1)
        await obey_hangups(once(), relay(), terminal=False)
    assert "first process" in reasons(caplog, "no_takeover")[0]


async def test_where_sockets_cannot_be_handed_over_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capabilities, "HAS_SOCKET_PASSING", False)
    await obey_hangups(once(), relay(), terminal=False)
    assert "cannot be handed over" in reasons(caplog, "no_takeover")[0]
