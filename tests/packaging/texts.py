"""The packaging's files as tests read them: entry points, Dockerfile, units."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, final

from tests.rules.sources import ROOT

PACKAGING: Final = ROOT / "packaging"
DOCKER: Final = PACKAGING / "docker"
SYSTEMD: Final = PACKAGING / "systemd"

RELAY_NAMES: Final = (
    *("BIND_ADDR", "API_PORT", "PUB_PORT", "ALPN_PORT", "DOMAIN_SUFFIX", "TLS_CERT", "TLS_KEY"),
    *("ACME_DOMAIN", "ACME_EMAIL", "ACME_CREDS_PATH", "ACME_STAGING", "ACME_RENEW_DAYS"),
)
"""The documented variables of the relay's image."""
AGENT_NAMES: Final = (
    *("SERVER", "LOCAL", "DOMAIN_SUFFIX", "PRIMARY_KEY", "FORCE_H2", "POOL_SIZE"),
    *("ACME_EMAIL", "ACME_CREDS_PATH", "ACME_STAGING", "CERT_PEM", "PRIMARY_CERT_EXTENSION_HEX"),
    *("SECONDARY_KEY", "SECONDARY_CERT_EXTENSION_HEX"),
)
"""The documented variables of the agent's image."""


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a Dockerfile."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    """Word and arguments, in order."""

    def of(self, word: str) -> list[str]:
        """Return the arguments of each instruction *word*."""
        return [arguments for each, arguments in self.instructions if each == word]


def stages(text: str) -> dict[str, Stage]:
    """Parse a Dockerfile; its stages by name."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, arguments = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = arguments.partition(" AS ")
            current = found[name] = Stage(base)
        elif word and current is not None:
            current.instructions.append((word, " ".join(arguments.split())))
    return found


def lineage(found: dict[str, Stage], name: str) -> list[Stage]:
    """Return the stage *name* and those it is built on, last first."""
    stage = found[name]
    return [stage, *(lineage(found, stage.base) if stage.base in found else [])]


def directives(text: str) -> dict[str, list[str]]:
    """Return the values of each directive of a unit."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Z]\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found
