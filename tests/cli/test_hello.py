"""`trunnel hello`: its lines, its JSON, its exit status, and that nothing hostile reaches the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.wire.hello_builder import Hello
from trunnel.cli.hello import run_hello

PLAIN = Hello()


def hello(*files: str | Path, as_json: bool = False, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run the command; return exit status, standard output and standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    names = [str(file) for file in files]
    status = run_hello(names, json=as_json, stdin=io.BytesIO(stdin), stdout=stdout, stderr=stderr)
    return status, stdout.getvalue(), stderr.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file for each kind of verdict."""
    streams = {
        "route": PLAIN.stream(),
        "no-sni": PLAIN.with_name(None).stream(),
        "bad-name": PLAIN.with_name(b"\x1b[2Jevil\r\n").stream(),
        "reject-malformed": PLAIN.with_name(b"").stream(),
        "reject-too-large": b"\x16\x03\x01\xff\xff",
        "not-tls": b"GET / HTTP/1.1\r\n",
        "need-more": PLAIN.stream()[:-1],
    }
    for name, stream in streams.items():
        (tmp_path / name).write_bytes(stream)
    return tmp_path


def test_one_line_a_file_in_order(folder: Path) -> None:
    files = sorted(folder.iterdir(), reverse=True)
    status, lines, errors = hello(*files)
    expected = [f"{file}\t{'route:a.example' if file.name == 'route' else file.name}" for file in files]
    assert (status, lines.splitlines(), errors) == (0, expected, "")


def test_json_has_every_field(folder: Path) -> None:
    status, line, _ = hello(folder / "route", as_json=True)
    assert status == 0
    assert json.loads(line) == {
        "file": str(folder / "route"),
        "verdict": "route:a.example",
        "name": "a.example",
        "alpn": ["h2", "http/1.1"],
        "versions": ["1.3", "1.2"],
        "hello_bytes": len(PLAIN.message()),
        "records": 1,
        "raw_bytes": len(PLAIN.stream()),
        "reason": "the ClientHello names a server",
    }


def test_json_of_a_refusal_has_the_same_fields(folder: Path) -> None:
    routed, refused = hello(folder / "route", folder / "not-tls", as_json=True)[1].splitlines()
    found = json.loads(refused)
    assert found.keys() == json.loads(routed).keys()
    assert (found["verdict"], found["name"], found["alpn"], found["versions"]) == ("not-tls", None, [], [])
    assert found["reason"] == "record type 71 instead of 22 (handshake)"


def test_a_hostile_name_is_escaped(folder: Path) -> None:
    """Neither form of output carries a control character of a stranger's."""
    _, line, _ = hello(folder / "bad-name")
    _, line_json, _ = hello(folder / "bad-name", as_json=True)
    assert line == f"{folder / 'bad-name'}\tbad-name\n"
    assert json.loads(line_json)["name"] == r"\x1b[2Jevil\r\n"


def test_hostile_protocols_are_escaped(tmp_path: Path) -> None:
    from tests.wire.hello_builder import alpn

    (tmp_path / "file").write_bytes(PLAIN.replacing(*alpn(b"\x00\xff", b"h2")).stream())
    assert json.loads(hello(tmp_path / "file", as_json=True)[1])["alpn"] == [r"\x00\xff", "h2"]


def test_a_hostile_file_name_stays_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb"
    path.write_bytes(PLAIN.stream())
    _, line, _ = hello(path)
    assert line.splitlines() == [f"{tmp_path}/a\\nb\troute:a.example"]
    assert json.loads(hello(path, as_json=True)[1])["file"] == str(path)


def test_dash_is_standard_input() -> None:
    assert hello("-", stdin=PLAIN.stream()) == (0, "-\troute:a.example\n", "")


def test_an_unreadable_file_is_named_and_the_others_are_judged(folder: Path) -> None:
    status, lines, errors = hello(folder / "absent", folder / "route", folder)
    assert (status, lines) == (1, f"{folder / 'route'}\troute:a.example\n")
    assert [line.startswith("trunnel hello: ") for line in errors.splitlines()] == [True, True]
    assert "absent" in errors


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """No more is read than the largest hello has."""
    endless = io.BytesIO(b"\x16\x03\x01\x00\x00" * 100_000)
    run_hello(["-"], json=False, stdin=endless, stdout=io.StringIO(), stderr=io.StringIO())
    assert endless.tell() < 20_000


def test_versions_are_written_as_people_know_them(tmp_path: Path) -> None:
    from tests.wire.hello_builder import versions

    path = tmp_path / "file"
    path.write_bytes(PLAIN.replacing(*versions(0x0304, 0x0303, 0x0302, 0x0301, 0x0300, 0x7F1C)).stream())
    assert json.loads(hello(path, as_json=True)[1])["versions"] == ["1.3", "1.2", "1.1", "1.0", "ssl3", "0x7f1c"]
