"""Who may come in: counts and caps, decided in one synchronous step.

Every question is answered by `Admit(ticket)` or `Refuse(reason)`.  A ticket
is a place in the counts; it is given back exactly once, by `release` or by
leaving its `with` block, however often either happens.  There is no other way
to change a count, so counts are exact as long as tickets are released.

The key of an IPv4 peer is its address.  One IPv6 subscriber has at least a
/64, often a /48, and so any number of addresses: peers are counted by /64
against the cap of one address and by /48 against `SITE_FACTOR` times that.
An IPv4 address mapped into IPv6 is the IPv4 address.

What a cap protects is said beside its number in `settings/limits.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from types import TracebackType
from typing import Final, final

from trunnel.names import Hostname
from trunnel.settings import limits

_BITS_BELOW_64: Final = 64
_BITS_BELOW_48: Final = 80


@final
class RefuseReason(StrEnum):
    """Which cap is reached; the word in events and logs."""

    HALF_OPEN_ADDRESS = "half-open-per-address"
    HALF_OPEN_TOTAL = "half-open-total"
    VISITORS_ADDRESS = "visitors-per-address"
    VISITORS_TOTAL = "visitors-total"
    CHALLENGES_NAME = "challenges-per-name"
    CHALLENGES_ADDRESS = "challenges-per-address"
    HANDSHAKES_TOTAL = "handshakes-total"
    HANDSHAKES_ADDRESS = "handshakes-per-address"
    DATA_ADDRESS = "data-connections-per-address"
    OWN_ADDRESS = "own-visitors-per-address"
    OWN_TOTAL = "own-visitors-total"
    DESCRIPTORS = "descriptors"


@final
class Room(StrEnum):
    """How many descriptors are left."""

    AMPLE = "ample"
    """Anybody may come."""
    SCARCE = "scarce"
    """What is left is for agents: a connection may say what it is, a visitor is refused."""
    NONE = "none"
    """The rest is for files, logs and what is connected already."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """The caps; see `settings.limits` for units and reasons."""

    half_open_per_address: int = limits.HALF_OPEN_PER_ADDRESS
    half_open_total: int = limits.HALF_OPEN_TOTAL
    visitors_per_address: int = limits.VISITORS_PER_ADDRESS
    visitors_total: int = limits.VISITORS_TOTAL
    challenges_per_name: int = limits.CHALLENGES_PER_NAME
    challenges_per_address: int = limits.CHALLENGES_PER_ADDRESS
    handshakes_per_address: int = limits.HANDSHAKES_PER_ADDRESS
    handshakes_total: int = limits.HANDSHAKES_TOTAL
    direct_half_open_per_address: int = limits.DIRECT_HALF_OPEN_PER_ADDRESS
    own_visitors_per_address: int = limits.OWN_VISITORS_PER_ADDRESS
    own_visitors_total: int = limits.OWN_VISITORS_MAX


@final
class Tally:
    """How many tickets are out: in all, and for each key."""

    __slots__ = ("_each", "total")

    def __init__(self) -> None:
        self.total = 0
        self._each: Counter[Hashable] = Counter()

    def __getitem__(self, key: Hashable) -> int:
        return self._each[key]  # a Counter does not store what it is asked for

    @property
    def keys(self) -> int:
        """Keys with at least one ticket: what the tally costs in memory."""
        return len(self._each)

    def enter(self, keys: Iterable[Hashable]) -> None:
        """Count one more."""
        self.total += 1
        self._each.update(keys)

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Count one less; a key without tickets is forgotten."""
        self.total -= 1
        for key in keys:
            self._each[key] -= 1
            if not self._each[key]:
                del self._each[key]


@final
class Ticket:
    """One place in a tally; given back at the first `release`, later ones do nothing."""

    __slots__ = ("_keys", "_tally")

    def __init__(self, tally: Tally, keys: tuple[Hashable, ...]) -> None:
        """Take the place; for `Admission` alone."""
        tally.enter(keys)
        self._tally: Tally | None = tally
        self._keys = keys

    @property
    def released(self) -> bool:
        """Whether the place was given back."""
        return self._tally is None

    def release(self) -> None:
        """Give the place back.  Idempotent."""
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.leave(self._keys)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@final
@dataclass(frozen=True, slots=True)
class Admit:
    """Come in; release `ticket` when done."""

    ticket: Ticket


@final
@dataclass(frozen=True, slots=True)
class Refuse:
    """Stay out; nothing was counted."""

    reason: RefuseReason


Decision = Admit | Refuse


@final
class Admission:
    """The relay's counts; one object for all its ports."""

    def __init__(self, caps: AdmissionLimits | None = None) -> None:
        self.caps = AdmissionLimits() if caps is None else caps
        self.half_open = Tally()
        """Connections without a complete hello, and agents in a handshake."""
        self.visitors = Tally()
        """Routed visitors."""
        self.challenges = Tally()
        """Challenges, by name, and by name and address."""
        self.handshakes = Tally()
        """Agents' TLS handshakes."""
        self.unproven = Tally()
        """Data connections that have not proven their session."""
        self.own_visitors = Tally()
        """Visitors of the relay's own names."""

    def admit_connection(self, host: str) -> Decision:
        """Decide on a connection that was just accepted from *host*, an IP address."""
        caps = self.caps
        keys = peer_keys(host)
        if self.half_open.total >= caps.half_open_total:
            return Refuse(RefuseReason.HALF_OPEN_TOTAL)
        if _is_full(self.half_open, keys, caps.half_open_per_address):
            return Refuse(RefuseReason.HALF_OPEN_ADDRESS)
        return Admit(Ticket(self.half_open, keys))

    def admit_visitor(self, host: str) -> Decision:
        """Decide on a visitor from *host* whose name has a route."""
        caps = self.caps
        keys = peer_keys(host)
        if self.visitors.total >= caps.visitors_total:
            return Refuse(RefuseReason.VISITORS_TOTAL)
        if _is_full(self.visitors, keys, caps.visitors_per_address):
            return Refuse(RefuseReason.VISITORS_ADDRESS)
        return Admit(Ticket(self.visitors, keys))

    def admit_challenge(self, name: Hostname, host: str) -> Decision:
        """Decide on one more `acme-tls/1` connection for *name* from *host*; it is a visitor besides."""
        keys = tuple((name, key) for key in peer_keys(host))
        if self.challenges[name] >= self.caps.challenges_per_name:
            return Refuse(RefuseReason.CHALLENGES_NAME)
        if any(self.challenges[key] >= self.caps.challenges_per_address for key in keys):
            return Refuse(RefuseReason.CHALLENGES_ADDRESS)
        return Admit(Ticket(self.challenges, (name, *keys)))

    def admit_own_visitor(self, host: str) -> Decision:
        """Decide on one more visitor from *host* of a name of the relay's own; it is a visitor besides."""
        keys = peer_keys(host)
        if self.own_visitors.total >= self.caps.own_visitors_total:
            return Refuse(RefuseReason.OWN_TOTAL)
        if _is_full(self.own_visitors, keys, self.caps.own_visitors_per_address):
            return Refuse(RefuseReason.OWN_ADDRESS)
        return Admit(Ticket(self.own_visitors, keys))

    def admit_handshake(self, host: str) -> Decision:
        """Decide on one more TLS handshake with an agent at *host*."""
        keys = peer_keys(host)
        if self.handshakes.total >= self.caps.handshakes_total:
            return Refuse(RefuseReason.HANDSHAKES_TOTAL)
        if _is_full(self.handshakes, keys, self.caps.handshakes_per_address):
            return Refuse(RefuseReason.HANDSHAKES_ADDRESS)
        return Admit(Ticket(self.handshakes, keys))

    def admit_data(self, host: str) -> Decision:
        """Decide on one more data connection from *host* that has proven nothing yet; it is half-open besides."""
        keys = peer_keys(host)
        if _is_full(self.unproven, keys, self.caps.direct_half_open_per_address):
            return Refuse(RefuseReason.DATA_ADDRESS)
        return Admit(Ticket(self.unproven, keys))


def room_for(descriptor: int, limit: int | None) -> Room:
    """Tell from the number of a new descriptor how many are left.

    The kernel gives out the lowest free number (POSIX, open(2)), so all below
    *descriptor* are in use, whoever uses them.

    Args:
        descriptor: The new descriptor's number.
        limit: The soft RLIMIT_NOFILE; None if unlimited or unknown.
    """
    if limit is None:
        return Room.AMPLE
    reserve = min(limits.RESERVED_DESCRIPTORS, limit // 4)
    if descriptor < limit - reserve:
        return Room.AMPLE
    return Room.SCARCE if descriptor < limit - reserve // 2 else Room.NONE


def peer_keys(host: str) -> tuple[Hashable, ...]:
    """Return what *host*, an IP address, is counted under: first its own key, then its site's if it has one."""
    if ":" not in host:
        return (host,)
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return (host,)
    if address.ipv4_mapped is not None:
        return (str(IPv4Address(address.ipv4_mapped)),)
    return ((64, int(address) >> _BITS_BELOW_64), (48, int(address) >> _BITS_BELOW_48))


def _is_full(tally: Tally, keys: tuple[Hashable, ...], cap: int) -> bool:
    """Return whether one key has reached its cap; the site's is larger."""
    return any(tally[key] >= cap * (limits.SITE_FACTOR if site else 1) for site, key in enumerate(keys))
