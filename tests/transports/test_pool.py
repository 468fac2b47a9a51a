"""Several carriers as one session: where streams go, what a lost carrier costs, and how it all ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, read_all
from tests.transports.pools import Carrier, pool
from trunnel.errors import ErrorCode, SessionClosed
from trunnel.settings import limits
from trunnel.transports.base import Peer, Stream
from trunnel.transports.memory import memory_session_pair
from trunnel.transports.pool import PooledSession, is_suspect, open_pool


async def place(session: PooledSession, among: list[Carrier]) -> tuple[int, Stream, Stream]:
    """Open a stream; return which of *among* has it, and both ends."""
    before = [carrier.far.statistics().streams_open for carrier in among]
    near = await session.open_stream()
    after = [carrier.far.statistics().streams_open for carrier in among]
    (at,) = (index for index, (was, is_now) in enumerate(zip(before, after, strict=True)) if was != is_now)
    return at, near, await among[at].far.accept_stream()


async def outcome(run: Callable[[], Awaitable[object]], into: list[object]) -> None:
    """Run *run* and note what it returned or raised."""
    try:
        into.append(await run())
    except SessionClosed as exc:
        into.append(exc)


# --- placement --------------------------------------------------------------------------------


async def test_a_stream_goes_to_the_carrier_with_the_fewest() -> None:
    async with pool(3) as (made, carriers):
        first = [await place(made.session, carriers) for _ in range(3)]
        assert sorted(at for at, *_ in first) == [0, 1, 2]
        at, near, far = first[1]
        await near.aclose()
        await far.aclose()
        assert (await place(made.session, carriers))[0] == at
        assert {(await place(made.session, carriers))[0] for _ in range(3)} == {0, 1, 2}


async def test_streams_that_are_opened_at_once_are_spread() -> None:
    """A page's ten connections come in one turn of the loop, before any carrier has counted its own."""
    async with pool(4) as (made, carriers):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(made.session.open_stream)
        assert [carrier.far.statistics().streams_open for carrier in carriers] == [2, 2, 2, 2]


async def test_of_carriers_with_as_many_the_one_heard_last_gets_the_stream() -> None:
    """One that died unnoticed would else get every stream that comes while both are idle."""
    async with pool(3) as (made, carriers):
        for heard, carrier in zip((1.0, 3.0, 2.0), carriers, strict=True):
            carrier.near.heard = heard
        assert [(await place(made.session, carriers))[0] for _ in range(4)] == [1, 2, 0, 1]


async def test_a_suspect_carrier_gets_no_new_streams_while_another_answers(autojump_clock: trio.abc.Clock) -> None:
    async with pool(2) as (made, carriers):
        at, near, far = await place(made.session, carriers)
        silent, other = carriers[at], carriers[1 - at]
        silent.near.silent_since = trio.current_time()
        await trio.sleep(limits.SUSPECT_AFTER)
        assert not is_suspect(silent.near, trio.current_time()), "not yet"
        await trio.sleep(0.01)
        assert is_suspect(silent.near, trio.current_time())
        assert {(await place(made.session, carriers))[0] for _ in range(10)} == {carriers.index(other)}
        await near.send_all(b"what is there goes on")
        assert await far.receive_some() == b"what is there goes on"
        silent.near.silent_since = None
        assert {(await place(made.session, carriers))[0] for _ in range(5)} == {carriers.index(silent)}


async def test_of_suspect_carriers_the_one_heard_last_is_the_last_resort(autojump_clock: trio.abc.Clock) -> None:
    async with pool(3) as (made, carriers):
        for heard, carrier in zip((1.0, 3.0, 2.0), carriers, strict=True):
            carrier.near.silent_since, carrier.near.heard = -100.0, heard
        assert {(await place(made.session, carriers))[0] for _ in range(4)} == {1}
        made.session.retire(carriers[1].near)
        assert (await place(made.session, carriers))[0] == 2


async def test_a_retired_carrier_gets_no_new_streams_and_the_peer_is_told() -> None:
    async with pool(2) as (made, carriers):
        at, near, far = await place(made.session, carriers)
        made.session.retire(carriers[at].near)
        assert {(await place(made.session, carriers))[0] for _ in range(5)} == {1 - at}
        with pytest.raises(SessionClosed, match="going away"):
            await carriers[at].far.open_stream()
        await near.send_all(b"to the end")
        await near.aclose()
        assert await read_all(far) == b"to the end"


async def test_a_carrier_that_the_peer_lets_go_is_passed_over() -> None:
    async with pool(2) as (made, carriers):
        carriers[0].far.go_away()
        assert {(await place(made.session, carriers))[0] for _ in range(5)} == {1}


async def test_a_stream_that_its_carrier_did_not_take_goes_to_another() -> None:
    """The carrier is lost while it is at its stream limit."""
    async with pool(1) as (made, carriers):
        carriers[0].near.hold = trio.Event()
        opened: list[object] = []
        made.nursery.start_soon(outcome, made.session.open_stream, opened)
        await trio.testing.wait_all_tasks_blocked()
        other = await made.add()
        carriers[0].near.abort("cut")
        await trio.testing.wait_all_tasks_blocked()
        assert made.session.carriers == [other.near]
        carriers[0].near.hold.set()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(opened[0], Stream)
        assert other.near.statistics().streams_open == 1
        assert made.session._draining == set(), "what has left is forgotten"


async def test_carriers_that_have_left_are_not_remembered() -> None:
    async with pool(1) as (made, carriers):
        carriers[0].near.abort("cut")
        await trio.testing.wait_all_tasks_blocked()
        made.session.retire(carriers[0].near)
        assert made.session._draining == set()


# --- carriers come and go ---------------------------------------------------------------------


async def test_a_lost_carrier_breaks_its_own_streams_and_no_others() -> None:
    async with pool(2) as (made, carriers):
        lost, lost_near, lost_far = await place(made.session, carriers)
        kept, near, far = await place(made.session, carriers)
        carriers[lost].far.abort("cut")
        for stream in (lost_near, lost_far):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        await far.send_all(b"still here")
        assert await near.receive_some() == b"still here"
        await trio.testing.wait_all_tasks_blocked()
        assert [reason.reason for reason in carriers[lost].ended] == ["cut"]
        assert made.session.carriers == [carriers[kept].near]
        assert made.session.closed is None


async def test_without_a_carrier_a_stream_waits_for_the_next_one(autojump_clock: trio.abc.Clock) -> None:
    async with pool() as (made, _):
        opened: list[object] = []
        for _ in range(3):
            made.nursery.start_soon(outcome, made.session.open_stream, opened)
        await trio.sleep(limits.CARRIER_WAIT - 0.01)
        assert opened == []
        await made.add()
        assert [isinstance(stream, Stream) for stream in opened] == [True] * 3


@pytest.mark.parametrize("going_away", [False, True], ids=["none", "one that goes away"])
async def test_a_stream_waits_for_a_carrier_only_so_long(going_away: bool, autojump_clock: trio.abc.Clock) -> None:
    async with pool(int(going_away)) as (made, carriers):
        for carrier in carriers:
            carrier.far.go_away()
        started = trio.current_time()
        with pytest.raises(SessionClosed, match="no carrier"):
            await made.session.open_stream()
        assert trio.current_time() - started == pytest.approx(limits.CARRIER_WAIT)
        assert made.session.closed is None
        await made.add()
        await made.session.open_stream()


async def test_a_lasting_session_outlives_its_carriers(autojump_clock: trio.abc.Clock) -> None:
    async with pool(1) as (made, carriers):
        await trio.sleep(100)
        carriers[0].far.abort("cut")
        await trio.sleep(1_000)
        assert made.session.closed is None
        assert (made.session.transport, made.session.peer) == ("", AGENT)
        assert trio.current_time() - made.session.last_heard == pytest.approx(1_000), "when the last carrier left"
        await made.add()
        assert made.session.transport == "memory"


async def test_another_session_ends_with_its_last_carrier() -> None:
    async with pool(2, lasting=False) as (made, carriers):
        carriers[0].far.abort("first")
        await trio.testing.wait_all_tasks_blocked()
        assert made.session.closed is None
        carriers[1].far.abort("second", retryable=False, code=ErrorCode.DRAINING)
        reason = await made.session.wait_closed()
        assert (reason.reason, reason.retryable, reason.code) == ("second", False, ErrorCode.DRAINING)


async def test_a_cancelled_carry_takes_the_carrier_out_and_leaves_it_to_its_owner() -> None:
    async with pool(1, lasting=False) as (made, carriers):
        carriers[0].scope.cancel()
        assert "taken out" in (await made.session.wait_closed()).reason
        assert made.session.carriers == []
        assert carriers[0].near.closed is None


async def test_waiters_for_a_change_miss_none() -> None:
    """A carrier that comes and one that goes are each seen by everybody who waits."""
    async with pool(1) as (made, carriers):
        seen: list[int] = []

        async def watch() -> None:
            await made.session.wait_carriers_changed()
            seen.append(len(made.session.carriers))

        for _ in range(2):
            made.nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        await made.add()
        assert seen == [2, 2]
        made.nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        carriers[0].near.abort("cut")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [2, 2, 1]


# --- accepting --------------------------------------------------------------------------------


async def test_streams_of_all_carriers_are_accepted() -> None:
    async with pool(3) as (made, carriers):
        opened = [await carrier.far.open_stream() for carrier in carriers for _ in range(4)]
        for number, stream in enumerate(opened):
            await stream.send_all(bytes([number]))
        heard = {(await (await made.session.accept_stream()).receive_some())[0] for _ in opened}
        assert heard == set(range(len(opened)))


async def test_acceptors_wait_for_streams_each_gets_one() -> None:
    async with pool(2) as (made, carriers):
        accepted: list[object] = []
        for _ in range(2):
            made.nursery.start_soon(outcome, made.session.accept_stream, accepted)
        await trio.testing.wait_all_tasks_blocked()
        assert accepted == []
        for carrier in carriers:
            await carrier.far.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(map(id, accepted))) == 2


async def test_what_nobody_accepts_is_bounded_and_nothing_of_it_is_lost() -> None:
    """What does not fit into the pool waits in its carrier, and that refuses what does not fit there."""
    async with pool(2) as (made, carriers):
        opened: list[Stream] = []
        for _ in range(2 * limits.ACCEPT_QUEUE):
            for carrier in carriers:
                opened.append(await carrier.far.open_stream())
                await trio.testing.wait_all_tasks_blocked()
        kept = [stream for stream in opened if stream.reset_code is None]
        assert len(made.session._life._arrived) <= limits.ACCEPT_QUEUE + len(carriers)
        assert 3 * limits.ACCEPT_QUEUE <= len(kept) <= 3 * limits.ACCEPT_QUEUE + 2 * len(carriers)
        for _ in kept:
            await (await made.session.accept_stream()).aclose()
        for stream in kept:
            assert await stream.receive_some() == b""


async def test_streams_of_a_lost_carrier_that_nobody_has_accepted_are_broken_not_kept_back() -> None:
    async with pool(2) as (made, carriers):
        await carriers[0].far.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        carriers[0].far.abort("cut")
        await carriers[1].far.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            await (await made.session.accept_stream()).receive_some()
        await (await made.session.accept_stream()).aclose()


# --- the end ----------------------------------------------------------------------------------


async def test_abort_ends_carriers_streams_and_everybody_who_waits() -> None:
    async with pool(2) as (made, carriers):
        _, near, far = await place(made.session, carriers)
        carriers[0].near.hold = carriers[1].near.hold = trio.Event()
        ends: list[object] = []
        for run in (made.session.accept_stream, made.session.open_stream, made.session.wait_closed):
            made.nursery.start_soon(outcome, run, ends)
        await trio.testing.wait_all_tasks_blocked()
        made.session.abort("over", code=ErrorCode.DRAINING, retryable=False)
        made.session.abort("again")
        carriers[0].near.hold.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [end.reason for end in ends if isinstance(end, SessionClosed)] == ["over"] * 3
        assert made.session.carriers == []
        for carrier in carriers:
            assert carrier.far.closed is not None
            assert (carrier.far.closed.reason, carrier.far.closed.retryable) == ("over", False)
        for stream in (near, far):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_an_ended_session_takes_no_carrier() -> None:
    async with pool() as (made, _), memory_session_pair(AGENT, AGENT) as (late, _):
        made.session.abort("over", retryable=False)
        with pytest.raises(SessionClosed, match="over") as refused:
            await made.session.carry(late)
        assert not refused.value.retryable
        assert late.closed is None, "it is its owner's to close"


async def test_going_away_goes_to_every_carrier_and_takes_no_more() -> None:
    async with pool(2) as (made, carriers), memory_session_pair(AGENT, AGENT) as (late, _):
        _, near, far = await place(made.session, carriers)
        made.session.go_away()
        made.session.go_away()
        for carrier in carriers:
            with pytest.raises(SessionClosed, match="going away"):
                await carrier.far.open_stream()
        for refused in (made.session.open_stream, lambda: made.session.carry(late)):
            with pytest.raises(SessionClosed, match="going away"):
                await refused()
        await near.send_all(b"on")
        assert await far.receive_some() == b"on"


async def test_leaving_the_scope_ends_what_is_in_it() -> None:
    async with memory_session_pair(AGENT, AGENT) as (near, far), trio.open_nursery() as nursery:
        async with open_pool(AGENT, lasting=True) as session:
            nursery.start_soon(session.carry, near)
            await trio.testing.wait_all_tasks_blocked()
        assert (await far.wait_closed()).code is ErrorCode.NO_ERROR


# --- what is said of it -----------------------------------------------------------------------


async def test_the_newest_carrier_gives_the_address_and_the_figures_are_sums() -> None:
    newer = Peer(key_id=AGENT.key_id, address="192.0.2.9:9")
    async with pool(1) as (made, carriers), memory_session_pair(AGENT, newer) as (second, far):
        made.nursery.start_soon(made.session.carry, second)
        await trio.testing.wait_all_tasks_blocked()
        assert made.session.peer == newer
        await (await carriers[0].near.open_stream()).send_all(b"12345")
        await (await far.open_stream()).send_all(b"123")
        figures = made.session.statistics()
        assert (figures.streams_open, figures.bytes_sent, figures.bytes_received) == (2, 5, 3)
        assert (figures.unread, figures.unsent) == (3, 0)


async def test_a_session_is_silent_only_if_every_carrier_is() -> None:
    async with pool() as (made, _):
        since = [made.session.unanswered_since]
        one, two = await made.add(), await made.add()
        one.near.silent_since = 1.0
        since.append(made.session.unanswered_since)
        two.near.silent_since = 5.0
        assert [*since, made.session.unanswered_since] == [None, None, 5.0]
        one.near.heard, two.near.heard = 1.0, 4.0
        assert made.session.last_heard == 4.0
