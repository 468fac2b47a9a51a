"""The folders: each source file has its tests, and nothing of one machine is in the project."""

from __future__ import annotations

import ast
import re

import pytest

from tests.rules.sources import ROOT, modules, project_files, refuse

FILE_BYTES_MAX = 512 * 1024
"""Larger files belong elsewhere; a repository remembers them for ever."""

TESTED_IN = {
    "trunnel/__main__.py": ("tests/e2e", "`python -m trunnel` is the command line"),
    "trunnel/settings/limits.py": ("tests", "numbers; each is tested where it is enforced"),
    "trunnel/settings/carrier_limits.py": ("tests", "numbers; each is tested where it is enforced"),
    "trunnel/settings/direct_limits.py": ("tests", "numbers; each is tested where it is enforced"),
    "trunnel/settings/acme_limits.py": ("tests", "numbers; each is tested where it is enforced"),
    "trunnel/settings/option.py": ("tests/settings/test_options.py", "the entries of the table"),
    "trunnel/settings/acme_options.py": ("tests/settings/test_options.py", "a part of the table"),
    "trunnel/wire/control_fields.py": ("tests/wire/test_control.py", "what the messages are made of"),
    "trunnel/pump/result.py": ("tests/pump/test_pumping.py", "values without behaviour"),
    "trunnel/errors.py": ("tests", "classes without behaviour; each is tested where it is raised"),
    "trunnel/version.py": ("tests/rules/test_public_api.py", "one value"),
    "trunnel/settings/output.py": ("tests/settings/test_load.py", "fields only"),
    "trunnel/settings/problems.py": ("tests/settings/test_load.py", "one function, seen through the loader"),
    "trunnel/streams/tls_engines.py": ("tests/streams/test_tls_contract.py", "both engines sit one exam"),
    "trunnel/streams/tls_peer.py": ("tests/streams/test_tls_handshake.py", "what a handshake proves"),
    "trunnel/transports/base.py": ("tests/transports/conformance.py", "an interface; the exam is its test"),
    "trunnel/wire/muxevents.py": ("tests/transports/conformance.py", "values without behaviour"),
    "trunnel/wire/hellofields.py": ("tests/wire/test_clienthello_rows.py", "one parser in three files"),
    "trunnel/wire/tlsvectors.py": ("tests/wire/test_clienthello_rows.py", "one parser in three files"),
}
"""Source file -> (where its tests are instead of the mirrored file, why)."""

MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|work|Users|home/(?!user\b|trunnel\b))\b[/\w]*")
PACKAGE_INDEX = re.compile(
    r"--(?:extra-)?index-url|--trusted-host|PIP_(?:EXTRA_)?INDEX|python(?=hosted)|https?://[\w.:-]*(?:py(?=pi)|/simple\b)"
)


def test_each_source_file_has_its_test_file() -> None:
    files = project_files()
    missing: list[str] = []
    for module in modules("trunnel"):
        folder, _, name = module.path.rpartition("/")
        mirrored = f"tests{folder.removeprefix('trunnel')}/test_{name.removesuffix('.py')}"
        if name == "__init__.py" or module.path in TESTED_IN:
            continue
        if not any(re.fullmatch(rf"{re.escape(mirrored)}(_\w+)?\.py", path) for path in files):
            missing.append(f"{module.path}: no {mirrored}.py")
    refuse(missing)


def test_files_tested_elsewhere_exist_and_so_do_their_tests() -> None:
    for source, (place, reason) in TESTED_IN.items():
        assert (ROOT / source).exists(), source
        assert (ROOT / place).exists(), place
        assert reason


@pytest.mark.parametrize("folder", ["tests", "fuzz", "scripts", "trunnel"])
def test_each_folder_of_modules_is_a_package(folder: str) -> None:
    files = project_files()
    folders = {module.package for module in modules(folder)}
    assert [each for each in sorted(folders) if f"{each}/__init__.py" not in files] == []


def _texts() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content and not path.startswith(("fuzz/corpus/", "tests/data/")):
            found.append((path, content.decode("utf-8")))
    return found


def test_nothing_names_a_folder_of_one_machine_or_a_package_index() -> None:
    refuse(
        [
            f"{path}:{number}: {found.group()}"
            for path, text in _texts()
            if path != "tests/rules/test_layout.py"
            for number, line in enumerate(text.splitlines(), start=1)
            if (found := MACHINE_PATH.search(line) or PACKAGE_INDEX.search(line))
        ]
    )


@pytest.mark.parametrize(
    "text", ["see /" + "work/x", "cd /" + "root", "pip install --" + "index-url X", "https://py" + "pi.example"]
)
def test_the_patterns_find_what_they_should(text: str) -> None:
    assert MACHINE_PATH.search(text) or PACKAGE_INDEX.search(text)


def test_text_files_are_plain() -> None:
    wrong: list[str] = []
    for path, text in _texts():
        if "\r\n" in text and not path.endswith(".bat"):
            wrong.append(f"{path}: CRLF")
        if text and not text.endswith("\n"):
            wrong.append(f"{path}: no newline at the end")
    refuse(wrong)


def test_no_file_is_large() -> None:
    refuse([path for path in project_files() if (ROOT / path).stat().st_size > FILE_BYTES_MAX])


# --- tests that depend on the machine or on luck ---------------------------------------------

SLEEPS_ALLOWED = {"tests/streams/bench.py": "a measurement, not a test"}
"""Test file -> why it sleeps on the real clock."""
CLOCKS = frozenset({"autojump_clock", "mock_clock", "MockClock"})
"""Names that show that a test's time is virtual."""


def test_tests_do_not_sleep_on_the_real_clock() -> None:
    found: list[str] = []
    for module in modules("tests"):
        if module.path in SLEEPS_ALLOWED or any(clock in module.text for clock in CLOCKS):
            continue
        for node in ast.walk(module.tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="time" | "trio"), attr="sleep")):
                    found.append(f"{module.path}:{node.lineno}: wait for an event, or take autojump_clock")
    refuse(found)


def test_tests_listen_on_port_0() -> None:
    found: list[str] = []
    for module in modules("tests"):
        for node in ast.walk(module.tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="bind"), args=[ast.Tuple(elts=[_, ast.Constant(value=port), *_])]
                ):
                    fixed = port
                case ast.Call(
                    func=ast.Attribute(attr="open_tcp_listeners" | "serve_tcp"), args=[ast.Constant(value=port), *_]
                ):
                    fixed = port
                case _:
                    continue
            if fixed != 0:
                found.append(f"{module.path}:{node.lineno}: port {fixed!r}")
    refuse(found)
