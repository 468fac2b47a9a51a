"""Fixtures of the end-to-end tests; every test in this folder is marked `e2e`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.programs import Programs, open_programs

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    """A place to start `trunnel` processes; they are stopped at the end, and exit with 0."""
    async with open_programs(tmp_path) as started:
        yield started
