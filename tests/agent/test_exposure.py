"""A second endpoint beside the first: a key, an id, sessions and a certificate of its own, in one program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
import trio.testing

import trunnel
from tests.tunnels import PATIENCE, Gate, Log, greet, house, read_to_end
from trunnel.agent.exposure import Exposure, secondary_settings
from trunnel.agent.runner import run_agent
from trunnel.errors import RejectCode
from trunnel.events import Connected, Notice, Ready, RejectedByRelay, SessionOpened, Starting, Stopping
from trunnel.identity.keys import IdentityKey
from trunnel.identity.locking import lock_key
from trunnel.settings.agent import AgentSettings


async def test_both_endpoints_serve_their_own_names(tmp_path: Path) -> None:
    """Told apart by their ids, each with a certificate of its own; the relay sees each one's extension."""
    log = Log()
    async with house(tmp_path) as home:
        settings = home.agent_settings(
            secondary_key=tmp_path / "second.key", cert_extension=b"\x01", secondary_cert_extension=b"\x02"
        )
        async with trunnel.open_tunnel(greet, settings=settings, on_event=log) as tunnel:
            assert tunnel.secondary is not None
            with trio.fail_after(PATIENCE):
                await tunnel.secondary.wait_ready()
            ids = [tunnel.agent_id.value, tunnel.secondary.agent_id.value]
            assert tunnel.secondary.agent_id == IdentityKey.load(tmp_path / "second.key").key_id
            for agent_id in ids:
                hostname = f"{agent_id}.localhost"
                assert await home.ask(hostname) == hostname.encode()
            assert tunnel.urls == (f"https://{ids[0]}.localhost:{home.relay.visitors_port}",)
            assert tunnel.secondary.url == f"https://{ids[1]}.localhost:{home.relay.visitors_port}"
            assert tunnel.secondary.transport
        assert [event.agent_id for event in log.of(Starting)] == ids, "the first one first"
        assert {event.agent_id for event in log.of(Connected)} == set(ids)
        assert len({event.fingerprint for event in log.of(Ready)}) == 2
        told = {event.agent_id: event.extension for event in home.log.of(SessionOpened)}
        assert told == {ids[0]: "01", ids[1]: "02"}


async def test_the_second_may_have_another_origin(tmp_path: Path) -> None:
    async def call(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"the other one")

    async with house(tmp_path) as home, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, call, [listener])
        other = trunnel.Target(port=listener.socket.getsockname()[1])
        settings = home.agent_settings(secondary_key=tmp_path / "second.key", secondary_local=other)
        async with trunnel.open_tunnel(greet, settings=settings) as tunnel:
            assert tunnel.secondary is not None
            with trio.fail_after(PATIENCE):
                await tunnel.secondary.wait_ready()
            assert await home.ask(f"{tunnel.secondary.agent_id}.localhost") == b"the other one"
            hostname = f"{tunnel.agent_id}.localhost"
            assert await home.ask(hostname) == hostname.encode()
        nursery.cancel_scope.cancel()


async def test_both_keys_are_locked(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        both = home.agent_settings(secondary_key=tmp_path / "second.key")
        async with trunnel.open_tunnel(greet, settings=both):
            alone = home.agent_settings("elsewhere", key_file=tmp_path / "second.key")
            with pytest.raises(trunnel.AuthError, match="in use"):
                async with trunnel.open_tunnel(greet, settings=alone):
                    pytest.fail("the body ran")


@pytest.mark.parametrize("second", ["first.key", "copy.key"])
async def test_one_key_cannot_be_both(tmp_path: Path, second: str) -> None:
    """Nor a copy of it: the endpoints would replace each other at the relay for ever.  No lock is kept."""
    first = tmp_path / "first.key"
    key_id = IdentityKey.load_or_create(first).key_id
    if second == "copy.key":
        shutil.copy(first, tmp_path / second)
    settings = AgentSettings(state_dir=tmp_path, key_file=first, secondary_key=tmp_path / second)
    with pytest.raises(trunnel.ConfigError, match="is the key of the first endpoint") as refused:
        await run_agent(greet, settings)
    assert refused.value.key == "agent.secondary_key"
    assert IdentityKey.load(first).key_id == key_id
    with lock_key(first, purpose="test"):
        pass


async def test_a_drain_is_for_both(tmp_path: Path) -> None:
    gate, log = Gate(), Log()
    async with house(tmp_path) as home:
        settings = home.agent_settings(secondary_key=tmp_path / "second.key")
        async with trunnel.open_tunnel(gate.serve, settings=settings, on_event=log) as tunnel:
            assert tunnel.secondary is not None
            with trio.fail_after(PATIENCE):
                await tunnel.secondary.wait_ready()
                visitors = [await home.visit(f"{each.agent_id}.localhost") for each in (tunnel, tunnel.secondary)]
                for visitor in visitors:
                    assert await visitor.receive_some() == b"in"
                tunnel.drain("enough")
                gate.opened.set()
                for visitor in visitors:
                    assert await read_to_end(visitor) == b"out"
                with pytest.raises(trunnel.SessionClosed):
                    await tunnel.wait_closed()
        assert [event.reason for event in log.of(Stopping)] == ["enough"]


@pytest.mark.parametrize("refused", ["first", "second"])
async def test_one_that_is_refused_for_good_does_not_end_the_other(tmp_path: Path, refused: str) -> None:
    """It is told of; the program ends once both have."""
    log, listed = Log(), tmp_path / "agents"
    keys = {name: IdentityKey.load_or_create(tmp_path / f"{name}.key") for name in ("first", "second")}
    (welcome,) = keys.keys() - {refused}
    listed.write_text(f"{keys[welcome].key_id}\n")
    failure: list[trunnel.TrunnelError] = []
    async with house(tmp_path, authorized_agents=listed) as home, trio.open_nursery() as nursery:
        settings = home.agent_settings(key_file=tmp_path / "first.key", secondary_key=tmp_path / "second.key")

        async def run() -> None:
            try:
                await run_agent(greet, settings, on_event=log)
            except trunnel.TrunnelError as exc:
                failure.append(exc)

        nursery.start_soon(run)
        told = await log.wait(Notice)
        while told.code != "endpoint-ended":
            told = await log.wait(Notice, log.of(Notice).index(told) + 2)
        assert f"the {refused} endpoint ({keys[refused].key_id.short}) has ended" in told.text
        assert (await log.wait(RejectedByRelay)).agent_id == keys[refused].key_id.value
        await log.wait(Ready)
        hostname = f"{keys[welcome].key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()
        assert failure == []
        listed.write_text("# nobody\n")
        await log.wait(RejectedByRelay, 2)
        with trio.fail_after(PATIENCE):
            while not failure:
                await trio.testing.wait_all_tasks_blocked(0.001)
    assert isinstance(failure[0], trunnel.Rejected)
    assert failure[0].code is (RejectCode.UNAUTHORIZED if refused == "first" else RejectCode.REVOKED)


async def test_a_tunnel_whose_first_endpoint_is_refused_is_none(tmp_path: Path) -> None:
    """Before the body, although the second one could serve."""
    second = IdentityKey.load_or_create(tmp_path / "second.key")
    (tmp_path / "agents").write_text(f"{second.key_id}\n")
    async with house(tmp_path, authorized_agents=tmp_path / "agents") as home:
        settings = home.agent_settings(secondary_key=tmp_path / "second.key")
        with pytest.raises(trunnel.Rejected):
            async with trunnel.open_tunnel(greet, settings=settings):
                pytest.fail("the body ran")


def test_names_an_invitation_and_an_authority_are_for_the_first(tmp_path: Path) -> None:
    settings = AgentSettings(
        state_dir=tmp_path,
        name="blog",
        hostnames=(trunnel.Hostname("blog.example"),),
        acme=True,
        acme_email="a@example.org",
        cert_pem=tmp_path / "pair.pem",
        cert_extension=b"1",
        secondary_key=tmp_path / "second.key",
        secondary_local=trunnel.Target(port=4000),
        secondary_cert_extension=b"2",
        pool_size=2,
    )
    second = secondary_settings(settings)
    assert second == AgentSettings(
        state_dir=tmp_path, key_file=tmp_path / "second.key", cert_extension=b"2", pool_size=2
    )
    assert not second.acme_wanted
    assert secondary_settings(second) is None


@pytest.mark.parametrize("other", [None, trunnel.Target(port=4000)])
def test_tls_is_passed_through_to_the_service_that_speaks_it(tmp_path: Path, other: trunnel.Target | None) -> None:
    """Another one may not: the second endpoint's certificate is ours then."""
    settings = AgentSettings(
        state_dir=tmp_path, tls_passthrough=True, secondary_key=tmp_path / "second.key", secondary_local=other
    )
    second = secondary_settings(settings)
    assert second is not None
    assert second.tls_passthrough is (other is None)


async def test_one_that_ended_for_good_before_a_drain_is_no_failure_of_the_program(tmp_path: Path) -> None:
    """The other one was asked to stop, and did."""
    second, listed, log = IdentityKey.load_or_create(tmp_path / "second.key"), tmp_path / "agents", Log()
    listed.write_text(f"{second.key_id}\n")
    async with house(tmp_path, authorized_agents=listed) as home:
        settings = home.agent_settings(secondary_key=tmp_path / "second.key")
        ended = trio.Event()

        async def run(task_status: trio.TaskStatus[Exposure]) -> None:
            await run_agent(greet, settings, on_event=log, task_status=task_status)
            ended.set()

        exposure: Exposure = await home.nursery.start(run)
        await log.wait(Ready)
        await exposure.first_ended.wait()
        exposure.drain("enough")
        with trio.fail_after(PATIENCE):
            await ended.wait()
        assert isinstance(exposure.failure, trunnel.Rejected)
