"""Happy eyeballs: who is tried when, who wins, and that nobody else stays open (RFC 8305 §5).

Timing is judged on a scripted network: real sockets cannot be made to answer
after 100 ms of virtual time.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from math import inf

import pytest
import trio

from tests.agent.scripted_network import OURSELVES, Fate, ScriptedNetwork, failed, scripted_network
from tests.agent.stage import closed_port
from trunnel import capabilities
from trunnel.agent.eyeballs import connect_any
from trunnel.errors import ConnectError
from trunnel.settings import limits

A, B, C = ("2001:db8::a", 443), ("192.0.2.2", 443), ("192.0.2.3", 443)
DELAY = limits.HAPPY_EYEBALLS_DELAY


@pytest.fixture
async def network() -> AsyncIterator[ScriptedNetwork]:
    with scripted_network({}) as network:
        yield network


async def test_the_first_address_that_answers_wins_and_later_ones_are_not_tried(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(0.1), B: Fate(0)}
    stream = await connect_any([A, B])
    assert stream.socket.getpeername() == A
    assert network.started == {A: 0}


async def test_one_that_hangs_delays_the_next_by_a_quarter_second(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(inf), B: Fate(inf), C: Fate(0.1)}
    stream = await connect_any([A, B, C])
    assert stream.socket.getpeername() == C
    assert network.started == pytest.approx({A: 0, B: DELAY, C: 2 * DELAY})
    assert network.open_places() == [C]


async def test_one_that_fails_makes_way_at_once(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(0.05, failed(errno.ENETUNREACH)), B: Fate(0.1)}
    await connect_any([A, B])
    assert network.started == pytest.approx({A: 0, B: 0.05})
    assert network.open_places() == [B]


async def test_a_slow_first_address_may_still_win(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(0.3), B: Fate(0.1)}
    stream = await connect_any([A, B])
    assert stream.socket.getpeername() == A
    assert network.open_places() == [A]


async def test_of_two_that_answer_at_once_one_is_closed(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    both = trio.Event()
    network.fates = {A: Fate(0, until=both), B: Fate(0, then=both.set)}
    stream = await connect_any([A, B])
    assert stream.socket.getpeername() == B
    assert [sock.place for sock in network.sockets] == [A, B], "both had connected"
    assert network.open_places() == [B]


async def test_cancelled_when_it_has_just_connected_it_leaves_nothing_open(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.CancelScope() as scope:
        network.fates = {A: Fate(0, then=scope.cancel)}
        await connect_any([A])
    assert scope.cancelled_caught
    assert [sock.place for sock in network.sockets] == [A]
    assert network.open_places() == []


async def test_one_that_hangs_up_at_once_is_for_the_reader_to_find(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(0, vanishes=True)}
    await connect_any([A])
    assert network.open_places() == [A]


async def test_all_reasons_are_told_with_their_addresses(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {
        A: Fate(0, failed(errno.ENETUNREACH)),
        B: Fate(0.4, failed(errno.ECONNREFUSED)),
        C: Fate(0, failed(errno.ECONNREFUSED)),
    }
    with pytest.raises(ConnectError) as raised:
        await connect_any([A, B, C])
    assert str(raised.value) == (
        "network is unreachable ([2001:db8::a]:443) / connection refused (192.0.2.2:443, 192.0.2.3:443)"
    )
    assert network.open_places() == []


async def test_silence_ends_at_the_deadline_and_counts_as_a_reason(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {A: Fate(inf), B: Fate(0, failed(errno.ECONNREFUSED))}
    with pytest.raises(ConnectError, match=r"^no answer within 10 s \(.*\) / connection refused \(.*\)$"):
        await connect_any([A, B])
    assert trio.current_time() - network.epoch == pytest.approx(limits.CONNECT_TIMEOUT)
    assert network.open_places() == []


async def test_many_addresses_are_counted_in_the_message(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    places = [(f"192.0.2.{number}", 443) for number in range(8)]
    network.fates = dict.fromkeys(places, Fate(0, failed(errno.ECONNREFUSED)))
    with pytest.raises(ConnectError, match=r"\(192.0.2.0:443, 192.0.2.1:443, 192.0.2.2:443 and 5 more\)"):
        await connect_any(places)


@pytest.mark.parametrize("after", [0.1, 0.3, 0.5])
async def test_cancelled_it_leaves_nothing_open(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock, after: float
) -> None:
    network.fates = {A: Fate(inf), B: Fate(0.25)}
    with trio.move_on_after(after) as scope:
        await connect_any([A, B])
    if scope.cancelled_caught:
        assert network.open_places() == []
    else:
        assert network.open_places() == [B]


async def test_a_real_listener_is_found_behind_a_closed_port() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = ("127.0.0.1", listener.socket.getsockname()[1])
    async with listener, await connect_any([("127.0.0.1", await closed_port()), place]) as stream:
        assert stream.socket.getpeername() == place
        assert stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)


async def test_nobody_there_is_a_refusal() -> None:
    port = await closed_port()
    with pytest.raises(ConnectError, match=rf"connection refused \(127.0.0.1:{port}\)") as raised:
        await connect_any([("127.0.0.1", port)])
    assert raised.value.retryable


async def test_connected_to_ourselves_is_a_refusal(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock
) -> None:
    network.fates = {OURSELVES: Fate(0)}
    with pytest.raises(ConnectError, match="connection refused"):
        await connect_any([OURSELVES])
    assert network.open_places() == []


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (OSError(errno.EACCES, "x"), "permission denied"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to host"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError("odd"), "odd"),
    ],
)
async def test_a_failure_has_plain_words(
    network: ScriptedNetwork, autojump_clock: trio.testing.MockClock, failure: OSError, text: str
) -> None:
    """A scope that names no interface fails as a look-up does, with a negative number."""
    network.fates = {A: Fate(0, failure)}
    with pytest.raises(ConnectError, match=rf"^{text} \("):
        await connect_any([A])


async def test_no_address_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no address"):
        await connect_any([])


@pytest.mark.skipif(not capabilities.HAS_TCP_MAXSEG, reason="segments cannot be bounded here")
async def test_a_narrow_connection_keeps_to_small_segments() -> None:
    """Loopback would take 64 KiB; what is advertised bounds the peer's segments, too (NET-12)."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        place = listener.socket.getsockname()
        for narrow in (False, True):
            async with await connect_any([place], narrow=narrow) as stream, await listener.accept() as accepted:
                sizes = [
                    end.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG) for end in (stream, accepted)
                ]
                assert all((size <= limits.SEGMENT_NARROW) is narrow for size in sizes)
