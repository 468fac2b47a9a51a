"""Whose a host name is: the proof, in DNS, that an agent may serve a name of its own.

    NAME           CNAME  <id>.<suffix>      perhaps through other names, at most `DNS_CHAIN_MAX` in all
    _trunnel.NAME  TXT    "<id>"             where NAME cannot be a CNAME (the top of a zone); several may stand there

Either is enough.  Both name a key, never an address or a label that could
become somebody else's: a record that was forgotten proves nothing for others.
A chain stops at the first name under one of the relay's suffixes; what the
suffix' zone says of it is the operator's business.

There are three results, and two of them must not be confused: DNS does not
name the agent (`Denied`), and DNS could not be asked (`Denied`, transient).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import trio

from trunnel.errors import ConnectError, InvalidName
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits

TXT_LABEL: Final = "_trunnel"
"""Below it stands who may serve a name."""


@final
@dataclass(frozen=True, slots=True)
class Proven:
    """DNS names the agent."""

    how: str
    """`cname` or `txt`."""


@final
@dataclass(frozen=True, slots=True)
class Denied:
    """The agent may not have the name."""

    reason: str
    """For people, a clause without a full stop."""
    transient: bool = False
    """Whether DNS could not be asked; then nothing is known of the name."""


Proof = Proven | Denied


class Dns(Protocol):
    """What is asked; see `dnsclient.DnsClient`."""

    async def cname(self, name: Hostname) -> Hostname | None:
        """Return where the CNAME record of *name* leads, or None; raises ConnectError if that is unclear."""
        ...

    async def texts(self, name: Hostname) -> tuple[bytes, ...]:
        """Return the TXT records of *name*; raises ConnectError if that is unclear."""
        ...


def is_under(name: Hostname, suffix: Hostname) -> bool:
    """Return whether *name* is *suffix* or ends with it, label by label."""
    return name == suffix or name.value.endswith(f".{suffix}")


def record_to_set(name: Hostname, key_id: KeyId, suffix: Hostname) -> str:
    """Return the two records that would prove *name*, for people."""
    return f'set {name} CNAME {key_id}.{suffix} or {TXT_LABEL}.{name} TXT "{key_id}"'


async def prove(name: Hostname, key_id: KeyId, *, suffixes: Sequence[Hostname], dns: Dns) -> Proof:
    """Ask DNS whether *name* is led to the agent *key_id*; both records are looked up at once.

    Args:
        name: A host name outside of the suffixes.
        key_id: Who wants it.
        suffixes: The relay's.
        dns: Who is asked.

    Returns:
        `Proven` or `Denied`, within `DNS_TIMEOUT`.

    Cancellation: no effect.
    """
    verdicts: list[Proof] = [_UNHEARD] * len(_WAYS)
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limits.DNS_TIMEOUT

        async def look(place: int, way: _Way) -> None:
            try:
                verdict = await way(name, key_id, suffixes, dns)
            except ConnectError as exc:
                verdict = Denied(str(exc), transient=True)
            verdicts[place] = verdict
            if isinstance(verdict, Proven):
                nursery.cancel_scope.cancel()

        for place, way in enumerate(_WAYS):
            nursery.start_soon(look, place, way)
    return _sum_of(verdicts)


def _sum_of(verdicts: Sequence[Proof]) -> Proof:
    """Return what all ways say together: a proof, else what is unclear, else every denial."""
    denials: list[Denied] = []
    for verdict in verdicts:
        if isinstance(verdict, Proven):
            return verdict
        denials.append(verdict)
    unclear = next((denial for denial in denials if denial.transient), None)
    return unclear or Denied(" and ".join(denial.reason for denial in denials))


async def _by_cname(name: Hostname, key_id: KeyId, suffixes: Sequence[Hostname], dns: Dns) -> Proof:
    wanted = {suffix.under(key_id.value) for suffix in suffixes}
    current = name
    for _ in range(limits.DNS_CHAIN_MAX):
        target = await dns.cname(current)
        if target in wanted:
            return Proven("cname")
        if target is None:
            break
        current = target
        if any(is_under(target, suffix) for suffix in suffixes):
            break  # another agent's, or a label that the operator may give to anybody
    else:
        return Denied(f"more than {limits.DNS_CHAIN_MAX} CNAME records follow each other")
    return Denied(f"its CNAME record leads to {current}" if current != name else "it has no CNAME record")


async def _by_text(name: Hostname, key_id: KeyId, suffixes: Sequence[Hostname], dns: Dns) -> Proof:  # noqa: ARG001 - a way
    try:
        place = name.under(TXT_LABEL)
    except InvalidName:
        return Denied("it is too long for a TXT record below it")
    texts = await dns.texts(place)
    if any(text.strip().lower() == key_id.value.encode() for text in texts):
        return Proven("txt")
    return Denied(f"no TXT record at {place} names the agent")


_Way = Callable[[Hostname, KeyId, Sequence[Hostname], Dns], Awaitable[Proof]]
_WAYS: Final = (_by_cname, _by_text)
_UNHEARD: Final = Denied(f"DNS gave no answer within {limits.DNS_TIMEOUT:.0f} s", transient=True)
