"""Recorded hellos: our own captures, and the outside corpus where it is (`tests/corpus.py`).

FUZZ-03 on all of them: the verdict is the same whole, byte by byte, at cuts in
two, re-recorded at an offset and fragmented at random.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from random import Random

import pytest

from fuzz.clienthello_oracle import StdlibOracle, quiet_callbacks
from fuzz.clienthello_targets import feed, outcome
from fuzz.differential import DifferentialReport
from tests.corpus import CAPTURES, outside_corpus, rows
from tests.wire.hello_builder import fragment, split_records
from tests.wire.test_clienthello_rows import word
from trunnel.settings.limits import CLIENT_HELLO_RECORDS_MAX

OWN = list(rows(CAPTURES / "index.tsv"))
ANYTHING = "any"


def implied(server_name: str) -> str:
    """Return the verdict that the label of a well-formed hello implies."""
    if server_name in ("", "(none)"):
        return "no-sni"
    try:
        ipaddress.ip_address(server_name)
    except ValueError:
        return f"route:{server_name.lower().removesuffix('.')}"
    return "bad-name"


def check_split_invariance(stream: bytes, *, cuts: int) -> None:
    """FUZZ-03 for one recorded hello."""
    whole = feed(iter([stream]))
    expected = outcome(whole)
    rng = Random(len(stream))
    assert outcome(feed(stream[at : at + 1] for at in range(len(stream)))) == expected
    for at in rng.sample(range(len(stream)), min(cuts, len(stream))):
        assert outcome(feed(iter([stream[:at], stream[at:]]))) == expected
    message, rest = split_records(stream)
    if rest or whole.hello is None or len(message) != whole.hello.message_bytes:
        return
    for where in _fragmentations(len(message), cuts, rng):
        again = feed(iter([fragment(message, where)]))
        assert again.verdict is whole.verdict
        assert again.hello is not None
        assert again.hello.raw_server_name == whole.hello.raw_server_name
        assert (again.hello.alpn, again.hello.versions) == (whole.hello.alpn, whole.hello.versions)


def _fragmentations(size: int, cuts: int, rng: Random) -> Iterator[list[int]]:
    """Yield cuts into two records, then into many at random."""
    for at in rng.sample(range(1, size), min(cuts, size - 1)):
        yield [at]
    for _ in range(min(64, cuts)):
        yield rng.sample(range(1, size), min(rng.randrange(2, CLIENT_HELLO_RECORDS_MAX), size - 1))


def test_there_are_captures_of_our_own() -> None:
    """The index lists the folder, and several kinds of client are in it."""
    assert {row["file"] for row in OWN} == {path.name for path in CAPTURES.glob("*.bin")}
    assert {"curl.bin", "openssl-s_client.bin", "python.bin", "chromium.bin"} <= {row["file"] for row in OWN}


@pytest.mark.parametrize("row", OWN, ids=lambda row: str(row["file"]))
def test_own_capture_is_read_as_its_client_meant_it(row: dict[str, str]) -> None:
    parser = feed(iter([(CAPTURES / row["file"]).read_bytes()]))
    assert word(parser) == implied(row["server_name"])
    assert parser.hello is not None
    assert ",".join(protocol.decode("latin-1") for protocol in parser.hello.alpn) == row["alpn"]
    assert ",".join(f"{version:#06x}" for version in parser.hello.versions) == row["versions"]
    assert (parser.hello.records, parser.hello.raw_bytes) == (int(row["records"]), int(row["bytes"]))


@pytest.mark.parametrize("row", OWN, ids=lambda row: str(row["file"]))
def test_own_capture_is_the_same_in_any_pieces(row: dict[str, str]) -> None:
    check_split_invariance((CAPTURES / row["file"]).read_bytes(), cuts=1 << 16)


@pytest.mark.corpus
def test_edge_cases_get_the_verdict_of_their_table() -> None:
    folder = outside_corpus() / "edge"
    wrong = [
        f"{row['file']}: {found}, not {row['trunnel_verdict']}"
        for row in rows(folder / "edge.tsv")
        if (found := word(feed(iter([(folder / row["file"]).read_bytes()])))) != row["trunnel_verdict"]
        and row["trunnel_verdict"] != ANYTHING
    ]
    assert not wrong


@pytest.mark.corpus
def test_captures_that_openssl_takes_get_what_their_label_implies() -> None:
    folder = outside_corpus()
    wrong = [
        f"{row['file']}: {found}, not {implied(row['sni'])}"
        for row in rows(folder / "index.tsv")
        if row["openssl_state"] == "ok" and row["class"] != "fuzz"
        if (found := word(feed(iter([(folder / row["file"]).read_bytes()])))) != implied(row["sni"])
    ]
    assert not wrong


@pytest.mark.corpus
def test_no_hello_of_the_corpus_is_seen_otherwise_than_by_openssl() -> None:
    report, oracle = DifferentialReport(), StdlibOracle()
    with quiet_callbacks():
        for path in sorted(outside_corpus().rglob("*.bin")):
            report.judge(path.read_bytes(), oracle)
    assert not report.examples
    assert report.judged


@pytest.mark.corpus
def test_corpus_hellos_are_the_same_in_any_pieces() -> None:
    for path in sorted(outside_corpus().rglob("*.bin")):
        if path.stat().st_size:
            check_split_invariance(path.read_bytes(), cuts=8)


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_corpus_hellos_are_the_same_at_every_cut() -> None:
    for path in sorted(outside_corpus().rglob("*.bin")):
        if path.stat().st_size:
            check_split_invariance(path.read_bytes(), cuts=1 << 16)
