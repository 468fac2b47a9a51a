"""Lines to the standard streams: in order, whole, and never a reason to stop."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from typing import TextIO

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trunnel import capabilities
from trunnel.cli.lines import LineWriter, printable
from trunnel.settings import limits


def dropped(count: int) -> str:
    """Word the loss of lines."""
    return f"dropped {count}"


@pytest.fixture
def pipe() -> Generator[tuple[int, TextIO]]:
    """Return the reading descriptor and the writing file of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        yield reading, file
    os.close(reading)


def is_blocked(writer: LineWriter) -> bool:
    """Ask *writer*, without the type checker remembering the answer."""
    return writer.blocked


def read_some(descriptor: int) -> bytes:
    """Read what is there now."""
    return os.read(descriptor, 16 * limits.MIB)


def test_a_line_is_written_at_once(pipe: tuple[int, TextIO]) -> None:
    LineWriter(pipe[1], dropped=dropped).write("one")
    assert read_some(pipe[0]) == b"one\n"


def test_a_full_pipe_keeps_lines_back_and_never_blocks(pipe: tuple[int, TextIO]) -> None:
    writer = LineWriter(pipe[1], dropped=dropped)
    lines = [f"{number:07}" + "x" * 1_000 for number in range(500)]
    for line in lines:
        writer.write(line)
    assert is_blocked(writer)
    received = b""
    while writer.blocked:
        received += read_some(pipe[0])
        writer.flush(0)
    received += read_some(pipe[0])
    assert received.decode().splitlines() == lines


def test_what_does_not_fit_the_backlog_is_dropped_whole_and_counted(pipe: tuple[int, TextIO]) -> None:
    writer = LineWriter(pipe[1], dropped=dropped)
    count = 3 * limits.OUTPUT_BACKLOG // 1_000
    for number in range(count):
        writer.write(f"{number:07}" + "x" * 1_000)
    assert writer.dropped > 0
    received = b""
    while writer.blocked:
        received += read_some(pipe[0])
        writer.flush(0)
    received += read_some(pipe[0])
    lines = received.decode().splitlines()
    assert lines[-1].startswith("dropped ")
    assert len(lines) - 1 + int(lines[-1].split()[1]) == count
    assert {len(line) for line in lines[:-1]} == {1_007}


async def test_what_waits_is_written_when_the_reader_reads_again(pipe: tuple[int, TextIO]) -> None:
    writer = LineWriter(pipe[1], dropped=dropped)
    for _ in range(200):
        writer.write("x" * 1_000)
    assert writer.blocked
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.keep_flushing)
        received = 0
        while received < 200 * 1_001:
            await trio.lowlevel.wait_readable(pipe[0])
            received += len(read_some(pipe[0]))
        nursery.cancel_scope.cancel()
    assert received == 200 * 1_001
    assert not writer.blocked


def test_a_reader_that_went_away_silences_the_writer() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        writer = LineWriter(file, dropped=dropped)
        os.close(reading)
        writer.write("one")
        writer.write("two")
        assert not writer.blocked
        writer.flush()


def test_a_closed_stream_is_no_error() -> None:
    file = io.StringIO()
    file.close()
    for writer in (LineWriter(None, dropped=dropped), LineWriter(file, dropped=dropped)):
        writer.write("one")
        writer.flush()
        assert not writer.terminal


def test_without_the_capability_lines_are_written_plainly(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "HAS_SELECT_ON_FILES", False)
    LineWriter(pipe[1], dropped=dropped).write("one")
    assert read_some(pipe[0]) == b"one\n"


def test_a_stream_with_a_narrow_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    LineWriter(stream, dropped=dropped).write("é")
    assert raw.getvalue() == b"\\xe9\n"


@given(st.text())
def test_strangers_text_cannot_forge_lines_or_drive_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text(alphabet=st.characters(codec="ascii", min_codepoint=32, max_codepoint=126)))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
