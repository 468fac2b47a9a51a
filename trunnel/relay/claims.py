"""Claims of attached agents to names of their own: proved by DNS before they are routed, and ever again.

    attached → each name looked up (`dnsproof`), one at a time for an agent, `CLAIM_LOOKUPS` in all,
        and for one key, however often it connects, `CLAIM_BURST` and then one each `CLAIM_PERIOD`,
        `CLAIM_LOOKUPS_PER_KEY` at a time
        proven, and nobody has it                routed, and the agent told (`endpoints`)
        proven, and another key has it           that one is looked up at once: it loses the name if DNS no
                                                 longer names it, else it keeps it
        denied                                   the agent told, with the record to set; looked up again later
    each day                                     looked up again; what follows is in `hostnames`
    an `acme-tls/1` visitor comes for it         passed on only after a fresh proof (`confirm`)

The last line is what keeps an agent from having a certificate for a name that
has gone to somebody else (SEC-16): who answers a challenge is decided by DNS at
that moment, not by who came first.  No answer from DNS is no proof there; the
challenge is refused, and the name's visitors notice nothing.  "That moment" is
the resolver's: it may say for as long as a record's TTL what was true before.

Routes change in synchronous code only, `_settle` and `_give`, which look at
the table as it is then: between a proof and its use other proofs were used.  A
name never has owners with different keys, whether they share or not, and a
session that is retired is given nothing.  What is found out for one session
by another's claim, or by a challenge, changes when it is to look again: its
own task waits in `_next_due`, and is woken.

Sources: RFC 8737 §3, RFC 8555 §10.2.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, final

import trio

from trunnel.names import Hostname, KeyId
from trunnel.relay import dnsproof
from trunnel.relay.allowance import Allowance
from trunnel.relay.dnsproof import Denied, Proof, Proven
from trunnel.relay.hostnames import Standing
from trunnel.relay.routing import Conflict
from trunnel.relay.sessions import AgentSession, Sessions
from trunnel.relay.turns import Turns
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.wire import control

logger = logging.getLogger(__name__)

Prove = Callable[[Hostname, KeyId], Awaitable[Proof]]
"""Asks DNS whether a name is led to a key."""
_TAKEN: Final = Denied("another agent has just been given it")
_NOT_ASKED: Final = Denied("DNS was not asked to the end", transient=True)


@final
@dataclass(slots=True, eq=False)
class _Look:
    """One look at DNS for challenges."""

    begun: float
    ended: trio.Event = field(default_factory=trio.Event)
    proof: Proof = _NOT_ASKED

    def serves(self, now: float) -> bool:
        """Whether a challenge that comes *now* is decided by this look."""
        reused = limits.CHALLENGE_PROOF_REUSED if isinstance(self.proof, Proven) else limits.CHALLENGE_DOUBT_REUSED
        return not self.ended.is_set() or now - self.begun < reused


@final
class Claims:
    """Decides which agents have which names of their own.

    Args:
        sessions: The attached agents, and their routes.
        prove: Asks DNS.
        announce: Tells an agent that its names, or the reasons why it has them not, have changed; must not block.
    """

    def __init__(self, sessions: Sessions, prove: Prove, announce: Callable[[AgentSession], None]) -> None:
        self._sessions = sessions
        self._prove = prove
        self._announce = announce
        self._rng = secrets.SystemRandom()
        self._claims_of_keys = Allowance(burst=limits.CLAIM_BURST, period=limits.CLAIM_PERIOD)
        self._for_claims = Turns(total=limits.CLAIM_LOOKUPS, each=limits.CLAIM_LOOKUPS_PER_KEY)
        self._for_challenges = Turns(total=limits.CHALLENGE_LOOKUPS, each=limits.CHALLENGE_LOOKUPS_PER_KEY)
        self._looks: dict[tuple[Hostname, KeyId], _Look] = {}  # the oldest first
        self._rests: dict[AgentSession, trio.CancelScope] = {}

    # --- claims -------------------------------------------------------------------------------------

    async def keep(self, session: AgentSession) -> None:
        """Look after the names of *session*, which is attached, until it is retired.

        Cancellation: ends it.
        """
        if any(standing.reason for standing in session.hostnames.values()):
            self._announce(session)  # what is refused without a look
        while session.hostnames and session.serves:
            standing = await self._next_due(session)
            proof = await self._look_for_claim(standing.name, session.key_id, by=session.key_id)
            if isinstance(proof, Proven):
                proof = await self._contest(standing.name, session.key_id)
            self._settle(session, standing, proof)

    async def _next_due(self, session: AgentSession) -> Standing:
        """Wait until a name of *session* is to be looked up; return how it stands."""
        while True:
            standing = min(session.hostnames.values(), key=lambda each: each.due)
            if standing.due <= trio.current_time():
                return standing
            try:
                with trio.CancelScope(deadline=standing.due) as self._rests[session]:
                    await trio.sleep_forever()
            finally:
                del self._rests[session]

    async def _look_for_claim(self, name: Hostname, key_id: KeyId, *, by: KeyId) -> Proof:
        """Ask DNS whether *name* is led to *key_id*, at the expense of *by*."""
        while pause := self._claims_of_keys.take(by, trio.current_time()):  # noqa: ASYNC110 - only time ends it
            await trio.sleep(pause)
        async with self._for_claims.turn(by):
            return await self._prove(name, key_id)

    async def _contest(self, name: Hostname, key_id: KeyId) -> Proof:
        """Have another key that holds *name* looked up again; return what is then true of *key_id*."""
        for holder in {owner.key_id for owner in self._sessions.routes.owners(name)} - {key_id}:
            proof = await self._look_for_claim(name, holder, by=key_id)
            if self._settle_all(name, holder, proof):
                unsure = isinstance(proof, Denied)
                doubt = "DNS could not be asked about that one" if unsure else "DNS names that one, too"
                return Denied(f"the agent {holder.short}… has it, and {doubt}", transient=unsure)
        return Proven("contest")

    def review(self) -> None:
        """Take names away that have become the relay's own."""
        for session in self._sessions.all():
            for standing in session.hostnames.values():
                refusal = self._sessions.rules.refusal(standing.name)
                if refusal is not None and not standing.settled:
                    said = standing.held, standing.reason
                    standing.refuse(refusal)
                    self._follow(session, standing, said)

    # --- challenges ---------------------------------------------------------------------------------

    async def confirm(self, name: Hostname, session: AgentSession) -> bool:
        """Return whether a challenge for *name* may be passed on to *session*, to which the name is routed.

        A name under a suffix is the operator's to give and needs no proof.
        For others DNS is asked, at most `CHALLENGE_PROOF_REUSED` ago.

        Cancellation: others who wait for the same look are refused.
        """
        if not self._sessions.rules.is_given(name):
            proof = await self._look_for_challenge(name, session.key_id)
            if not isinstance(proof, Proven):
                if not proof.transient:
                    self._settle_all(name, session.key_id, proof)
                return False
        return session.serves and session in self._sessions.routes.owners(name)

    async def _look_for_challenge(self, name: Hostname, key_id: KeyId) -> Proof:
        """Look at DNS, together with all who want to know the same now."""
        self._forget_looks()
        look = self._looks.get((name, key_id))
        if look is not None and look.serves(trio.current_time()):
            await look.ended.wait()
            return look.proof
        self._looks.pop((name, key_id), None)
        look = self._looks[name, key_id] = _Look(trio.current_time())
        try:
            async with self._for_challenges.turn(key_id):
                look.proof = await self._prove(name, key_id)
        finally:
            look.ended.set()
            if look.proof is _NOT_ASKED and self._looks.get((name, key_id)) is look:
                del self._looks[name, key_id]
        return look.proof

    def _forget_looks(self) -> None:
        oldest = trio.current_time() - limits.CHALLENGE_PROOF_REUSED
        while self._looks:
            key, look = next(iter(self._looks.items()))
            if look.begun > oldest or not look.ended.is_set():
                return
            del self._looks[key]

    # --- routes: synchronous ------------------------------------------------------------------------

    def _settle(self, session: AgentSession, standing: Standing, proof: Proof) -> None:
        """Let *proof* count for a name of *session*: route it, leave it or take it away."""
        if not session.serves or standing.settled:
            return
        said = standing.held, standing.reason
        if isinstance(proof, Proven) and not self._give(session, standing.name):
            proof = _TAKEN
        standing.take(proof, now=trio.current_time(), rng=self._rng)
        self._follow(session, standing, said)

    def _settle_all(self, name: Hostname, key_id: KeyId, proof: Proof) -> bool:
        """Let *proof* count for everybody who holds *name* with *key_id*; whether somebody still does."""
        for owner in self._sessions.routes.owners(name):
            standing = owner.hostnames.get(name)
            if owner.key_id == key_id and standing is not None:
                self._settle(owner, standing, proof)
        return any(owner.key_id == key_id for owner in self._sessions.routes.owners(name))

    def _follow(self, session: AgentSession, standing: Standing, said: tuple[bool, str]) -> None:
        """Make the routes, the session's next look and what its agent knows (*said*) follow from *standing*."""
        if (rest := self._rests.get(session)) is not None:
            rest.deadline = min(rest.deadline, standing.due)
        if not standing.held:
            self._sessions.routes.release_name(standing.name, session)
        if said != (standing.held, standing.reason):
            named = {"agent": session.key_id.value, "hostname": standing.name.value}
            logger.info("name_routed" if standing.held else "name_refused", extra={**named, "reason": standing.reason})
            self._announce(session)

    def _give(self, session: AgentSession, name: Hostname) -> bool:
        """Route *name* to *session* unless somebody with another key has it; whether it is routed."""
        routes = self._sessions.routes
        if any(owner.key_id != session.key_id for owner in routes.owners(name)):
            return False
        return not isinstance(routes.claim([name], session, share=session.hello.share), Conflict)


def refused_names(session: AgentSession, suffix: Hostname) -> list[control.RefusedName]:
    """Return the names that *session* asked for and does not have, and what would help."""
    refused: list[control.RefusedName] = []
    for standing in session.hostnames.values():
        if standing.reason:
            reason = standing.reason
            if not standing.settled:
                reason += f"; {dnsproof.record_to_set(standing.name, session.key_id, suffix)}"
            refused.append(control.RefusedName(standing.name.value, control.printable(reason)))
    return refused


def prover(settings: RelaySettings) -> Prove:
    """Return how DNS is asked with these *settings*."""
    suffixes = settings.domain_suffixes
    clients: list[dnsproof.Dns] = []

    async def prove(name: Hostname, key_id: KeyId) -> Proof:
        if not clients:  # two may make one at a time: the first serves
            clients.append(await trio.to_thread.run_sync(_make_client, settings))
        return await dnsproof.prove(name, key_id, suffixes=suffixes, dns=clients[0])

    return prove


def _make_client(settings: RelaySettings) -> dnsproof.Dns:
    """Return a client; for a thread: nobody waits for the import."""
    from trunnel.relay.dnsclient import DnsClient  # noqa: PLC0415 - imports dnspython, 0.1 s; few relays need it

    return DnsClient(settings.dns_servers)
