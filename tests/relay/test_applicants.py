"""The embedding program judges agents: what it says holds, and whatever is no answer is a refusal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from tests.tunnels import Gate, House, Log, greet, house
from trunnel.agent.runner import run_agent
from trunnel.errors import RejectCode, Rejected
from trunnel.events import AgentRefused, Connected, RejectedByRelay, SessionOpened
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.relay.applicants import Applicant, AuthorizationHook, Verdict, judge
from trunnel.relay.authorized import AuthorizedAgent
from trunnel.relay.invitations import Invitations
from trunnel.settings import limits
from trunnel.settings.invitation import JoinString
from trunnel.transports.base import Peer
from trunnel.wire import control
from trunnel.wire.control_codec import ControlDecoder, encode

KEY, OTHER = KeyId.of_spki(b"key"), KeyId.of_spki(b"other")
PEER = Peer(key_id=KEY, address="198.51.100.7:50000", extension=b"\x01\x02")
HELLO = control.Hello(
    versions=[1], instance="0" * 32, agent="trunnel/1", name="shop", where="box", hostnames=["shop.example"]
)


def saying(verdict: object) -> AuthorizationHook:
    """Return a hook with one answer for all, which may be no answer at all."""

    async def hook(applicant: Applicant) -> Verdict:
        del applicant
        await trio.lowlevel.checkpoint()
        return cast("Verdict", verdict)

    return hook


def raising(error: BaseException) -> AuthorizationHook:
    async def hook(applicant: Applicant) -> Verdict:
        raise error

    return hook


# --- one verdict ------------------------------------------------------------------------------------


async def test_it_is_told_what_the_agent_has_proven_and_what_it_says() -> None:
    asked: list[Applicant] = []

    async def hook(applicant: Applicant) -> None:
        asked.append(applicant)

    assert await judge(hook, PEER, HELLO) is None
    (applicant,) = asked
    assert (applicant.key_id, applicant.extension, applicant.address) == (KEY, b"\x01\x02", PEER.address)
    assert (applicant.name, applicant.hostnames) == ("shop", (Hostname("shop.example"),))
    assert (applicant.software, applicant.where) == ("trunnel/1", "box")


@pytest.mark.parametrize("how", [saying, raising])
async def test_a_refusal_may_be_returned_or_raised(how: Callable[[Rejected], AuthorizationHook]) -> None:
    """Its sentence is cut and cleaned, its hint is one that can be said."""
    refusal = Rejected(RejectCode.UNAUTHORIZED, "no\x1b[2J" + "x" * 10_000, retry_after=-1.0)
    answer = await judge(how(refusal), PEER, HELLO)
    assert isinstance(answer, control.Rejected)
    assert (answer.code, answer.retry_after) == (RejectCode.UNAUTHORIZED, 0.0)
    assert ControlDecoder().feed_untrusted(encode(answer)) == [answer]
    assert "\x1b" not in answer.reason


async def test_an_agent_that_it_authorises_is_what_it_says() -> None:
    entry = AuthorizedAgent(key_id=KEY, names=(Hostname("shop"),), label="the shop")
    assert await judge(saying(entry), PEER, HELLO) == entry


@pytest.mark.parametrize(
    "hook",
    [
        saying(AuthorizedAgent(key_id=OTHER)),
        saying(AuthorizedAgent(key_id=KEY, names=(Hostname(OTHER.value),))),
        saying(AuthorizedAgent(key_id=KEY, names=(Hostname("two.labels"),))),
        saying(True),
        saying(KEY),
        raising(KeyError("a bug")),
        raising(ExceptionGroup("several", [OSError("the database is away")])),
        raising(trio.TooSlowError()),
        cast("AuthorizationHook", str),
    ],
    ids=["somebody else", "an id", "no label", "True", "an id alone", "bug", "group", "slow inside", "no coroutine"],
)
async def test_what_is_no_answer_is_a_refusal_for_now(
    hook: AuthorizationHook, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent is not told why; the operator is."""
    answer = await judge(hook, PEER, HELLO)
    assert isinstance(answer, control.Rejected)
    assert (answer.code, answer.retry_after) == (RejectCode.OVERLOADED, limits.BACKOFF_CAP)
    assert "its operator finds why in its log" in answer.reason
    (record,) = [record for record in caplog.records if record.message == "authorization_failed"]
    assert record.levelname == "ERROR"


async def test_it_has_so_much_time_and_no_more(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Less than the handshake that waits for it; and an answer that comes late is none."""

    async def asleep(applicant: Applicant) -> None:
        await trio.sleep_forever()

    async def stubborn(applicant: Applicant) -> AuthorizedAgent:
        with trio.move_on_after(limits.AUTHORIZATION_TIMEOUT + 0.1, shield=True):
            await trio.sleep_forever()
        return AuthorizedAgent(key_id=applicant.key_id)

    hooks: list[Callable[[Applicant], Awaitable[Verdict]]] = [asleep, stubborn]
    for hook in hooks:
        started = trio.current_time()
        answer = await judge(hook, PEER, HELLO)
        assert isinstance(answer, control.Rejected)
        assert answer.code == RejectCode.OVERLOADED
        assert trio.current_time() - started == pytest.approx(limits.AUTHORIZATION_TIMEOUT, abs=0.2)
    assert [record.reason for record in caplog.records if record.message == "authorization_failed"] == [  # type: ignore[attr-defined]
        "it took too long"
    ] * 2
    assert limits.AUTHORIZATION_TIMEOUT < limits.HANDSHAKE_TIMEOUT


async def test_it_may_be_cancelled_from_outside() -> None:
    async def asleep(applicant: Applicant) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await judge(asleep, PEER, HELLO)
    assert scope.cancelled_caught


# --- at a running relay -----------------------------------------------------------------------------


async def test_it_decides_by_key_and_extension(tmp_path: Path) -> None:
    """Names and label are those that it gives; whom it refuses is told its sentence and tries no more."""

    async def hook(applicant: Applicant) -> Verdict:
        if applicant.extension != b"tenant 7":
            return Rejected(RejectCode.UNAUTHORIZED, "no tenant of ours")
        return AuthorizedAgent(key_id=applicant.key_id, names=(Hostname("shop"),), label="tenant 7")

    async with house(tmp_path, authorize=hook) as home:
        agent, _ = await home.expose(greet, name="shop", cert_extension=b"tenant 7")
        assert await home.ask("shop.localhost") == b"shop.localhost"
        (opened,) = home.log.of(SessionOpened)
        assert (opened.agent_id, opened.label) == (agent.key.key_id.value, "tenant 7")
        assert opened.extension == b"tenant 7".hex()
        with pytest.raises(Rejected, match="no tenant of ours"):
            await run_agent(greet, home.agent_settings("another", cert_extension=b"tenant 8"))
        (refused,) = home.log.of(AgentRefused)
        assert (refused.code, refused.reason, refused.extension) == (
            "unauthorized",
            "no tenant of ours",
            b"tenant 8".hex(),
        )


async def test_where_it_says_nothing_the_list_decides(tmp_path: Path) -> None:
    known = IdentityKey.load_or_create(tmp_path / "known.key")
    (tmp_path / "agents").write_text(f"{known.key_id}\n")
    async with house(tmp_path, authorize=saying(None), authorized_agents=tmp_path / "agents") as home:
        await home.expose(greet, key_file=tmp_path / "known.key")
        with pytest.raises(Rejected) as refused:
            await run_agent(greet, home.agent_settings("stranger"))
        assert refused.value.code is RejectCode.UNAUTHORIZED


async def test_whom_it_authorises_needs_no_list_and_no_change_of_the_list_ends_it(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("")

    async def hook(applicant: Applicant) -> Verdict:
        return AuthorizedAgent(key_id=applicant.key_id)

    async with house(tmp_path, authorize=hook, authorized_agents=tmp_path / "agents") as home:
        agent, log = await home.expose(greet)
        (tmp_path / "agents").write_text(f"{OTHER}\n")
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()
        assert len(log.of(Connected)) == 1


async def test_one_session_is_judged_once(tmp_path: Path) -> None:
    """However many carriers it has; after it is lost, its next carrier is asked for nothing either."""
    asked: list[KeyId] = []

    async def hook(applicant: Applicant) -> Verdict:
        asked.append(applicant.key_id)
        return AuthorizedAgent(key_id=applicant.key_id)

    async with house(tmp_path, authorize=hook) as home:
        agent, log = await home.expose(greet)
        attachment = agent.supervisors[0].attachment
        assert attachment is not None
        attachment.link.abort("cut")
        await log.wait(Connected, 2)
        assert asked == [agent.key.key_id]


async def test_while_it_thinks_others_are_served_and_one_that_fails_ends_no_session(tmp_path: Path) -> None:
    thinking, refused = trio.Event(), Log()

    async def hook(applicant: Applicant) -> Verdict:
        if applicant.extension == b"slow":
            thinking.set()
            await trio.sleep_forever()
        if applicant.extension == b"bug":
            raise ZeroDivisionError
        return None

    async with house(tmp_path, authorize=hook) as home:
        agent, _ = await home.expose(greet)
        slow = home.agent_settings("slow", cert_extension=b"slow")
        bug = home.agent_settings("bug", cert_extension=b"bug")
        home.nursery.start_soon(run_agent, greet, slow)
        await thinking.wait()
        home.nursery.start_soon(lambda: run_agent(greet, bug, on_event=refused))
        told = await refused.wait(RejectedByRelay)
        assert told.code == "overloaded"
        assert told.retry_in is not None, "it may come back"
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()


async def test_an_invitation_of_an_agent_that_it_refuses_is_not_used(tmp_path: Path) -> None:
    """What the hook says comes first: nobody is put on the list who may not attach."""
    folder = tmp_path / "relay"
    folder.mkdir(mode=0o700)
    (folder / "agents").touch()
    refusing = raising(Rejected(RejectCode.UNAUTHORIZED, "no"))
    async with house(tmp_path, authorize=refusing, authorized_agents=folder / "agents") as home:
        join = invitation(home)
        settings = home.agent_settings(join=join.to_text(), relay_pin=join.relay, servers=(join.server,))
        with pytest.raises(Rejected, match="no"):
            await run_agent(greet, settings)
        assert (folder / "agents").read_text() == ""


def invitation(home: House) -> JoinString:
    """Make an invitation to the house's relay."""
    now = datetime.now(UTC).replace(microsecond=0)
    ends = now + timedelta(hours=1)
    secret = Invitations(home.settings.invitations_path).create(names=(), label="", expires=ends, now=now)[1]
    server = ServerAddress("localhost", home.relay.agents_port)
    return JoinString(server=server, relay=home.relay.relay_id, secret=secret, expires=ends, names=())


async def test_a_relay_that_begins_to_drain_meanwhile_takes_nobody_in(tmp_path: Path) -> None:
    """The drain was told to those that were there; one that came later would never hear of it."""
    asked, decided, log, gate = trio.Event(), trio.Event(), Log(), Gate()

    async def hook(applicant: Applicant) -> Verdict:
        if applicant.extension:
            asked.set()
            await decided.wait()
        return AuthorizedAgent(key_id=applicant.key_id)

    async with house(tmp_path, authorize=hook) as home:
        busy, _ = await home.expose(gate.serve)
        visitor = await home.visit(f"{busy.key.key_id}.localhost")
        await gate.entered.wait()
        late = home.agent_settings("late", cert_extension=b"late")
        home.nursery.start_soon(lambda: run_agent(greet, late, on_event=log))
        await asked.wait()
        home.relay.drain("enough")
        decided.set()
        assert (await log.wait(RejectedByRelay)).code == "draining"
        assert len(home.log.of(SessionOpened)) == 1
        visitor.abort()
