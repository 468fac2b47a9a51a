"""Names of the agents' own: which may be asked for, and how each one of a session stands.  Pure.

A name stands in one of two ways: *held* (it is routed to the session) or not,
with a reason for people.  DNS decides, `claims` asks it; here is what follows:

    proven                    held; asked again after a day
    denied                    lost at once; asked again after 15 s, 30 s, … up to an hour
    DNS could not be asked    held names stay, for 72 h, asked hourly; others are asked again after 2 s, 4 s, …

Some names are refused whatever DNS says: those under the relay's suffixes are
given by the operator, the relay's own belong to nobody else, and one with an
agent's id in it is there to deceive.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import Protocol, final

from trunnel.errors import InvalidName
from trunnel.names import Hostname, KeyId
from trunnel.relay.dnsproof import Proof, Proven, is_under
from trunnel.settings import limits


class Chance(Protocol):
    """The part of `random.Random` that is needed."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between both."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NameRules:
    """What can be said of a name without asking DNS."""

    suffixes: Collection[Hostname]
    """The relay's."""
    reserved: Container[Hostname] = ()
    """The relay's own names."""
    allowed: bool = True
    """Whether agents may have names of their own at all."""

    def is_given(self, name: Hostname) -> bool:
        """Return whether *name* is under a suffix: the operator's to give, and not proved by DNS."""
        return any(is_under(name, suffix) for suffix in self.suffixes)

    def refusal(self, name: Hostname) -> str | None:
        """Return why no agent may have *name* as one of its own, for people; None if DNS is to decide."""
        if not self.allowed:
            return "this relay takes no names of the agents' own"
        if self.is_given(name):
            return "names under the relay's own suffix are given by its operator: trunnel authorize ID --name NAME"
        if name in self.reserved:
            return "it is the relay's own name"
        if any(map(_is_id, name.value.split("."))):
            return "a part of it looks like an agent's id"
        return None


@final
class Standing:
    """One host name that a session asks for.

    Args:
        name: It.
        due: When DNS is to be asked, `trio.current_time()`.
    """

    __slots__ = ("_doubted_since", "_refusals", "due", "held", "name", "reason")

    def __init__(self, name: Hostname, *, due: float) -> None:
        self.name = name
        self.held = False
        """Whether it is routed to the session."""
        self.reason = ""
        """Why it is not; empty until that is known."""
        self.due = due
        self._doubted_since: float | None = None
        self._refusals = 0

    @property
    def settled(self) -> bool:
        """Whether it was refused whatever DNS says."""
        return self.due == math.inf

    def refuse(self, reason: str) -> None:
        """Refuse it whatever DNS says, as long as the session lasts."""
        self.held, self.reason, self.due = False, reason, math.inf

    def take(self, proof: Proof, *, now: float, rng: Chance) -> None:
        """Let *proof* count: sets everything."""
        if isinstance(proof, Proven):
            self.held, self.reason = True, ""
            self._doubted_since, self._refusals = None, 0
            self.due = now + _about(limits.CLAIM_RECHECK, rng)
            return
        if self.held and proof.transient:
            since = self._doubted_since = now if self._doubted_since is None else self._doubted_since
            if now - since < limits.CLAIM_DOUBT_MAX:
                self.due = now + _about(limits.CLAIM_DOUBT_RECHECK, rng)
                return
        self.held, self.reason = False, proof.reason
        self._doubted_since = None
        base = limits.CLAIM_DOUBT_BASE if proof.transient else limits.CLAIM_RETRY_BASE
        pause = min(base * 2.0**self._refusals, limits.CLAIM_RETRY_CAP)
        self._refusals = min(self._refusals + 1, limits.CLAIM_REFUSALS_COUNTED)
        self.due = now + _about(pause, rng)


def standings(
    asked: Iterable[str], rules: NameRules, *, inherited: Container[Hostname], now: float
) -> dict[Hostname, Standing]:
    """Return how the names that an agent asks for stand at first, each once.

    Args:
        asked: Host names in their canonical form.
        rules: The relay's.
        inherited: Names that another session of the same key holds: what was proved for it is proved for this one.
        now: `trio.current_time()`.
    """
    found: dict[Hostname, Standing] = {}
    for text in asked:
        name = Hostname.parse(text)
        found[name] = standing = Standing(name, due=now)
        refusal = rules.refusal(name)
        if refusal is not None:
            standing.refuse(refusal)
        elif name in inherited:
            standing.held = True  # and due: the new session looks for itself
    return found


def _about(seconds: float, rng: Chance) -> float:
    return seconds * rng.uniform(1 - limits.CLAIM_JITTER, 1 + limits.CLAIM_JITTER)


def _is_id(label: str) -> bool:
    try:
        KeyId.parse(label)
    except InvalidName:
        return False
    return True
