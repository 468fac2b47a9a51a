"""Rows CH-01 to CH-60: every case three ways (whole, byte by byte, followed by other bytes)."""

from __future__ import annotations

import pytest

from fuzz.clienthello_targets import WITH_HELLO, feed, outcome
from tests.wire.hello_cases import CASES, Case
from trunnel.wire.clienthello import ClientHelloParser, Verdict


def word(parser: ClientHelloParser) -> str:
    """Return the verdict as `trunnel hello` prints it."""
    name = parser.hello.server_name if parser.hello is not None else None
    return str(parser.verdict) if name is None else f"{parser.verdict}:{name}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_gets_its_verdict(case: Case) -> None:
    """A stream gets the verdict of its row."""
    parser = feed(iter([case.stream]))
    assert word(parser) == case.verdict, parser.reason


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_does_not_depend_on_segments(case: Case) -> None:
    """One byte at a time leads to the same verdict, reason, position and hello as all at once."""
    single = feed(bytes([octet]) for octet in case.stream)
    assert outcome(single) == outcome(feed(iter([case.stream])))


@pytest.mark.parametrize("case", [case for case in CASES if case.verdict != "need-more"], ids=str)
def test_row_does_not_depend_on_what_follows(case: Case) -> None:
    """Bytes behind a decided stream change nothing, in the same chunk or in a later one."""
    parser = feed(iter([case.stream]))
    decided = outcome(parser)
    parser.feed_untrusted(b"\x16\x03\x01")
    assert outcome(parser) == decided
    assert outcome(feed(iter([case.stream + b"\x16\x03\x01"]))) == decided


@pytest.mark.parametrize("case", [case for case in CASES if case.verdict in WITH_HELLO | {"route:a.example"}], ids=str)
def test_row_knows_where_the_hello_ends(case: Case) -> None:
    """`raw_bytes` is the end of the record that completes the hello: the rest is replayed behind it."""
    parser = feed(iter([case.stream]))
    assert feed(iter([case.stream[: parser.raw_bytes]])).verdict is parser.verdict
    assert feed(iter([case.stream[: parser.raw_bytes - 1]])).verdict is Verdict.NEED_MORE


def test_every_row_is_there() -> None:
    """The table has a case for each of CH-01 to CH-60."""
    assert {case.row for case in CASES} == {f"CH-{number:02}" for number in range(1, 61)}


def test_ids_are_unique() -> None:
    """Each case can be named on the command line."""
    assert len({str(case) for case in CASES}) == len(CASES)
