"""`trunnel invite`: where agents reach the relay, whose key they pin, and what is printed where."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trunnel.cli.health import LISTENING_FILE, Places
from trunnel.cli.main import main
from trunnel.clock import utc_now
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId
from trunnel.settings.invitation import JoinString

SOMEBODY = KeyId.of_spki(b"somebody").value


@pytest.fixture
def relay(bare_environment: Path) -> Path:
    """The relay's state folder."""
    return bare_environment / "state" / "trunnel" / "relay"


def configure(folder: Path, text: str) -> None:
    """Write the relay's configuration file."""
    path = folder / "config" / "trunnel" / "relay.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def listen(relay: Path, *agents: str, relay_id: str = "") -> None:
    """Leave what a running relay leaves."""
    relay.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = relay / LISTENING_FILE
    path.write_bytes(msgspec.json.encode(Places(agents=agents, visitors=agents, relay_id=relay_id)))
    path.chmod(0o600)


def made(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """Return what `invite --json` printed."""
    capsys.readouterr()
    assert main(["invite", "--json", *flags]) == 0, capsys.readouterr().err
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_standard_output_is_the_string_and_nothing_else(relay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invite", "--name", "shop,www", "--label", "Ada"]) == 0
    out, err = capsys.readouterr()
    join = JoinString.parse(out)
    assert out == f"{join.to_text()}\n"
    assert [name.value for name in join.names] == ["shop", "www"]
    assert join.relay == IdentityKey.load(relay / "relay.key").key_id
    assert timedelta(hours=23) < join.expires - utc_now() <= timedelta(days=1)
    assert join.secret not in err
    assert "as shop, www" in err
    assert "--join STRING" in err
    assert join.secret not in (relay / "invitations").read_text()


def test_the_pin_is_of_the_key_that_the_relay_shows(relay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been told of a certificate on its command line, which `invite` does not see."""
    listen(relay, "127.0.0.1:4433", relay_id=SOMEBODY)
    assert made(capsys)["relay_id"] == SOMEBODY
    assert not (relay / "relay.key").exists(), "nobody asked for another one"


def test_an_address_of_this_machine_alone_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, pointed_out in (([], True), (["--address", "t.example.com"], False)):
        assert main(["invite", *flags]) == 0
        assert ("only this machine" in capsys.readouterr().err) == pointed_out


def test_programs_are_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    printed = made(capsys, "--name", "shop", "--expires", "2h", "--label", "Ada")
    join = JoinString.parse(printed["join"])
    assert printed["server"] == str(join.server)
    assert printed["relay_id"] == join.relay.value
    assert (printed["names"], printed["label"]) == (["shop"], "Ada")
    ends = datetime.fromisoformat(printed["expires"])
    assert ends == join.expires
    assert timedelta(hours=1) < ends - datetime.now(UTC) <= timedelta(hours=2)
    assert len(printed["invitation"]) == 8


@pytest.mark.parametrize(
    ("config", "listening", "flags", "server"),
    [
        ("", [], [], "127.0.0.1:4433"),
        ("api_port = 7000", [], [], "127.0.0.1:7000"),
        ("", ["127.0.0.1:5555", "[::1]:5555"], [], "127.0.0.1:5555"),
        ("api_port = 0", ["[::1]:5555"], [], "[::1]:5555"),
        ('domain = "t.example.com"', [], [], "t.example.com:443"),
        ('domain = "t.example.com"\napi_port = 4433', [], [], "t.example.com:4433"),
        ('domain = "t.example.com"\nport = 8443\npublic_port = 443', ["0.0.0.0:8443"], [], "t.example.com:443"),
        ('domain_suffix = "t.example.com"', ["127.0.0.1:4433"], [], "127.0.0.1:4433"),
        ('bind_addr = "192.0.2.7"', [], [], "192.0.2.7:4433"),
        ('acme_domain = "relay.example.net"\ndomain = "t.example.com"', [], [], "relay.example.net:443"),
        ("", [], ["--address", "t.example.com"], "t.example.com:443"),
        ("", [], ["--address", "localhost"], "localhost:4433"),
        ("", ["192.0.2.7:4433"], ["--address", "t.example.com"], "t.example.com:4433"),
        ("api_port = 7000", [], ["--address", "t.example.com"], "t.example.com:7000"),
        ("", [], ["--address", "t.example.com:443"], "t.example.com:443"),
        ("", [], ["--address", "[2001:db8::1]"], "[2001:db8::1]:443"),
        ("api_port = 0", [], ["--address", "t.example.com"], "t.example.com:443"),
    ],
)
def test_where_agents_reach_the_relay(
    config: str,
    listening: list[str],
    flags: list[str],
    server: str,
    relay: Path,
    bare_environment: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(bare_environment, config)
    if listening:
        listen(relay, *listening)
    assert made(capsys, *flags)["server"] == server


@pytest.mark.parametrize(("config", "listening"), [("api_port = 0", []), ("", ["0.0.0.0:443", "[::]:443"])])
def test_where_nothing_says_it_the_person_is_asked(
    config: str, listening: list[str], relay: Path, bare_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A string that leads nowhere would be found out by somebody else, on another machine."""
    configure(bare_environment, config)
    if listening:
        listen(relay, *listening)
    assert main(["invite"]) == 2
    assert "--address HOST[:PORT]" in capsys.readouterr().err
    assert not (relay / "invitations").exists()


def test_a_public_relay_gets_its_list_of_agents_with_the_first_invitation(
    relay: Path, bare_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a list it would not start; that it will be public may be said later, on the command line."""
    for config in ('domain = "t.example.com"', ""):
        configure(bare_environment, config)
        made(capsys)
        assert (relay / "authorized").read_text() == ""
    configure(bare_environment, 'domain = "t.example.com"\nopen = true')
    (relay / "authorized").unlink()
    made(capsys)
    assert not (relay / "authorized").exists(), "who lets everybody in needs none"


def test_what_cannot_work_is_told_when_it_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["authorize", SOMEBODY, "--name", "taken"]) == 0
    made(capsys, "--name", "shop")
    for words, sentence in (
        (["--name", "taken"], "taken belongs to an agent"),
        (["--name", "shop"], "trunnel revoke"),
        (["--name", "a.b"], "more than one label"),
        (["--name", SOMEBODY], "looks like an agent's id"),
        (["--label", "two\nlines"], "do not print"),
        (["--expires", "31d"], "at most 30d"),
        (["--expires", "never"], "not a duration"),
        (["--address", "two words"], "not a host name"),
    ):
        assert main(["invite", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_invitations_are_listed_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    printed = made(capsys, "--name", "shop", "--label", "Ada")
    assert main(["agents"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"invitation {printed['invitation']} shop, until 2")
    assert line.endswith("UTC  # Ada\n")
    assert main(["agents", "--json"]) == 0
    (listed,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert listed == {name: printed[name] for name in ("invitation", "names", "label", "expires")}
    assert main(["revoke", printed["invitation"]]) == 0
    assert main(["revoke", printed["invitation"]]) == 1
    assert "waits to be used" in capsys.readouterr().err
    assert main(["agents", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_taking_back_where_there_is_none_makes_no_file(relay: Path) -> None:
    assert main(["revoke", "0123abcd"]) == 1
    assert not relay.exists()
