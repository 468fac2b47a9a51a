"""May this relay be trusted?  The decision of the agent, before it sends anything.

In this order (the first that applies decides):

 1. `--relay-pin`: the key must be that one; nothing else of the certificate matters.  `--relay-ca`: the
    chain must lead to that file, for the dialled name, now.  With both, both must hold.
 2. A certificate of a public CA for the dialled name, valid now.
 3. The key that is remembered for this address (`knownrelays`).
 4. First use: without a flag only where the address dialled is a loopback or private one, elsewhere with
    `--relay-tofu`; never with `--relay-strict`.  It is said aloud and remembered.

What is remembered binds 2 to 4: a relay keeps its key over renewals of its
certificate.  One that was trusted on first use may later show a public
certificate, with whatever key (accepted, with a notice).  Every other change
of key is refused, and a relay that had a public certificate is never trusted
with less.

First use is for certificates that nobody vouches for.  A public one that
is expired or for another name is refused: it has an owner who can mend it.
One issued by an unknown CA is accepted on private addresses, but not
elsewhere even with `--relay-tofu`: there it is what an intercepting network
looks like.  Where the issuer is a known interceptor it is refused everywhere,
also if this machine trusts it: no tunnel works through one, because it
cannot show the agent's certificate to the relay.

Private addresses: RFC 1918, RFC 4193 (fc00::/7), link-local, loopback.  Not
100.64.0.0/10 (RFC 6598): behind it are other customers of the same provider;
overlay networks that use it can be named with `--relay-tofu` or a pin.  The
address is the one dialled, not what a name promises.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, final

from trunnel.errors import ConfigError, RelayIdentityError, RemoteProtocolError
from trunnel.identity import chains
from trunnel.identity.chains import Fault, FaultKind, PeerChain
from trunnel.identity.keys import id_of
from trunnel.identity.knownrelays import KnownRelay, KnownRelays, TrustKind
from trunnel.names import KeyId, ServerAddress

__all__ = [
    "KnownRelay",
    "KnownRelays",
    "PeerChain",
    "TrustDecision",
    "TrustKind",
    "TrustPolicy",
    "is_private_address",
    "verify_relay",
]

logger = logging.getLogger(__name__)

_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
        "169.254.0.0/16",
        "fe80::/10",
    )
)
_INTERCEPTED: Final = "your network seems to intercept TLS"
_INTERCEPTED_HINT: Final = "use another network, or ask for this relay to be exempted from TLS inspection"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """What the person said about trust."""

    pin: KeyId | None = None
    """Accept this key only."""
    ca: Path | None = None
    """Accept certificates of this file only, for the dialled name."""
    tofu: bool = False
    """Trust on first use everywhere."""
    strict: bool = False
    """Never trust on first use; a relay that is known already is not met for the first time."""
    public_roots: Path | None = None
    """PEM file of the public CAs; the system's if None."""


@final
@dataclass(frozen=True, slots=True)
class TrustDecision:
    """Yes, and why; a no is an exception."""

    relay_id: KeyId
    """The key that was accepted."""
    how: TrustKind
    """Which rule accepted it."""
    notice: str | None
    """One line that a person should read, or None."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Encounter:
    """A relay that answered, and everything its judgement depends on."""

    chain: PeerChain
    relay_id: KeyId
    server: ServerAddress
    address: str | None
    policy: TrustPolicy
    known: KnownRelays
    now: datetime

    def public_fault(self) -> Fault | None:
        """What speaks against the chain as one of a public CA."""
        return chains.check_chain(
            self.chain, self.server, roots=chains.public_roots(self.policy.public_roots), now=self.now
        )

    @property
    def self_issued(self) -> bool:
        return chains.is_self_issued(self.chain.certificates[0])

    @property
    def issuer(self) -> str:
        return chains.issuer_of(self.chain.certificates[0])

    def decide(self, how: TrustKind, notice: str | None = None) -> TrustDecision:
        return TrustDecision(self.relay_id, how, notice)


def verify_relay(
    chain: PeerChain,
    server: ServerAddress,
    *,
    policy: TrustPolicy,
    known: KnownRelays,
    address: str | None,
    now: datetime,
) -> TrustDecision:
    """Decide whether the relay that showed *chain* may be trusted; remember what has to be.

    The TLS handshake must have proven that the peer has the leaf's key.

    Args:
        chain: What the relay showed; a stranger's.
        server: What was dialled, by name or address.
        policy: What the person said.
        known: What is remembered.
        address: The IP address that the connection goes to; None if only a proxy knows it.
        now: The time, with its zone.

    Raises:
        RelayIdentityError: It may not; nothing was remembered.
        ConfigError: The CA file or the file of known relays cannot be used, or a first use not be remembered.
    """
    try:
        chains.require_readable(chain)
        relay_id = id_of(chain.certificates[0])
    except RemoteProtocolError as exc:
        raise RelayIdentityError(f"the relay at {server}: {exc.reason}") from exc
    met = _Encounter(
        chain=chain, relay_id=relay_id, server=server, address=address, policy=policy, known=known, now=now
    )
    if policy.pin is not None or policy.ca is not None:
        return _by_flag(met)
    return _by_public_ca_or_memory(met)


def _by_flag(met: _Encounter) -> TrustDecision:
    """Decide by `--relay-pin` and `--relay-ca`; memory is neither asked nor changed."""
    policy = met.policy
    if policy.pin is not None and met.relay_id != policy.pin:
        raise RelayIdentityError(
            f"the relay at {met.server} has the key {met.relay_id}, not the pinned {policy.pin}"
            + _suspicion(met, met.public_fault()),
            hint=f"if you meant this, pass --relay-pin {met.relay_id}",
        )
    if policy.ca is not None:
        fault = chains.check_chain(met.chain, met.server, roots=chains.private_roots(policy.ca), now=met.now)
        if fault is not None:
            raise RelayIdentityError(
                f"the relay at {met.server} is not vouched for by {policy.ca}: the certificate {fault.reason}"
                + _suspicion(met, None),
                hint=f"if you meant this, pass --relay-pin {met.relay_id}",
            )
    return met.decide(TrustKind.CA if policy.pin is None else TrustKind.PIN)


def _by_public_ca_or_memory(met: _Encounter) -> TrustDecision:
    """Decide by the public CAs, what is remembered, and the rules of first use."""
    record = met.known.lookup(met.server)
    fault = met.public_fault()
    if record is None:
        return _first_meeting(met) if fault is None else _first_use(met, fault)
    same_key = record.relay_id == met.relay_id
    if fault is None and record.how is TrustKind.FIRST_USE and (same_key or chains.interceptor_of(met.chain) is None):
        return _upgrade(met, record)
    if not same_key:
        raise _changed(met, record, fault)
    if fault is None:
        return met.decide(TrustKind.PUBLIC_CA)
    if record.how is TrustKind.PUBLIC_CA:
        raise RelayIdentityError(
            f"the relay at {met.server} had a certificate of a public CA and now has none that holds: "
            f"the certificate {fault.reason}",
            hint=f"its operator must renew it; until then, pass --relay-pin {met.relay_id}",
        )
    return met.decide(TrustKind.KNOWN)


def _first_meeting(met: _Encounter) -> TrustDecision:
    """Accept a public certificate of a relay that is not remembered."""
    interceptor = chains.interceptor_of(met.chain)
    if interceptor is not None:
        raise _intercepted(met, interceptor)
    return _remember(met, TrustKind.PUBLIC_CA, replacing=None, notice=None)


def _upgrade(met: _Encounter, record: KnownRelay) -> TrustDecision:
    """Accept a public certificate of a relay that was trusted on first use."""
    key = "the same key" if record.relay_id == met.relay_id else f"key {met.relay_id} instead of {record.relay_id}"
    notice = (
        f"the relay at {met.server}, so far trusted on first use, now has a certificate of a public CA "
        f"({met.issuer}), with {key}; from now on nothing less is accepted"
    )
    return _remember(met, TrustKind.PUBLIC_CA, replacing=record, notice=notice)


def _first_use(met: _Encounter, fault: Fault) -> TrustDecision:
    """Apply the rules of first use to a relay without a public certificate."""
    interceptor = chains.interceptor_of(met.chain)
    if interceptor is not None:
        raise _intercepted(met, interceptor)
    private = met.address is not None and is_private_address(met.address)
    refusal = _why_not_first_use(met, fault, private=private)
    if refusal is not None:
        raise RelayIdentityError(
            f"the relay at {met.server} is not known, and the certificate {fault.reason}{refusal}",
            hint=_first_use_hint(met, fault),
        )
    issued = "" if met.self_issued else f", its certificate is issued by {met.issuer}"
    notice = (
        f"trusting the relay at {met.server} on first use: its key is {met.relay_id}{issued} "
        f"(`trunnel serve` prints the same; remembered in {met.known.path})"
    )
    return _remember(met, TrustKind.FIRST_USE, replacing=None, notice=notice)


def _why_not_first_use(met: _Encounter, fault: Fault, *, private: bool) -> str | None:
    """Return why first use is refused, to go on from the fault; None if it is not."""
    if fault.kind is not FaultKind.UNKNOWN_ISSUER:
        return ""  # the fault says it all
    if met.policy.strict:
        return "; --relay-strict never trusts on first use"
    if private:
        return None
    if not met.policy.tofu:
        where = met.address or "what a proxy connects to"
        return _suspicion(met, fault) + f"; {where} is no private address, where first use would do"
    return None if met.self_issued else _suspicion(met, fault)


def _first_use_hint(met: _Encounter, fault: Fault) -> str:
    """Say what to do when first use was refused."""
    pin = f"if its operator confirms the key, pass --relay-pin {met.relay_id}"
    if fault.kind is not FaultKind.UNKNOWN_ISSUER:
        return pin
    if not met.self_issued:
        return f"{pin}; if the CA is yours, pass --relay-ca FILE"
    return pin if met.policy.strict else f"{pin}; to trust whoever answered, pass --relay-tofu"


def _changed(met: _Encounter, record: KnownRelay, fault: Fault | None) -> RelayIdentityError:
    """Describe a relay whose key is not the remembered one."""
    return RelayIdentityError(
        f"the relay at {met.server} has changed its key: it was {record.relay_id} ({record.how}, "
        f"{record.since:%Y-%m-%d}), it is {met.relay_id}" + _suspicion(met, fault),
        hint=f"if you meant this, remove the line of {met.server} from {met.known.path} "
        f"or pass --relay-pin {met.relay_id}",
    )


def _intercepted(met: _Encounter, interceptor: str) -> RelayIdentityError:
    """Describe a certificate that an inspecting network or program made."""
    return RelayIdentityError(
        f"{_INTERCEPTED}: the certificate shown for {met.server} is issued by {interceptor}, not the relay's own",
        hint=_INTERCEPTED_HINT,
    )


def _suspicion(met: _Encounter, fault: Fault | None) -> str:
    """Return what the chain says about interception, as the continuation of a sentence; "" if nothing."""
    interceptor = chains.interceptor_of(met.chain)
    if interceptor is not None:
        return f"; {_INTERCEPTED}: the certificate is issued by {interceptor}"
    if fault is not None and fault.kind is FaultKind.UNKNOWN_ISSUER and not met.self_issued:
        return f"; {_INTERCEPTED}: the certificate is issued by {met.issuer}, which is no public CA"
    return ""


def _remember(met: _Encounter, how: TrustKind, *, replacing: KnownRelay | None, notice: str | None) -> TrustDecision:
    """Write the decision down; decide again if another program wrote something else meanwhile."""
    entry = KnownRelay(relay_id=met.relay_id, how=how, since=met.now)
    try:
        stored = met.known.remember(met.server, entry, replacing=replacing)
    except ConfigError as exc:
        if how is TrustKind.FIRST_USE:
            raise  # trust that is not remembered would be given anew to whoever answers next
        logger.warning("relay not remembered", extra={"relay": str(met.server), "reason": exc.reason})
        return met.decide(how, notice)
    return met.decide(how, notice) if stored == entry else _by_public_ca_or_memory(met)


def is_private_address(address: str) -> bool:
    """Whether the IP *address* (a scope id may follow) is a loopback, link-local or private one.

    Raises:
        ValueError: It is no IP address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))  # drops the scope id
    return any(parsed in network for network in _PRIVATE)
