"""The file of known relays: never trusted anew because it is broken, never lost to another writer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.identity.certificates import NOW
from tests.identity.processes import running
from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.identity.knownrelays import KnownRelay, KnownRelays, TrustKind
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits

SERVER = ServerAddress("t.example.com", 443)
OTHER = ServerAddress("::1", 4433)


def relay(key: bytes = b"key", how: TrustKind = TrustKind.FIRST_USE) -> KnownRelay:
    return KnownRelay(relay_id=KeyId.of_spki(key), how=how, since=NOW)


def line(**changes: object) -> str:
    entry = {"server": str(SERVER), "id": relay().relay_id.value, "how": "first-use", "since": NOW.isoformat()}
    return json.dumps(entry | changes)


@pytest.fixture
def known(tmp_path: Path) -> KnownRelays:
    return KnownRelays(tmp_path / "known_relays")


def test_nothing_is_known_at_first(known: KnownRelays) -> None:
    assert known.lookup(SERVER) is None
    assert not known.path.exists()


def test_what_is_remembered_is_found_again_by_address_and_port(known: KnownRelays) -> None:
    known.remember(SERVER, relay(b"a"), replacing=None)
    known.remember(OTHER, relay(b"b", TrustKind.PUBLIC_CA), replacing=None)
    again = KnownRelays(known.path)
    assert again.lookup(SERVER) == relay(b"a")
    assert again.lookup(OTHER) == relay(b"b", TrustKind.PUBLIC_CA)
    assert again.lookup(ServerAddress(SERVER.host, 444)) is None


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
def test_the_file_is_private(known: KnownRelays) -> None:
    known.remember(SERVER, relay(), replacing=None)
    assert known.path.stat().st_mode & 0o777 == 0o600


def test_a_person_can_remove_a_relay_by_removing_its_line(known: KnownRelays) -> None:
    for server in (SERVER, OTHER):
        known.remember(server, relay(), replacing=None)
    kept = [text for text in known.path.read_text().splitlines() if str(SERVER) not in text]
    known.path.write_text("\n".join(kept))
    assert known.lookup(SERVER) is None
    assert known.lookup(OTHER) == relay()


def test_unknown_keys_are_tolerated_and_kept(known: KnownRelays) -> None:
    later = line(note="of a later version")
    known.path.write_text(f"{later}\n\n")
    assert known.lookup(SERVER) == relay()
    known.remember(OTHER, relay(b"b"), replacing=None)
    assert known.path.read_text().splitlines()[0] == later


BROKEN = {
    "no-json": "{",
    "binary": "\ufffd\0",
    "list": "[]",
    "number": "1",
    "no-id": json.dumps({"server": "a:1", "how": "first-use", "since": NOW.isoformat()}),
    "bad-id": line(id="x"),
    "bad-server": line(server="a b:1"),
    "bad-port": line(server="a:99999"),
    "unknown-reason": line(how="because"),
    "not-remembered-reason": line(how="pin"),
    "bad-time": line(since="yesterday"),
    "twice": f"{line()}\n{line(id=relay(b'b').relay_id.value)}",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_an_error_that_names_it_and_stays_as_it_is(known: KnownRelays, text: str) -> None:
    content = f"{line(server='good:1')}\n{text}\n"
    known.path.write_text(content)
    bad = 3 if "\n" in text else 2
    with pytest.raises(ConfigError, match=f"{known.path}, line {bad}: "):
        known.lookup(SERVER)
    with pytest.raises(ConfigError, match="line"):
        known.remember(OTHER, relay(), replacing=None)
    assert known.path.read_text() == content


def test_bytes_that_are_no_text_are_an_error(known: KnownRelays) -> None:
    known.path.write_bytes(b'{"server":"\xff"}\n')
    with pytest.raises(ConfigError, match="line 1"):
        known.lookup(SERVER)


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
def test_a_file_that_others_can_write_is_refused(known: KnownRelays) -> None:
    known.remember(SERVER, relay(), replacing=None)
    known.path.chmod(0o666)
    with pytest.raises(ConfigError, match="written by other users"):
        known.lookup(SERVER)


def test_the_file_is_bounded_when_read(known: KnownRelays) -> None:
    known.path.write_text("\n" * (limits.KNOWN_RELAYS_FILE_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        known.lookup(SERVER)


def test_the_file_is_bounded_when_written(known: KnownRelays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KNOWN_RELAYS_FILE_MAX", 200)
    known.remember(SERVER, relay(), replacing=None)
    before = known.path.read_bytes()
    with pytest.raises(ConfigError, match="is full"):
        known.remember(OTHER, relay(), replacing=None)
    assert known.path.read_bytes() == before


def test_a_full_disk_changes_nothing(known: KnownRelays, monkeypatch: pytest.MonkeyPatch) -> None:
    known.remember(SERVER, relay(), replacing=None)
    before = known.path.read_bytes()

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigError, match="No space left"):
        known.remember(OTHER, relay(), replacing=None)
    assert known.path.read_bytes() == before


# --- other writers -------------------------------------------------------------------------------


def test_a_decision_on_an_old_reading_is_not_written(known: KnownRelays) -> None:
    known.remember(SERVER, relay(b"theirs"), replacing=None)
    assert known.remember(SERVER, relay(b"ours"), replacing=None) == relay(b"theirs")
    assert known.lookup(SERVER) == relay(b"theirs")


def test_a_line_that_was_removed_meanwhile_is_not_brought_back(known: KnownRelays) -> None:
    upgraded = relay(how=TrustKind.PUBLIC_CA)
    assert known.remember(SERVER, upgraded, replacing=relay()) is None
    assert known.lookup(SERVER) is None


def test_an_entry_is_replaced_by_who_has_read_it(known: KnownRelays) -> None:
    known.remember(SERVER, relay(), replacing=None)
    upgraded = relay(how=TrustKind.PUBLIC_CA)
    assert known.remember(SERVER, upgraded, replacing=relay()) == upgraded
    assert known.lookup(SERVER) == upgraded


REMEMBER_MANY = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from trunnel.identity.knownrelays import KnownRelay, KnownRelays, TrustKind
from trunnel.names import KeyId, ServerAddress
known = KnownRelays(Path(sys.argv[1]))
entry = KnownRelay(relay_id=KeyId.of_spki(b"key"), how=TrustKind.FIRST_USE, since=datetime(2026, 1, 1, tzinfo=UTC))
for port in range(1, int(sys.argv[3]) + 1):
    known.remember(ServerAddress(sys.argv[2], port), entry, replacing=None)
"""


def test_processes_that_write_at_once_lose_nothing(known: KnownRelays) -> None:
    count = 15
    with running(REMEMBER_MANY, known.path, "a", count), running(REMEMBER_MANY, known.path, "b", count):
        pass
    assert len(known.path.read_text().splitlines()) == 2 * count
