"""What is remembered of transports: per relay and network, for a day, bounded, and never a reason to fail."""

from __future__ import annotations

import logging
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from trunnel import capabilities
from trunnel.agent.choices import DIRECT, Choices, Outcome, content_of, outcomes_in
from trunnel.errors import ConfigError
from trunnel.identity.locking import exclusive
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.transports.selection import TransportKind, Trial

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DAY = timedelta(seconds=limits.CHOICE_LIFETIME)
RELAY, OTHER = ServerAddress("t.example.com", 443), ServerAddress("::1", 4433)
QUIC, H2 = TransportKind.QUIC, TransportKind.H2


@pytest.fixture
def choices(tmp_path: Path) -> Choices:
    return Choices(tmp_path / "state" / "transports")


def test_nothing_is_known_at_first(choices: Choices) -> None:
    assert choices.get(RELAY, "home", NOW) == {}
    assert not choices.path.exists()


def test_each_relay_network_and_transport_has_its_own_memory(choices: Choices) -> None:
    choices.note(RELAY, "home", QUIC, worked=True, now=NOW)
    choices.note(RELAY, "cafe", QUIC, worked=False, now=NOW)
    choices.note(RELAY, "cafe", H2, worked=True, now=NOW)
    assert choices.get(RELAY, "home", NOW) == {QUIC: Trial(worked=True, at=NOW)}
    assert choices.get(RELAY, "cafe", NOW) == {
        QUIC: Trial(worked=False, at=NOW, failures=1),
        H2: Trial(worked=True, at=NOW),
    }
    assert choices.get(OTHER, "home", NOW) == choices.get(RELAY, "train", NOW) == {}


def test_data_connections_are_no_transport(choices: Choices) -> None:
    """They share the file, and nothing else."""
    choices.note(RELAY, "home", DIRECT, worked=False, now=NOW, reason="x" * 10_000)
    choices.note(RELAY, "home", QUIC, worked=True, now=NOW)
    assert choices.get(RELAY, "home", NOW) == {QUIC: Trial(worked=True, at=NOW)}
    found = choices.direct(RELAY, "home", NOW)
    assert found is not None
    assert (found.worked, found.reason) == (False, "x" * limits.CONTROL_TEXT_MAX)
    assert choices.direct(RELAY, "cafe", NOW) is choices.direct(OTHER, "home", NOW) is None


def test_failures_in_a_row_are_counted_until_it_works(choices: Choices) -> None:
    counts: list[int] = []
    for worked in (False, False, False, True, False):
        choices.note(RELAY, "home", QUIC, worked=worked, now=NOW)
        counts.append(choices.get(RELAY, "home", NOW)[QUIC].failures)
    assert counts == [1, 2, 3, 0, 1]


@pytest.mark.parametrize("away", [DAY, -DAY])
def test_a_day_later_or_earlier_it_is_forgotten(choices: Choices, away: timedelta) -> None:
    """Earlier: a clock that was ahead must not make a memory for ever."""
    choices.note(RELAY, "home", QUIC, worked=False, now=NOW)
    assert choices.get(RELAY, "home", NOW + 0.999 * away)[QUIC].failures == 1
    assert choices.get(RELAY, "home", NOW + away) == {}
    choices.note(OTHER, "home", QUIC, worked=False, now=NOW + away)
    assert [outcome.server for outcome in outcomes_in(choices.path.read_bytes())] == [str(OTHER)]


def test_the_oldest_goes_first_when_it_is_full(choices: Choices) -> None:
    for number in range(limits.CHOICES_MAX):
        choices.note(RELAY, f"network {number}", QUIC, worked=True, now=NOW + timedelta(seconds=number))
    choices.note(RELAY, "network 0", QUIC, worked=True, now=NOW + timedelta(hours=1))
    choices.note(RELAY, "one more", QUIC, worked=True, now=NOW + timedelta(hours=1))
    networks = {outcome.network for outcome in outcomes_in(choices.path.read_bytes())}
    assert len(networks) == limits.CHOICES_MAX
    assert {"network 0", "one more"} <= networks
    assert "network 1" not in networks
    assert choices.path.stat().st_size < limits.CHOICES_FILE_MAX / 4


def test_the_file_is_closed_to_others(choices: Choices) -> None:
    choices.note(RELAY, "home", QUIC, worked=True, now=NOW)
    assert stat.S_IMODE(choices.path.stat().st_mode) == 0o600 or not capabilities.HAS_POSIX_MODES


VALID = content_of([Outcome(server=str(RELAY), network="home", transport="quic", worked=True, at=NOW)])

BROKEN = {
    "empty": b"",
    "cut": VALID[:-10],
    "not JSON": b"\xff\x00",
    "another shape": b"[1, 2]",
    "another document": b'{"keys": {}}',
    "an unknown transport": VALID.replace(b'"quic"', b'"carrier pigeon"'),
    "a date without a zone": VALID.replace(b"Z", b""),
    "a negative count": VALID.replace(b'"failures":0', b'"failures":-1'),
    "deep": b'{"x":' + b"[" * 100_000,
    "too large": VALID.rstrip() + b" " * limits.CHOICES_FILE_MAX,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told_and_begun_afresh(
    choices: Choices, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    choices.path.parent.mkdir(mode=0o700)
    choices.path.write_bytes(content)
    choices.path.chmod(0o600)
    assert choices.get(RELAY, "home", NOW) == {}
    assert "choices_forgotten" in caplog.messages
    choices.note(RELAY, "home", QUIC, worked=True, now=NOW)
    assert choices.get(RELAY, "home", NOW) == {QUIC: Trial(worked=True, at=NOW)}


def test_fields_of_a_later_version_are_passed_over() -> None:
    (outcome,) = outcomes_in(VALID.replace(b'"worked"', b'"mood":[1],"worked"'))
    assert outcome.key == (str(RELAY), "home", QUIC)


@pytest.mark.may_skip("where files have no modes")
@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no modes here")
def test_a_file_that_others_can_write_is_not_believed(choices: Choices, caplog: pytest.LogCaptureFixture) -> None:
    choices.note(RELAY, "home", QUIC, worked=False, now=NOW)
    choices.path.chmod(0o666)
    assert choices.get(RELAY, "home", NOW) == {}
    assert "choices_forgotten" in caplog.messages


def test_a_link_in_its_place_is_replaced_and_never_followed(choices: Choices, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(VALID)
    choices.path.parent.mkdir(mode=0o700)
    choices.path.symlink_to(elsewhere)
    assert choices.get(RELAY, "home", NOW) == {}
    choices.note(RELAY, "home", QUIC, worked=False, now=NOW)
    assert elsewhere.read_bytes() == VALID
    assert not choices.path.is_symlink()


def test_a_folder_in_its_place_is_told_and_nothing_fails(choices: Choices, caplog: pytest.LogCaptureFixture) -> None:
    choices.path.mkdir(parents=True, mode=0o700)
    choices.note(RELAY, "home", QUIC, worked=False, now=NOW)
    assert choices.get(RELAY, "home", NOW) == {}
    assert {"choices_forgotten", "choice_not_remembered"} <= set(caplog.messages)


def test_a_lock_that_never_comes_free_is_told_and_nothing_fails(
    choices: Choices, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCK_WAIT", 2 * limits.LOCK_PAUSE)
    with exclusive(choices.path):
        choices.note(RELAY, "home", QUIC, worked=False, now=NOW)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert choices.get(RELAY, "home", NOW) == {}


def test_two_programs_that_write_lose_nothing_of_each_other(choices: Choices) -> None:
    other = Choices(choices.path)
    for number in range(10):
        (choices, other)[number % 2].note(RELAY, f"network {number}", QUIC, worked=True, now=NOW)
    assert len(outcomes_in(choices.path.read_bytes())) == 10


def test_the_file_is_plain_json_that_a_person_can_read(choices: Choices) -> None:
    choices.note(RELAY, "3fb0c1", QUIC, worked=False, now=NOW)
    assert msgspec.json.decode(choices.path.read_bytes()) == {
        "outcomes": [
            {
                "server": "t.example.com:443",
                "network": "3fb0c1",
                "transport": "quic",
                "worked": False,
                "at": "2026-01-31T12:00:00Z",
                "failures": 1,
                "reason": "",
            }
        ]
    }


def test_what_is_broken_is_a_configuration_error_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="not a file of outcomes: "):
        outcomes_in(b"{")
