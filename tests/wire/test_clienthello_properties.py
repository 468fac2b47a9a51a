"""The fuzz targets of the ClientHello under hypothesis, and FUZZ-03 on generated cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import clienthello_targets as targets
from fuzz.clienthello_targets import feed
from tests.corpus import CAPTURES
from tests.wire.hello_builder import Hello, fragment, split_records
from trunnel.settings.limits import CLIENT_HELLO_RAW_MAX, CLIENT_HELLO_RECORDS_MAX
from trunnel.wire.clienthello import ClientHelloParser, Verdict

STREAM = Hello().stream()
STREAMS = [STREAM, *(path.read_bytes() for path in sorted(CAPTURES.glob("*.bin")))]

prefixed = st.builds(
    lambda stream, kept, tail: stream[: int(kept * len(stream))] + tail,
    st.sampled_from(STREAMS),
    st.floats(0, 1),
    st.binary(max_size=80),
)
"""The beginning of a real hello, then anything: reaches every state of the parser."""


@given(st.one_of(st.binary(max_size=200), prefixed))
def test_any_bytes_get_a_verdict_that_cuts_do_not_change(stream: bytes) -> None:
    targets.fuzz_clienthello(stream)


@given(st.binary(max_size=400))
def test_a_message_means_the_same_in_any_records(message: bytes) -> None:
    targets.fuzz_clienthello_message(message)


@given(st.binary(min_size=1, max_size=8))
def test_mutated_hellos_hold_the_invariants(seed: bytes) -> None:
    targets.fuzz_clienthello_mutated(seed)


@given(st.binary(min_size=1, max_size=8))
def test_mutated_hellos_are_seen_as_openssl_sees_them(seed: bytes) -> None:
    targets.fuzz_clienthello_differential(seed)


@given(stream=st.sampled_from(STREAMS), cuts=st.lists(st.floats(0, 1, exclude_max=True), max_size=30))
def test_fragmenting_a_hello_changes_nothing_but_its_records(stream: bytes, cuts: list[float]) -> None:
    """However a real hello is put into records, verdict, name, protocols and versions stay."""
    message, _ = split_records(stream)
    again = feed(iter([fragment(message, [int(cut * len(message)) for cut in cuts])]))
    before = feed(iter([stream]))
    assert again.verdict is before.verdict
    assert before.hello is not None
    assert again.hello is not None
    assert again.hello.raw_server_name == before.hello.raw_server_name
    assert (again.hello.alpn, again.hello.versions) == (before.hello.alpn, before.hello.versions)
    assert again.hello.records == len(cuts) + 1


@given(stream=prefixed, steps=st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_fewer_bytes_than_needed_never_change_the_verdict(stream: bytes, steps: list[int]) -> None:
    """SO_RCVLOWAT may be set to what is there plus `needed`: nothing is slept through."""
    parser = ClientHelloParser()
    for step in steps:
        at, needed = parser.raw_bytes, parser.needed
        if parser.verdict is not Verdict.NEED_MORE or at + needed > len(stream):
            return
        less = (needed - 1) * step // 2
        assert parser.feed_untrusted(stream[at : at + less]) is Verdict.NEED_MORE
        parser.feed_untrusted(stream[at + less : at + needed])


@pytest.mark.parametrize("records", [CLIENT_HELLO_RECORDS_MAX, CLIENT_HELLO_RECORDS_MAX + 1])
@given(data=st.data())
def test_the_verdict_falls_within_the_peek_buffer(records: int, data: st.DataObject) -> None:
    """After CLIENT_HELLO_RAW_MAX bytes there is a verdict, whatever they are."""
    message = Hello().padded(data.draw(st.integers(1_000, 16_384))).message()
    cuts = data.draw(st.lists(st.integers(0, len(message)), min_size=records - 1, max_size=records - 1, unique=True))
    parser = feed(iter([(fragment(message, cuts) + bytes(CLIENT_HELLO_RAW_MAX))[:CLIENT_HELLO_RAW_MAX]]))
    assert parser.verdict is not Verdict.NEED_MORE
