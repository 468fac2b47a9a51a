"""Both entry points with the real programs, as the compose file runs them: settings have effect, and health is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Program, Programs, Site, clean_environment, open_programs
from tests.e2e.visitors import curl
from tests.packaging.texts import DOCKER
from tests.peers import require_program

pytestmark = pytest.mark.e2e


def image_environment(folder: Path, program: str) -> dict[str, str]:
    """Return the variables that an image has of itself, its volume in *folder*."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    return {**clean_environment(folder), "PATH": path, "TRUNNEL_STATE_DIR": str(folder / program)}


async def start(nursery: trio.Nursery, folder: Path, program: str, **variables: str) -> Program:
    """Start an image's entry point under a plain shell."""
    process = await trio.lowlevel.open_process(
        [str(require_program("dash", "sh")), str(DOCKER / f"{program}-entrypoint.sh")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**image_environment(folder, program), "TRUNNEL_JSON": "true", **variables},
        process_group=0,
    )
    started = Program(process, (program,))
    nursery.start_soon(started.watch)
    return started


async def health(folder: Path, program: str) -> tuple[int, str]:
    """Run the health check as the engine does; returns its exit code and what it says."""
    completed = await trio.run_process(
        [sys.executable, "-m", "trunnel", "health", program],
        env=image_environment(folder, program),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return completed.returncode, (completed.stdout + completed.stderr).decode()


async def authorize(programs: Programs) -> None:
    """Do what the compose file's head says: the agent's id, given to the relay with a name."""
    agent_id = (await programs.run("id", "--state-dir", str(programs.folder / "agent"))).strip()
    await programs.run("authorize", agent_id, "--name", "web", "--state-dir", str(programs.folder / "relay"))


async def test_relay_and_agent_serve_a_visitor_and_say_that_they_are_well(tmp_path: Path) -> None:
    async with open_programs(tmp_path) as programs, trio.open_nursery() as nursery:
        await authorize(programs)
        assert (await health(tmp_path, "relay"))[0] == 1
        ports = {"API_PORT": "0", "PUB_PORT": "0"}
        relay = await start(nursery, tmp_path, "relay", BIND_ADDR="127.0.0.1", DOMAIN_SUFFIX="t.example", **ports)
        listening = await relay.event("listening")
        origin = await serve_web(nursery, greet)
        server, local = listening["agents"][0], f"127.0.0.1:{origin}"
        agent = await start(nursery, tmp_path, "agent", SERVER=server, LOCAL=local, FORCE_H2="true", TRUNNEL_NAME="web")
        ready = await agent.event("ready")
        assert (ready["hostname"], ready["transport"]) == ("web.t.example", "h2")
        assert await curl(Site.of(ready)) == "GET / on 1\n"
        assert [(await health(tmp_path, program))[0] for program in ("relay", "agent")] == [0, 0]
        assert [await agent.stop(), await relay.stop()] == [0, 0]
        assert [(await health(tmp_path, program))[0] for program in ("relay", "agent")] == [1, 1]
        nursery.cancel_scope.cancel()


async def test_a_file_has_effect_and_a_variable_wins_over_it(tmp_path: Path) -> None:
    """SEC-01: in the packaged entry point, as anywhere."""
    config = tmp_path / "relay.toml"
    config.write_text('open = true\npub_port = "no port"\ndomain_suffix = ["of.the.file"]\n', "ascii")
    told = {"TRUNNEL_CONFIG": str(config), "BIND_ADDR": "127.0.0.1", "API_PORT": "0"}
    async with trio.open_nursery() as nursery:
        broken = await start(nursery, tmp_path, "relay", **told)
        assert await broken.ended() == 2
        assert "pub_port" in "\n".join(broken.log)
        relay = await start(nursery, tmp_path, "relay", PUB_PORT="0", **told)
        await relay.event("listening")
        agent = await start(nursery, tmp_path, "agent", SERVER=relay.events[-1]["agents"][0], LOCAL="9")
        assert (await agent.event("ready"))["hostname"].endswith(".of.the.file")
        assert [await agent.stop(), await relay.stop()] == [0, 0]
        nursery.cancel_scope.cancel()
