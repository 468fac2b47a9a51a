"""What the README shows works: its program runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import trio

import trunnel
from tests.rules.sources import ROOT
from tests.tunnels import PATIENCE, house, read_to_end


async def test_the_program_in_the_readme_serves_a_visitor(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    async with house(tmp_path) as home, trunnel.open_tunnel(names["hello"], settings=home.agent_settings()) as tunnel:
        visitor = await home.visit(f"{tunnel.agent_id}.localhost")
        with trio.fail_after(PATIENCE):
            await visitor.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert (await read_to_end(visitor)).endswith(b"hello\n")
    assert callable(names["main"])
