"""What tests of certificates share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acme.kept import Authority, Kept
from trunnel.acme import keeper as module


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A keeper that begins with nothing."""
    authority = Authority()
    monkeypatch.setattr(module, "open_client", authority.open)
    return Kept(authority, tmp_path)
