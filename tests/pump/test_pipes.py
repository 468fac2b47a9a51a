"""A worker's pipes: never one with a byte in it, never more than allowed, never a shrunken one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

import pytest

from tests.pump.stage import needs_workers
from trunnel.pump.pipes import PIPE_SIZE, Pipe, Pipes

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    """Three at most; what a test still has is its own to close."""
    owned = Pipes(3)
    yield owned
    owned.close()


def borrow(pipes: Pipes) -> Pipe:
    pipe = pipes.borrow()
    assert pipe is not None
    return pipe


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_pipe_is_empty_never_blocks_and_is_64_kib(pipes: Pipes) -> None:
    pipe = borrow(pipes)
    assert fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) == PIPE_SIZE
    with pytest.raises(BlockingIOError):
        os.read(pipe.reader, 1)
    assert os.write(pipe.writer, bytes(PIPE_SIZE + 1)) == PIPE_SIZE
    assert not os.get_inheritable(pipe.reader)
    assert not os.get_inheritable(pipe.writer)
    pipes.give_back(pipe, left_in=PIPE_SIZE)


def test_an_empty_pipe_is_lent_again(pipes: Pipes) -> None:
    first = borrow(pipes)
    pipes.give_back(first, left_in=0)
    assert borrow(pipes) is first
    pipes.give_back(first, left_in=0)


@pytest.mark.parametrize(("really", "believed"), [(1, 0), (0, 1), (1, 1), (PIPE_SIZE, 0)])
def test_a_pipe_that_may_hold_a_byte_is_closed(pipes: Pipes, really: int, believed: int) -> None:
    """The borrower's word and the kernel's both have to be 0: a stale byte would reach another tenant."""
    pipe = borrow(pipes)
    os.write(pipe.writer, bytes(really))
    pipes.give_back(pipe, left_in=believed)
    assert not is_open(pipe.reader)
    assert not is_open(pipe.writer)
    others = [borrow(pipes) for _ in range(3)]  # and does not count any more
    for other in others:
        pipes.give_back(other, left_in=0)


def test_there_are_never_more_than_allowed(pipes: Pipes) -> None:
    taken = [borrow(pipes) for _ in range(3)]
    assert pipes.borrow() is None
    assert not pipes.scarce, "it is our own bound, not the system's"
    pipes.give_back(taken[0], left_in=0)
    assert pipes.borrow() is taken[0]
    for pipe in taken:
        pipes.give_back(pipe, left_in=0)


def test_closing_closes_what_is_not_lent(pipes: Pipes) -> None:
    lent, free = borrow(pipes), borrow(pipes)
    pipes.give_back(free, left_in=0)
    pipes.close()
    assert is_open(lent.reader)
    assert not is_open(free.reader)
    pipes.give_back(lent, left_in=0)


def shrunken(flags: int) -> tuple[int, int]:
    """What an ordinary user gets beyond the limit of all programs together, pipe(7)."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    shrunken_ones.append(reader)
    return reader, writer


shrunken_ones: list[int] = []


def none_left(flags: int) -> tuple[int, int]:
    raise OSError(errno.EMFILE, "no descriptors")


def test_a_shrunken_pipe_is_not_used(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, and what would be spliced is copied."""
    monkeypatch.setattr(os, "pipe2", shrunken)
    assert pipes.borrow() is None
    assert pipes.scarce
    assert not is_open(shrunken_ones.pop())
    monkeypatch.undo()
    assert pipes.borrow() is None, "nor is it tried again for every chunk"


@pytest.mark.parametrize("lack", [shrunken, none_left])
def test_a_worker_that_has_a_pipe_goes_on_with_it(pipes: Pipes, monkeypatch: pytest.MonkeyPatch, lack: object) -> None:
    pipe = borrow(pipes)
    monkeypatch.setattr(os, "pipe2", lack)
    assert pipes.borrow() is None
    assert not pipes.scarce
    pipes.give_back(pipe, left_in=0)
    assert pipes.borrow() is pipe
    pipes.give_back(pipe, left_in=0)


def test_without_descriptors_there_are_none(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pipe2", none_left)
    assert pipes.borrow() is None
    assert pipes.scarce
