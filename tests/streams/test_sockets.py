"""Socket options, aborts, and waiting for what was sent."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.streams.bench import read_to_end, socket_pair
from trunnel import capabilities
from trunnel.settings import limits
from trunnel.streams.copy import End
from trunnel.streams.sockets import abort_socket, tune_socket, wait_delivered

TCP = trio.socket.IPPROTO_TCP


async def test_a_tuned_socket_has_our_options() -> None:
    """Among them TCP_NOTSENT_LOWAT, which trio sets to a value of its own."""
    near, far = await socket_pair()
    async with near, far:
        tune_socket(near.socket)
        assert near.getsockopt(TCP, trio.socket.TCP_NODELAY)
        assert near.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)
        if capabilities.HAS_NOTSENT_LOWAT:
            assert near.getsockopt(TCP, trio.socket.TCP_NOTSENT_LOWAT) == limits.NOTSENT_LOWAT


@pytest.mark.skipif(not capabilities.HAS_UNIX_SOCKETS, reason="this system has no unix sockets")
async def test_a_unix_socket_is_left_as_it_is() -> None:
    """TCP's options do not exist there; that is no error."""
    near, far = trio.socket.socketpair()
    with near, far:
        tune_socket(near)


async def test_an_abort_is_a_reset_and_may_be_repeated() -> None:
    """The peer sees RST, not FIN; a second abort finds nothing to do."""
    near, far = await socket_pair()
    async with far:
        abort_socket(near.socket)
        abort_socket(near.socket)
        assert await read_to_end(far) == (b"", End.RESET)


async def test_what_is_delivered_is_known_on_linux_and_hoped_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """True is never said without knowing."""
    near, far = await socket_pair()
    async with near, far:
        await near.send_all(b"x")
        assert await wait_delivered(near.socket) is capabilities.HAS_OUTQ
        monkeypatch.setattr(capabilities, "HAS_OUTQ", False)
        assert not await wait_delivered(near.socket)


@pytest.mark.skipif(not capabilities.HAS_OUTQ, reason="needs SIOCOUTQ")
async def test_what_a_peer_does_not_take_is_not_waited_for_long(autojump_clock: trio.testing.MockClock) -> None:
    """Bounded by `ABORT_FLUSH_TIMEOUT`; a closed socket holds nothing."""
    autojump_clock.autojump_threshold = 0.02
    near, far = await socket_pair(receiving=4096, sending=4096)
    async with near:
        with trio.move_on_after(1):
            await far.send_all(bytes(1_000_000))
        started = trio.current_time()
        assert not await wait_delivered(far.socket)
        assert trio.current_time() - started == pytest.approx(limits.ABORT_FLUSH_TIMEOUT, abs=0.1)
        abort_socket(far.socket)
        assert await wait_delivered(far.socket)
