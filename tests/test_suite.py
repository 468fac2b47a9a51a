"""The rules that `conftest.py` lays on every test are kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.sources import ROOT

DOCUMENTATION_NET = "192.0.2.1"
"""An address that belongs to nobody (RFC 5737)."""

SKIPPING = """
import pytest

def test_plain():
    pytest.skip("no peer")

@pytest.mark.corpus
def test_corpus():
    pytest.skip("no folder")

@pytest.mark.may_skip("not here")
def test_platform():
    pytest.skip("other platform")

def test_present():
    pass
"""


def test_connecting_beyond_loopback_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(AssertionError, match="only loopback"):
        sock.connect((DOCUMENTATION_NET, 9))


def test_datagrams_beyond_loopback_are_refused() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(AssertionError, match="only loopback"):
        sock.sendto(b"", (DOCUMENTATION_NET, 9))


def test_names_beyond_loopback_do_not_resolve() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.com", 443)
    assert socket.getaddrinfo("localhost", 443)


@pytest.mark.parametrize(("no_skip", "closing"), [("0", "1 passed, 3 skipped"), ("1", "1 failed, 1 passed, 2 skipped")])
def test_a_skip_is_a_failure_where_every_peer_should_be(tmp_path: Path, no_skip: str, closing: str) -> None:
    """Tests marked `corpus` or `may_skip` are the exception."""
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    ran = _pytest(tmp_path, no_skip=no_skip)
    assert closing in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize(("no_skip", "closing"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_module_that_skips_as_a_whole_is_a_skip_too(tmp_path: Path, no_skip: str, closing: str) -> None:
    (tmp_path / "test_whole.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    ran = _pytest(tmp_path, no_skip=no_skip)
    assert closing in ran.stdout, ran.stdout + ran.stderr


def _pytest(folder: Path, *, no_skip: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on *folder* under the project's configuration and conftest."""
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={ROOT}", str(folder)],
        cwd=ROOT,
        env={**os.environ, "TRUNNEL_NO_SKIP": no_skip},
        capture_output=True,
        text=True,
        check=False,
    )
