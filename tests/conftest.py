"""What holds for every test.

- Nothing connects beyond loopback, and no name beyond it resolves: an audit
  hook sees every `connect` and look-up of this process, whoever makes it.
- Under `TRUNNEL_NO_SKIP=1` a skip is a failure, but for tests marked `corpus`
  (a folder that is not part of the project) or `may_skip(reason)` (platform).
- Hypothesis tries 50 examples a test, or what `TRUNNEL_HYPOTHESIS` names.
- A test marked `e2e` or `slow` has two minutes, any other 20 seconds.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Generator

import hypothesis
import pytest

from tests.peers import NO_SKIP

LONG_TEST_TIMEOUT = 120
"""Seconds for a test of real processes."""

hypothesis.settings.register_profile("fast", max_examples=50, deadline=None, print_blob=True)
hypothesis.settings.register_profile("deep", max_examples=100_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("TRUNNEL_HYPOTHESIS", "fast"))


# --- no network ------------------------------------------------------------------------------


def _text_of(host: object) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)


def is_loopback(host: object) -> bool:
    """Whether *host* (None: this machine) is an address or name that stays on this machine."""
    if host is None:
        return True
    name = _text_of(host)
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name in ("", "localhost") or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(_text_of(host))
    except ValueError:
        return False
    return True


def _stay_on_loopback(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise AssertionError(f"a test must not reach {address[0]}: only loopback is there")
    elif event == "socket.getaddrinfo" and not is_loopback(arguments[0]) and not _is_address(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, f"no name beyond loopback resolves in tests ({arguments[0]!r})")


sys.addaudithook(_stay_on_loopback)


# --- markers ---------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests their time limit."""
    for item in items:
        is_long = item.get_closest_marker("e2e") or item.get_closest_marker("slow")
        if is_long and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_TEST_TIMEOUT))


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.longrepr = f"skipped, and TRUNNEL_NO_SKIP is set: {report.longrepr}"
    report.outcome = "failed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every peer should be there."""
    report = yield
    allowed = item.get_closest_marker("corpus") or item.get_closest_marker("may_skip")
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail") and not allowed:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As above, for a module that skips as a whole."""
    report = yield
    if NO_SKIP and report.skipped:
        _fail(report)
    return report
