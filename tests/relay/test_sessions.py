"""Who owns which names: taking over, sharing, revoking, with sessions in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from trunnel.errors import LocalProtocolError, RejectCode
from trunnel.names import Hostname, KeyId
from trunnel.relay.authorized import parse_authorized
from trunnel.relay.sessions import AgentSession, Farewell, Sessions
from trunnel.settings import limits
from trunnel.transports.base import Peer
from trunnel.transports.memory import memory_session_pair
from trunnel.transports.pool import open_pool
from trunnel.wire import control

A, B = KeyId.of_spki(b"a"), KeyId.of_spki(b"b")
SUFFIXES = (Hostname("one.example"), Hostname("two.example"))


class Hall:
    """A registry and agents that attach to it."""

    def __init__(self, stack: AsyncExitStack, nursery: trio.Nursery, *, agents_max: int) -> None:
        self.sessions = Sessions(SUFFIXES, open_to_all=False, agents_max=agents_max)
        self._stack = stack
        self._nursery = nursery
        self._made = 0

    def list(self, *lines: str) -> list[AgentSession]:
        """Put a list in force."""
        return self.sessions.reauthorize(parse_authorized("\n".join(lines)))

    async def agent(self, key: KeyId, instance: int = 0, *, share: bool = False) -> AgentSession:
        """Make an agent's session with one carrier; not attached."""
        self._made += 1
        peer = Peer(key_id=key, address="198.51.100.7:1")
        relay, _ = await self._stack.enter_async_context(memory_session_pair(peer, peer))
        link = await self._stack.enter_async_context(open_pool(peer, lasting=True))
        self._nursery.start_soon(link.carry, relay)
        await trio.testing.wait_all_tasks_blocked()
        asking = hello(instance, share=share)
        return AgentSession(session_id=f"s-{self._made}", link=link, hello=asking, nursery=self._nursery)

    async def attach(self, key: KeyId, instance: int = 0, *, share: bool = False) -> AgentSession:
        """Attach an agent."""
        session = await self.agent(key, instance, share=share)
        self.sessions.attach(session)
        return session

    def owner(self, name: str) -> AgentSession | None:
        """Return who serves a name."""
        return self.sessions.routes.lookup(Hostname(name))


def hello(instance: int = 0, *, share: bool = False) -> control.Hello:
    return control.Hello(versions=[1], instance=f"{instance:032x}", agent="test", share=share, where="box")


@asynccontextmanager
async def hall(*lines: str, agents_max: int = 10) -> AsyncIterator[Hall]:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        made = Hall(stack, nursery, agents_max=agents_max)
        made.list(*lines)
        yield made
        nursery.cancel_scope.cancel()


async def test_an_agent_owns_its_id_and_its_names_under_every_suffix() -> None:
    async with hall(f"{A} app # laptop") as place:
        session = await place.attach(A)
        assert session.label == "laptop"
        for suffix in SUFFIXES:
            assert place.owner(f"{A}.{suffix}") is session
            assert place.owner(f"app.{suffix}") is session
        assert place.owner(f"other.{SUFFIXES[0]}") is None


async def test_the_same_instance_replaces_its_older_session_silently() -> None:
    async with hall(f"{A}") as place:
        older, newer = await place.attach(A, 1), await place.attach(A, 1)
        assert older.farewell == Farewell(reason="the same agent connected anew", grace=limits.ABORT_FLUSH_TIMEOUT)
        assert place.owner(f"{A}.one.example") is newer
        assert newer.farewell is None


async def test_another_instance_replaces_and_the_older_one_is_told_by_whom() -> None:
    async with hall(f"{A}") as place:
        older = await place.attach(A, 1, share=True)
        newer = await place.attach(A, 2)
        assert older.farewell is not None
        told = older.farewell.message
        assert told is not None
        assert told.code == RejectCode.REPLACED
        assert told.retry_after == limits.REPLACED_WAIT >= 60
        assert "198.51.100.7" in told.reason
        assert "box" in told.reason
        assert place.owner(f"{A}.one.example") is newer
        place.sessions.detach(older)
        assert place.owner(f"{A}.one.example") is newer


async def test_agents_that_share_serve_the_least_loaded_first() -> None:
    async with hall(f"{A}") as place:
        first, second = await place.attach(A, 1, share=True), await place.attach(A, 2, share=True)
        assert first.farewell is None
        first.enter()
        assert {place.owner(f"{A}.one.example") for _ in range(4)} == {second}
        second.enter()
        assert {place.owner(f"{A}.one.example") for _ in range(4)} == {first, second}


async def test_a_key_that_is_taken_off_the_list_loses_its_names_at_once() -> None:
    async with hall(f"{A}", f"{B}") as place:
        revoked, kept = await place.attach(A), await place.attach(B)
        assert place.list(f"{B}") == []
        assert place.owner(f"{A}.one.example") is None
        assert revoked.farewell is not None
        assert revoked.farewell.message is not None
        assert revoked.farewell.message.code == RejectCode.REVOKED
        assert kept.farewell is None


async def test_a_name_goes_from_one_agent_to_another_whatever_their_order() -> None:
    """The one that gets it must not lose everything because the other still has it."""
    async with hall(f"{A} app", f"{B} web") as place:
        first, second = await place.attach(A), await place.attach(B)
        assert set(place.list(f"{A} web", f"{B} app")) == {first, second}
        assert place.owner("web.one.example") is first
        assert place.owner("app.one.example") is second
        assert place.owner(f"{A}.two.example") is first


async def test_a_new_label_alone_changes_no_names() -> None:
    async with hall(f"{A} # old") as place:
        session = await place.attach(A)
        assert place.list(f"{A} # new") == []
        assert session.label == "new"


async def test_agents_have_no_more_names_than_they_can_be_told_of() -> None:
    names = " ".join(f"n{number}" for number in range(limits.AUTHORIZED_NAMES_MAX))
    async with hall(f"{A} {names}") as place:
        session = await place.attach(A)
        assert len(place.sessions.routes.names(session)) == limits.CONTROL_ENDPOINTS_MAX


async def test_a_full_relay_takes_only_agents_that_replace_another() -> None:
    """Sharing does not: one key could otherwise hold any number of sessions."""
    async with hall(f"{A}", f"{B}", agents_max=1) as place:
        await place.attach(A, 1, share=True)
        registry = place.sessions
        for key, asking in ((B, hello(1)), (A, hello(2, share=True))):
            refusal = registry.refusal(key, asking)
            assert refusal is not None
            assert refusal.code == RejectCode.OVERLOADED
            assert refusal.retry_after
        assert registry.refusal(A, hello(2)) is None
        assert registry.refusal(A, hello(1, share=True)) is None
        await place.attach(A, 2)
        place.sessions.all()[1].retire(Farewell(reason="over"))
        assert registry.refusal(A, hello(3)) is not None, "whoever is retired already makes no room"


async def test_wait_empty_and_wait_idle_return_when_the_last_has_gone() -> None:
    async with hall(f"{A}") as place:
        session = await place.attach(A)
        session.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.wait_idle)
            nursery.start_soon(place.sessions.wait_empty)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2
            session.leave()
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            place.sessions.detach(session)
        place.sessions.detach(session)
        assert len(place.sessions) == 0


async def test_a_name_with_two_owners_is_a_bug_that_leaves_nothing_behind() -> None:
    """Nobody could detach what was never attached."""
    async with hall(f"{A}", f"{B}") as place:
        other = await place.attach(B)
        place.sessions.routes.claim([Hostname(f"{A}.two.example")], other)
        session = await place.agent(A)
        with pytest.raises(LocalProtocolError, match="another owner"):
            place.sessions.attach(session)
        assert place.sessions.all() == [other]
        assert len(place.sessions) == 1
        assert place.sessions.routes.names(session) == ()
        place.sessions.detach(session)
        assert len(place.sessions) == 1


async def test_an_agent_without_a_carrier_is_the_last_choice() -> None:
    async with hall(f"{A}") as place:
        first, second = await place.attach(A, 1, share=True), await place.attach(A, 2, share=True)
        for _ in range(3):
            second.enter()
        first.let_go("lost")
        await trio.testing.wait_all_tasks_blocked()
        assert {place.owner(f"{A}.one.example") for _ in range(4)} == {second}
        second.let_go("lost")
        await trio.testing.wait_all_tasks_blocked()
        assert place.owner(f"{A}.one.example") in (first, second)


async def test_only_the_same_key_and_instance_joins_a_session() -> None:
    async with hall(f"{A}", f"{B}") as place:
        session = await place.attach(A, 1)
        registry = place.sessions

        def joining(instance: int, named: str | None) -> control.Hello:
            return msgspec.structs.replace(hello(instance), session=named)

        assert registry.joined(A, joining(1, session.session_id)) is session
        for key, asking in (
            (B, joining(1, session.session_id)),
            (A, joining(2, session.session_id)),
            (A, joining(1, "s-99")),
            (A, joining(1, None)),
        ):
            assert registry.joined(key, asking) is None
        session.retire(Farewell(reason="over"))
        refusal = registry.refusal(A, joining(1, session.session_id))
        assert refusal is not None
        assert refusal.code == RejectCode.DRAINING
