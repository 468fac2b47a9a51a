"""What is the relay's own, put together: and only what is used is loaded."""

from __future__ import annotations

import subprocess
import sys

_LOADED = "import sys, trunnel.relay.server; print(*sorted(sys.modules))"


def test_a_relay_without_an_authority_does_not_load_the_acme_client() -> None:
    """Its packages take a third of a second and 28 MB."""
    found = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True).stdout.split()
    assert "trunnel.relay.own" in found
    assert {"httpx", "josepy", "trunnel.acme.client", "trunnel.acme.keeper"}.isdisjoint(found)
