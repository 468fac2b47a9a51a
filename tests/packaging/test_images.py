"""What the Dockerfile and the compose file say, read without a container engine."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from tests.packaging.texts import AGENT_NAMES, DOCKER, RELAY_NAMES, directives, lineage, stages
from tests.rules.sources import ROOT
from trunnel.settings import options
from trunnel.settings.domain import EVERY_ADDRESS

DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")
COMPOSE = (DOCKER / "compose.yaml").read_text("utf-8")
STAGES = stages(DOCKERFILE)
PROGRAMS = ("relay", "agent")


def all_of(program: str, word: str) -> list[str]:
    """Return the instructions *word* of an image, the last stage's first."""
    return [arguments for stage in lineage(STAGES, program) for arguments in stage.of(word)]


def test_every_file_that_is_copied_exists_and_is_not_ignored() -> None:
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text("ascii").splitlines() if line[0] == "!"]
    sources = [
        source
        for stage in STAGES.values()
        for arguments in stage.of("COPY")
        if "--from=" not in arguments
        for source in [word for word in arguments.split() if not word.startswith("--")][:-1]
    ]
    assert len(sources) >= 7
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any((ROOT / source) in ROOT.glob(pattern) for pattern in kept), f"{source} is ignored"


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_image_runs_unprivileged_with_state_and_a_health_check(program: str) -> None:
    assert all_of(program, "USER") == ["10001:10001"]
    assert all_of(program, "VOLUME") == ["/var/lib/trunnel"]
    assert all_of(program, "STOPSIGNAL") == ["SIGTERM"]
    assert all_of(program, "ENTRYPOINT") == [f'["{program}-entrypoint.sh"]']
    (check,) = all_of(program, "HEALTHCHECK")
    command = {"relay": '["trunnel", "health", "relay"]', "agent": '["agent-entrypoint.sh", "health"]'}[program]
    assert check.endswith(f"CMD {command}")
    assert "TRUNNEL_STATE_DIR=/var/lib/trunnel" in " ".join(all_of(program, "ENV"))


def test_nothing_is_installed_and_nobody_becomes_root_behind_the_user() -> None:
    for program in PROGRAMS:
        assert not STAGES[program].of("RUN")
        assert not STAGES[program].of("USER")


def test_the_relay_listens_beyond_its_container_and_says_where() -> None:
    assert f"BIND_ADDR={','.join(EVERY_ADDRESS)}" in STAGES["relay"].of("ENV")
    assert {"443/tcp", "443/udp", "4433/tcp", "4433/udp", "8443/tcp"} <= set(STAGES["relay"].of("EXPOSE")[0].split())


def test_no_layer_holds_a_secret() -> None:
    secret = {option.variable for option in (*options.RELAY_OPTIONS, *options.AGENT_OPTIONS) if option.secret}
    for stage in STAGES.values():
        for arguments in (*stage.of("ENV"), *stage.of("ARG")):
            assert not any(name in arguments for name in secret | {"TRUNNEL_OPEN", "KEY", "TOKEN", "PASSWORD"}), (
                arguments
            )


def test_the_compose_file_builds_these_targets_and_checks_each_service() -> None:
    assert re.findall(r"target: (\w+)", COMPOSE) == list(PROGRAMS)
    assert set(re.findall(r"dockerfile: (\S+),", COMPOSE)) == {"packaging/docker/Dockerfile"}
    assert COMPOSE.count("healthcheck:") == COMPOSE.count("image:") == COMPOSE.count("<<: *hardened") == 3
    assert "\t" not in COMPOSE


def test_the_variables_of_the_compose_file_are_documented_ones() -> None:
    known = {*options.VARIABLES, *RELAY_NAMES, *AGENT_NAMES}
    named = re.findall(r"^ {6}(?:# )?([A-Z][A-Z0-9_]+):", COMPOSE, re.MULTILINE)
    assert len(named) >= 9
    assert set(named) <= known
    for option in (*options.RELAY_OPTIONS, *options.AGENT_OPTIONS):
        assert not option.secret or f"{option.variable}:" not in COMPOSE, "a secret is given as a file"


def test_the_compose_file_is_yaml() -> None:
    described: Any = importlib.import_module("yaml").safe_load(COMPOSE)  # which brings no types
    assert set(described["services"]) == {"relay", "agent", "origin"}
    for service in described["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["healthcheck"]["test"][0] == "CMD"
    assert set(described["volumes"]) == {"relay-state", "agent-state"}


def test_the_parser_of_these_tests_reads_a_dockerfile() -> None:
    found = stages("ARG A=1\nFROM x AS one\n# USER root\nRUN a \\\n && b\nFROM one AS two\nUSER  me\n")
    assert (found["one"].of("RUN"), found["two"].base, found["two"].of("USER")) == (["a && b"], "one", ["me"])
    assert len(lineage(found, "two")) == 2
    assert directives("[Unit]\nAfter=a\nAfter=b\n# User=x\n") == {"After": ["a", "b"]}
