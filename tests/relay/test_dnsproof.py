"""Whose a name is: what counts as a proof, what as a denial, and what as no answer at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trunnel.errors import ConnectError
from trunnel.names import Hostname, KeyId
from trunnel.relay.dnsproof import Denied, Proof, Proven, is_under, prove, record_to_set
from trunnel.settings import limits

A, B = KeyId.of_spki(b"a"), KeyId.of_spki(b"b")
SUFFIX = Hostname("t.example")
NAME = Hostname("www.shop.example")


@dataclass
class Book:
    """What DNS says; None as a target or text: it cannot be asked."""

    cnames: dict[str, str | None] = field(default_factory=dict)
    texts: dict[str, list[str] | None] = field(default_factory=dict)
    slow: float = 0.0
    asked: int = 0

    async def cname(self, name: Hostname) -> Hostname | None:
        self.asked += 1
        await trio.sleep(self.slow)
        target = self.cnames.get(name.value, "")
        if target is None:
            raise ConnectError("no answer from the DNS server")
        return Hostname(target) if target else None

    async def texts_of(self, name: Hostname) -> list[str]:
        found = self.texts.get(name.value, [])
        if found is None:
            raise ConnectError("no answer from the DNS server")
        return found


@dataclass
class Reader:
    """A `Book` as it is asked."""

    book: Book

    async def cname(self, name: Hostname) -> Hostname | None:
        return await self.book.cname(name)

    async def texts(self, name: Hostname) -> tuple[bytes, ...]:
        return tuple(text.encode() for text in await self.book.texts_of(name))


async def proof(book: Book, key_id: KeyId = A) -> Proof:
    return await prove(NAME, key_id, suffixes=[SUFFIX, Hostname("u.example")], dns=Reader(book))


@pytest.mark.parametrize("suffix", ["t.example", "u.example"])
async def test_a_cname_to_the_agents_address_proves_its_name_and_no_other_agents(suffix: str) -> None:
    book = Book({NAME.value: f"{A}.{suffix}"})
    assert await proof(book) == Proven("cname")
    assert await proof(book, B) == Denied(
        f"its CNAME record leads to {A}.{suffix} and no TXT record at _trunnel.{NAME} names the agent"
    )


async def test_a_text_proves_the_name_where_there_can_be_no_cname() -> None:
    book = Book({}, {f"_trunnel.{NAME}": ["v=spf1 -all", f" {A.value.upper()} ", B.value]})
    assert await proof(book) == Proven("txt")
    assert await proof(book, B) == Proven("txt")


@pytest.mark.parametrize(
    "text", ["", "*", f"{A}.t.example", f"id={A}", A.value[:-1], f"{A}{A}", f"{A} {A}", f"4{A.value[1:]}"]
)
async def test_a_text_has_to_be_the_id(text: str) -> None:
    assert isinstance(await proof(Book({}, {f"_trunnel.{NAME}": [text]})), Denied)


async def test_the_text_stands_below_the_name_itself() -> None:
    """Not at the name, nor below what its CNAME leads to: that is another's zone."""
    book = Book({NAME.value: "cdn.other.example"}, {NAME.value: [A.value], "_trunnel.cdn.other.example": [A.value]})
    assert isinstance(await proof(book), Denied)


@pytest.mark.parametrize(
    ("links", "proven"), [(1, True), (limits.DNS_CHAIN_MAX, True), (limits.DNS_CHAIN_MAX + 1, False)]
)
async def test_a_chain_is_followed_so_far(links: int, proven: bool) -> None:
    hops = [NAME.value, *(f"hop{number}.example" for number in range(links - 1)), f"{A}.{SUFFIX}"]
    book = Book(dict(pairwise(hops)))
    assert isinstance(await proof(book), Proven) == proven
    assert book.asked <= limits.DNS_CHAIN_MAX


async def test_a_loop_ends() -> None:
    book = Book({NAME.value: "b.example", "b.example": NAME.value})
    assert await proof(book) == Denied(
        f"more than {limits.DNS_CHAIN_MAX} CNAME records follow each other"
        f" and no TXT record at _trunnel.{NAME} names the agent"
    )


async def test_a_chain_stops_at_the_relays_suffix() -> None:
    """A label there can be given to anybody: that it leads to an agent today proves nothing for the name."""
    book = Book({NAME.value: "shop.t.example", "shop.t.example": f"{A}.t.example"})
    assert isinstance(await proof(book), Denied)


@pytest.mark.parametrize("target", [f"{A}.t.example.evil.example", f"x{A}.t.example", f"{A}.xt.example", "t.example"])
async def test_only_exactly_the_agents_address_counts(target: str) -> None:
    assert isinstance(await proof(Book({NAME.value: target})), Denied)


async def test_no_answer_is_no_denial() -> None:
    """And no proof: whoever keeps a name on it does so knowingly."""
    for book in (
        Book({NAME.value: None}),
        Book({}, {f"_trunnel.{NAME}": None}),
        Book({NAME.value: "other.example", "other.example": None}),
    ):
        verdict = await proof(book)
        assert isinstance(verdict, Denied)
        assert verdict.transient


async def test_one_way_proves_whatever_becomes_of_the_other() -> None:
    assert await proof(Book({NAME.value: None}, {f"_trunnel.{NAME}": [A.value]})) == Proven("txt")
    assert await proof(Book({NAME.value: f"{A}.{SUFFIX}"}, {f"_trunnel.{NAME}": None})) == Proven("cname")


async def test_a_proof_takes_its_time_at_most(autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    verdict = await proof(Book(slow=1_000))
    assert verdict == Denied("DNS gave no answer within 5 s", transient=True)
    assert trio.current_time() - begun == limits.DNS_TIMEOUT


async def test_a_name_too_long_for_a_text_can_have_a_cname() -> None:
    name = Hostname(".".join(["a" * 60] * 4) + ".b.c.d")
    book = Book({name.value: f"{A}.{SUFFIX}"})
    assert await prove(name, A, suffixes=[SUFFIX], dns=Reader(book)) == Proven("cname")
    verdict = await prove(name, B, suffixes=[SUFFIX], dns=Reader(book))
    assert isinstance(verdict, Denied)
    assert "too long" in verdict.reason


def test_under_is_decided_label_by_label() -> None:
    assert is_under(Hostname("a.t.example"), SUFFIX)
    assert is_under(SUFFIX, SUFFIX)
    assert not is_under(Hostname("at.example"), SUFFIX)
    assert not is_under(Hostname("example"), SUFFIX)


def test_people_are_told_the_whole_record() -> None:
    said = record_to_set(NAME, A, SUFFIX)
    assert said == f'set {NAME} CNAME {A}.{SUFFIX} or _trunnel.{NAME} TXT "{A}"'


@given(
    st.dictionaries(
        st.sampled_from([NAME.value, "b.example", "c.example"]),
        st.sampled_from(["b.example", "c.example", NAME.value, f"{A}.{SUFFIX}", f"{B}.{SUFFIX}"]),
    ),
    st.lists(st.sampled_from([A.value, B.value]), max_size=2),
)
def test_two_agents_are_proven_only_by_two_records(cnames: dict[str, str], texts: list[str]) -> None:
    book = Book(dict(cnames), {f"_trunnel.{NAME}": texts})

    async def both() -> tuple[Proof, Proof]:
        return await proof(book), await proof(book, B)

    first, second = trio.run(both)
    if isinstance(first, Proven) and isinstance(second, Proven):
        assert len({*texts}) + (NAME.value in cnames) >= 2
