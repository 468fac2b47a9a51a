"""Single values: what a person may write, and what each spelling means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.errors import InvalidName
from trunnel.settings import values
from trunnel.settings.agent import TransportChoice
from trunnel.settings.options import AGENT_OPTIONS, OUTPUT_OPTIONS, RELAY_OPTIONS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("1.5", 1.5), ("30s", 30.0), ("250ms", 0.25), ("5m", 300.0), ("1h", 3600.0), ("1 d", 86_400.0)],
)
def test_a_duration_is_seconds_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert values.parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e3", "31d", "5 parsecs", "9" * 400])
def test_what_is_no_sensible_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="duration"):
        values.parse_seconds(text)


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_yes_has_four_spellings(text: str) -> None:
    assert values.parse_switch(text) is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_no_has_four_spellings(text: str) -> None:
    assert values.parse_switch(text) is False


def test_a_window_is_bytes_or_a_size_with_a_unit() -> None:
    assert values.parse_window("3MiB") == values.parse_window("3145728") == 3 * 1024 * 1024


@pytest.mark.parametrize("text", ["1", "17MiB", "3MB", ""])
def test_a_window_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="64KiB to 16MiB"):
        values.parse_window(text)


def test_an_address_is_canonical_and_may_have_brackets() -> None:
    assert values.parse_address("[0:0::1]") == "::1"


def test_a_label_with_a_dot_is_explained() -> None:
    with pytest.raises(InvalidName, match="give one label such as 'blog'"):
        values.parse_label("blog.example.com")


@pytest.mark.parametrize("text", ["../x", "", "a/b", "a.b", "x" * 64])
def test_a_key_name_cannot_leave_the_state_folder(text: str) -> None:
    with pytest.raises(InvalidName, match="key name"):
        values.parse_key_name(text)


def test_hex_may_have_colons() -> None:
    assert values.parse_hex("0a:0B ff") == b"\x0a\x0b\xff"


def test_a_choice_lists_the_words() -> None:
    with pytest.raises(InvalidName, match="'tcp' is not one of: auto, quic, h2, yamux"):
        values.parse_choice(TransportChoice)("tcp")


def test_a_file_that_must_exist_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="there is no file"):
        values.parse_existing_file(str(tmp_path / "absent"))
    with pytest.raises(InvalidName, match="a folder"):
        values.parse_existing_file(str(tmp_path))


PARSERS = {option.parse for option in (*RELAY_OPTIONS, *AGENT_OPTIONS, *OUTPUT_OPTIONS)}


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__qualname__)
@given(text=st.text(max_size=60))
def test_any_text_parses_or_is_refused_in_our_words(parse: Callable[[str], object], text: str) -> None:
    """No parser of the option table lets another exception out."""
    with contextlib.suppress(InvalidName):
        parse(text)
