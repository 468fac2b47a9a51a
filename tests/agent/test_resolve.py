"""Names to addresses when name servers lie, hang and change their minds (NET-09).

Look-ups run in real threads; the clock is virtual and moved by hand, since it
cannot see threads.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
import trio

from trunnel.agent.resolve import Resolver, look_up
from trunnel.errors import ConnectError
from trunnel.settings import limits

NAME = "relay.example"
NXDOMAIN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SERVFAIL = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@dataclass
class Late:
    """An answer that waits for an event."""

    event: threading.Event
    answer: list[str] | OSError = field(default_factory=lambda: NXDOMAIN)


Answer = list[str] | OSError | Late


class NameServer:
    """Answers each look-up of a name by the next line of its script; the last one stands."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.hanging = threading.Semaphore(0)

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        lines = self.script.get(host, [NXDOMAIN])
        answer = lines.pop(0) if len(lines) > 1 else lines[0]
        if isinstance(answer, Late):
            self.hanging.release()
            answer.event.wait()
            answer = answer.answer
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def names() -> NameServer:
    return NameServer()


@pytest.fixture
def resolver(names: NameServer) -> Resolver:
    return Resolver(names)


@pytest.fixture
async def stuck() -> AsyncIterator[threading.Event]:
    """Return what look-ups hang on; set at the end, so that no thread survives the test."""
    event = threading.Event()
    yield event
    event.set()


async def hosts(resolver: Resolver, name: str = NAME) -> list[str]:
    found = await resolver.addresses(name, 443)
    assert all(port == 443 for _, port in found)
    return [host for host, _ in found]


async def test_what_the_system_gives_is_dialled_in_its_order(names: NameServer, resolver: Resolver) -> None:
    names.script[NAME] = [["192.0.2.2", "192.0.2.1"]]
    assert await hosts(resolver) == ["192.0.2.2", "192.0.2.1"]


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        (["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"], ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]),
        (["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"], ["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"]),
        (["10.0.0.1", "10.0.0.1"], ["10.0.0.1"]),
        (["::1"], ["::1"]),
        (["fe80::1%2", "10.0.0.1"], ["fe80::1%2", "10.0.0.1"]),
    ],
)
async def test_families_take_turns(names: NameServer, resolver: Resolver, given: list[str], dialled: list[str]) -> None:
    """RFC 8305 §4; A without AAAA is simply one family."""
    names.script[NAME] = [given]
    assert await hosts(resolver) == dialled


async def test_addresses_are_capped_and_the_other_family_is_not_cut_off(names: NameServer, resolver: Resolver) -> None:
    names.script[NAME] = [[*(f"::{number:x}" for number in range(1, 100)), "10.0.0.1"]]
    found = await hosts(resolver)
    assert len(found) == limits.ADDRESSES_MAX
    assert found[:2] == ["::1", "10.0.0.1"]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"])
async def test_an_address_stands_for_itself(names: NameServer, resolver: Resolver, host: str) -> None:
    assert await hosts(resolver, host) == [host]
    assert names.asked == []


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (NXDOMAIN, "there is no address for the name relay.example"),
        (SERVFAIL, r"no name server gives an answer for relay.example \(temporary failure\)"),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable"), r"cannot be looked up \(Non-recoverable\)"),
        (OSError("odd"), r"cannot be looked up \(odd\)"),
        ([], r"cannot be looked up \(the answer has no address\)"),
    ],
)
async def test_a_failure_is_told_in_words(names: NameServer, resolver: Resolver, failure: Answer, text: str) -> None:
    names.script[NAME] = [failure]
    with pytest.raises(ConnectError, match=text) as raised:
        await hosts(resolver)
    assert raised.value.retryable


@pytest.mark.parametrize("failure", [NXDOMAIN, SERVFAIL, OSError("odd"), []])
async def test_the_last_good_addresses_are_dialled_when_a_look_up_fails(
    names: NameServer, resolver: Resolver, failure: Answer
) -> None:
    names.script[NAME] = [["192.0.2.1", "192.0.2.2"], failure]
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2"]
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2"]


async def test_a_changed_address_comes_first_and_the_old_one_last(names: NameServer, resolver: Resolver) -> None:
    names.script[NAME] = [["192.0.2.1"], ["192.0.2.9", "::9"], NXDOMAIN]
    await hosts(resolver)
    for _ in range(2):
        assert await hosts(resolver) == ["192.0.2.9", "::9", "192.0.2.1"]


async def test_a_name_that_wanders_is_remembered_within_bounds(names: NameServer, resolver: Resolver) -> None:
    names.script[NAME] = [[f"192.0.2.{number}"] for number in range(20)]
    for _ in range(19):
        await hosts(resolver)
    found = await hosts(resolver)
    assert found == ["192.0.2.19", "192.0.2.18", "192.0.2.17", "192.0.2.16", "192.0.2.15"]
    assert len(found) == 1 + limits.ADDRESSES_KEPT


async def test_only_so_many_names_are_remembered_the_last_used_ones(names: NameServer, resolver: Resolver) -> None:
    names.script[NAME] = [["192.0.2.1"], NXDOMAIN]
    await hosts(resolver)
    for number in range(limits.RESOLVED_NAMES_MAX - 1):
        names.script[f"{number}.example"] = [["192.0.2.1"]]
        await hosts(resolver, f"{number}.example")
    assert await hosts(resolver) == ["192.0.2.1"]
    names.script["one-more.example"] = [["192.0.2.1"]]
    await hosts(resolver, "one-more.example")
    names.script["0.example"] = [NXDOMAIN]
    with pytest.raises(ConnectError):
        await hosts(resolver, "0.example")


async def hang(names: NameServer, resolver: Resolver, clock: trio.testing.MockClock, seconds: float) -> list[str] | str:
    """Look a name up whose look-up hangs, and let *seconds* pass; return addresses or the error."""
    outcome: list[list[str] | str] = []

    async def ask() -> None:
        try:
            outcome.append(await hosts(resolver))
        except ConnectError as exc:
            outcome.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(names.hanging.acquire)
        clock.jump(seconds - 0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert not outcome
        clock.jump(0.02)
    return outcome[0]


async def test_a_look_up_that_hangs_is_left_behind(
    names: NameServer, resolver: Resolver, stuck: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    names.script[NAME] = [Late(stuck)]
    text = await hang(names, resolver, mock_clock, limits.RESOLVE_TIMEOUT)
    assert text == "the look-up of relay.example takes too long: no name server answers"


async def test_with_addresses_from_before_there_is_less_patience(
    names: NameServer, resolver: Resolver, stuck: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    names.script[NAME] = [["192.0.2.1"], Late(stuck)]
    await hosts(resolver)
    assert await hang(names, resolver, mock_clock, limits.RESOLVE_PATIENCE) == ["192.0.2.1"]


async def test_an_answer_that_comes_late_counts_for_the_next_call(
    names: NameServer, resolver: Resolver, stuck: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    """A dead first name server delays every answer; without this no call would ever succeed."""
    names.script[NAME] = [["192.0.2.1"], Late(stuck, ["192.0.2.9"]), NXDOMAIN]
    await hosts(resolver)
    await hang(names, resolver, mock_clock, limits.RESOLVE_PATIENCE)
    stuck.set()
    found = await hosts(resolver)
    for _ in range(1_000):  # the thread that was left behind needs a moment
        if found == ["192.0.2.1"]:
            found = await hosts(resolver)
    assert found == ["192.0.2.9", "192.0.2.1"]


async def test_threads_that_hang_are_few_and_do_not_hold_up_other_names(
    names: NameServer, resolver: Resolver, stuck: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    names.script = {NAME: [Late(stuck)], "other.example": [["192.0.2.2"]]}
    refused: list[str] = []

    async def ask() -> None:
        with pytest.raises(ConnectError):
            await hosts(resolver)
        refused.append(NAME)

    async with trio.open_nursery() as nursery:
        for _ in range(3 * limits.RESOLVE_THREADS):
            nursery.start_soon(ask)
        for _ in range(limits.RESOLVE_THREADS):
            await trio.to_thread.run_sync(names.hanging.acquire)
        await trio.testing.wait_all_tasks_blocked()
        assert names.asked == limits.RESOLVE_THREADS * [NAME]
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert await hosts(resolver, "other.example") == ["192.0.2.2"]
        mock_clock.jump(limits.RESOLVE_TIMEOUT + 1)
    assert len(refused) == 3 * limits.RESOLVE_THREADS


async def test_a_cancelled_call_leaves_at_once(names: NameServer, resolver: Resolver, stuck: threading.Event) -> None:
    names.script[NAME] = [Late(stuck)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hosts, resolver)
        await trio.to_thread.run_sync(names.hanging.acquire)
        nursery.cancel_scope.cancel()
    assert names.asked == [NAME]


async def test_the_system_knows_this_machine() -> None:
    found = await Resolver().addresses("localhost", 443)
    assert {host for host, _ in found} <= {"127.0.0.1", "::1"}


def test_a_link_local_address_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no system connects to fe80::/10; the other families of the answer are passed over."""
    answer = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("x",)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert look_up(NAME) == ["fe80::1%2", "2001:db8::1", "192.0.2.1"]
