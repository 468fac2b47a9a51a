"""The authorised file: read as a whole, edited by the line, followed while the relay runs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel import capabilities
from trunnel.errors import ConfigError, InvalidName
from trunnel.names import Hostname, KeyId
from trunnel.relay.authorized import (
    AuthorizedAgents,
    authorize,
    load_authorized,
    parse_authorized,
    parse_name,
    revoke,
    with_agent,
    without_agent,
)
from trunnel.settings.limits import AUTHORIZED_FILE_MAX, AUTHORIZED_LABEL_MAX, AUTHORIZED_NAMES_MAX

A, B, C = (KeyId.of_spki(spki) for spki in (b"a", b"b", b"c"))
SHOP = Hostname("shop")


def ids(agents: AuthorizedAgents) -> set[KeyId]:
    return set(agents.agents)


# --- the format -------------------------------------------------------------------------------


def test_lines_blanks_and_comments() -> None:
    agents = parse_authorized(f"# people\n\n{A}\n  {B}  Shop www# Ada's # laptop\n\t\n")
    assert ids(agents) == {A, B}
    entry = agents.get(B)
    assert entry is not None
    assert (entry.names, entry.label) == ((SHOP, Hostname("www")), "Ada's # laptop")
    assert C not in agents
    assert agents.get(C) is None


@pytest.mark.parametrize("text", ["", "\n", "# nobody\n", "\n \r\n"])
def test_an_empty_file_lets_nobody_in(text: str) -> None:
    assert len(parse_authorized(text)) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{A}\n# x\n{A} shop\n", ["line 1", "line 3", str(A)]),
        (f"{A} shop\n{B} www shop\n", ["line 1", "line 2", "shop"]),
        (f"{A} shop SHOP\n", ["line 1", "shop"]),
        ("\nnonsense\n", ["line 2", "nonsense"]),
        (f"{A} a.b\n", ["line 1", "one label"]),
        (f"{A} shop.\n", ["line 1", "one label"]),
        (f"{A} sh*p\n", ["line 1", "sh*p"]),
        (f"{A} {B}\n", ["line 1", "looks like an agent's id"]),
        (f"{A} {' '.join(f'n{n}' for n in range(AUTHORIZED_NAMES_MAX + 1))}\n", ["line 1", "at most"]),
        (f"{A} # {'x' * (AUTHORIZED_LABEL_MAX + 1)}\n", ["line 1", "at most"]),
        (f"{A} # bell \x07\n", ["line 1", "do not print"]),
    ],
)
def test_what_is_wrong_is_told_with_its_lines(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_authorized(text)
    for word in words:
        assert word in str(caught.value)


def test_a_name_that_is_another_agents_address_is_refused() -> None:
    with pytest.raises(InvalidName, match="id"):
        parse_name(str(A).upper())


@given(st.text(max_size=200))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert len(parse_authorized(text)) == len(set(re.findall(r"^\s*([a-z2-7]{52})", text.lower(), re.MULTILINE)))


# --- edits ------------------------------------------------------------------------------------

TEXT = f"# head\n\n{A} shop  # first\n   # middle\n{B}"


def test_an_edit_changes_one_line_and_keeps_the_rest() -> None:
    assert with_agent(TEXT, C, names=[Hostname("www")], label="third") == f"{TEXT}\n{C} www  # third\n"
    assert with_agent(TEXT, A, names=[Hostname("www")]) == TEXT.replace(f"{A} shop", f"{A} shop www")
    assert with_agent(TEXT, A, label="new") == TEXT.replace("# first", "# new")
    assert with_agent(TEXT, A) == TEXT
    assert without_agent(TEXT, A) == f"# head\n\n   # middle\n{B}"
    assert without_agent(TEXT, C) == TEXT
    assert with_agent("", A) == f"{A}\n"


def test_an_edit_that_would_break_the_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="shop"):
        with_agent(TEXT, B, names=[SHOP])
    with pytest.raises(InvalidName):
        with_agent(TEXT, B, label="two\nlines")
    for edit in (with_agent, without_agent):
        with pytest.raises(ConfigError, match="line 1"):
            edit("nonsense", A)


names = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True).map(Hostname), max_size=3, unique=True)


@given(text_names=names, added=names, label=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9))
def test_what_was_put_in_is_read_back(text_names: list[Hostname], added: list[Hostname], label: str) -> None:
    text = with_agent("# head\n", A, names=text_names, label=label)
    entry = parse_authorized(with_agent(text, A, names=added)).get(A)
    assert entry is not None
    assert (set(entry.names), entry.label) == ({*text_names, *added}, label)
    assert without_agent(text, A) == "# head\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a file in a folder of its own."""
    tmp_path.chmod(0o700)
    return tmp_path / "agents"


def test_authorize_and_revoke_edit_the_file(path: Path) -> None:
    assert authorize(path, A, names=[SHOP], label="me")
    assert not authorize(path, A)
    path.chmod(0o600)
    assert authorize(path, B)
    assert path.read_text() == f"{A} shop  # me\n{B}\n"
    if capabilities.HAS_POSIX_MODES:
        assert path.stat().st_mode & 0o777 == 0o600
    assert revoke(path, A)
    assert not revoke(path, A)
    assert ids(load_authorized(path)) == {B}
    assert [entry.name for entry in path.parent.iterdir() if entry.suffix == ".tmp"] == []


def test_a_symbolic_link_stays_one(path: Path) -> None:
    link = path.with_name("link")
    path.write_text(f"{A}\n")
    link.symlink_to(path)
    assert authorize(link, B)
    assert link.is_symlink()
    assert ids(load_authorized(link)) == {A, B}


def test_a_file_that_cannot_be_used_is_an_error_at_start(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_authorized(path)
    for content in (b"nonsense", b"\xff\xfe", bytes(AUTHORIZED_FILE_MAX + 1)):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="agents"):
            load_authorized(path)
    path.write_bytes(b"\xef\xbb\xbf" + f"{A}\r\n".encode())
    assert ids(load_authorized(path)) == {A}
