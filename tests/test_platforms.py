"""The whole path with every capability that one platform lacks switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tunnels import greet, house
from trunnel import capabilities

FLAGS = ["MSG_PEEK", "RCVLOWAT", "TCP_INFO", "NOTSENT_LOWAT", "OUTQ", "KEEPALIVE_TIMES", "RLIMIT"]
FLAGS += ["NOFOLLOW", "FOLDER_FSYNC", "HARD_LINKS"]


@pytest.mark.parametrize("missing", [*([flag] for flag in FLAGS), FLAGS], ids=lambda flags: "+".join(flags)[:20])
async def test_a_visitor_is_served_without(missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in missing:
        monkeypatch.setattr(capabilities, f"HAS_{flag}", False)
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()
