"""Rows about an agent's life: twice the same key, revocation, drain, a dead origin."""

from __future__ import annotations

import shutil
import ssl
import sys
from contextlib import suppress

import trio

from scripts.rows.identity import exit_of
from scripts.rows.lab import WAIT, Agent, Lab, free_port, laboratory
from scripts.rows.registry import Outcome, row

TRUNNEL = [sys.executable, "-m", "trunnel"]
REPLACED_WAIT = 60.0
CLOSED_LIMIT = 5.0
ARRIVALS = 2.5
"""Seconds in which 200 slow requests get under way."""


async def refused_within(lab: Lab, agent: Agent, limit: float) -> float:
    """Visit until a visit fails; returns the seconds until then."""
    begun = trio.current_time()
    with trio.move_on_after(limit):
        while True:
            try:
                with trio.fail_after(limit):
                    await lab.visit(agent)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError):
                return trio.current_time() - begun
            await trio.sleep(0.02)
    return limit


@row("CONS-02", limit="the newer wins, gap ≤ 1 s; the older is told where from and waits ≥ 60 s; --share spreads")
async def same_key_twice() -> Outcome:
    """One key on two machines; then both with --share."""
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        old = await lab.start_agent(origin, name="old")
        canary = await lab.start_canary(old)
        await trio.sleep(1)
        await clone_state(lab, "old", "new")
        failures = canary.failures
        new = await lab.start_agent(origin, name="new")
        rejected = await old.program.event("rejected")
        await trio.sleep(3)
        gap = (canary.failures - failures) * 0.05
        switched = lab.relay.count("session_opened")
        retry_in = rejected["retry_in"]
        told = "127.0.0.1" in str(rejected["reason"]) and rejected["code"] == "replaced"
        waits = isinstance(retry_in, float) and retry_in >= REPLACED_WAIT
        same_name = new.hostname == old.hostname
    shared = await both_share()
    figure = (
        f"told {rejected['code']!r} with where from: {told}, retry in {retry_in} s, gap {gap:.2f} s, "
        f"{switched} sessions in all; shared visits {shared[0]}/{shared[1]}"
    )
    return Outcome(told and waits and same_name and gap <= 1.0 and switched == 2 and min(shared) >= 8, figure)


async def clone_state(lab: Lab, source: str, copy: str) -> None:
    """Copy an agent's state to another folder, as a cloned machine would have it."""

    def copy_tree() -> None:
        shutil.copytree(lab.folder / source, lab.folder / copy, ignore=shutil.ignore_patterns("*.lock"))

    await trio.to_thread.run_sync(copy_tree)


async def both_share() -> tuple[int, int]:
    """Return how 20 held visits are spread over two agents that share a key."""
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        first = await lab.start_agent(origin, "--share", name="first")
        await clone_state(lab, "first", "second")
        second = await lab.start_agent(origin, "--share", name="second")
        return await spread(lab, first, second)


async def spread(lab: Lab, first: Agent, second: Agent) -> tuple[int, int]:
    """Visit 20 times without judging the leaf, and count by the agents' closing records."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for _ in range(20):
        tls = trio.SSLStream(await lab.connect(), context, server_hostname=first.hostname, https_compatible=True)
        async with tls:
            await tls.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while await tls.receive_some(65536):
                pass
    await trio.sleep(0.5)
    counts = [
        sum(event["event"] == "stream_closed" and event["bytes_out"] != 0 for event in agent.program.events)
        for agent in (first, second)
    ]
    return counts[0], counts[1]


@row("CONS-03", limit="new streams refused ≤ 1 s, existing closed ≤ 5 s, survives a relay restart; exit status 4")
async def revocation() -> Outcome:
    """`trunnel revoke` during traffic."""
    async with laboratory() as lab:
        listed = lab.folder / "authorized"
        state = lab.folder / "agent"
        state.mkdir(mode=0o700)
        identity = await trio.run_process(
            [*TRUNNEL, "id", "--state-dir", str(state)], capture_stdout=True, capture_stderr=True
        )
        key_id = identity.stdout.decode().split()[0]
        listed.write_text(f"{key_id} # laptop\n")
        await lab.start_relay("--authorized-agents", str(listed))
        agent = await lab.start_agent(await lab.start_origin())
        closed = float("inf")
        gone = trio.Event()

        async def slow_visitor() -> None:
            nonlocal closed
            with suppress(OSError, trio.BrokenResourceError):
                await lab.visit(agent, path="/slow/60")
            closed = trio.current_time()
            gone.set()

        lab.nursery.start_soon(slow_visitor)
        await trio.sleep(0.5)
        begun = trio.current_time()
        await trio.run_process(
            [*TRUNNEL, "revoke", key_id, "--authorized-agents", str(listed)], capture_stdout=True, capture_stderr=True
        )
        commanded = trio.current_time() - begun
        revoked = trio.current_time()
        refused = await refused_within(lab, agent, 5.0)
        with trio.move_on_after(2 * CLOSED_LIMIT):
            await gone.wait()
        rejected = await agent.program.event("rejected")
        with trio.fail_after(WAIT):
            status = await agent.program.wait()
        await lab.relay.stop()
        await lab.start_relay("--authorized-agents", str(listed))
        again = await exit_of(lab, free_port(), state="agent")
        ended = closed - revoked
        figure = (
            f"refused after {refused:.2f} s, stream closed after {ended:.2f} s, agent told {rejected['code']!r} "
            f"and exited with {status}, after a relay restart with {again} (the command took {commanded:.2f} s)"
        )
        told = rejected["code"] == "revoked" and status == again == 4
        return Outcome(refused <= 1.0 and ended <= CLOSED_LIMIT and told, figure)


@row("HOST-01", limit="stops accepting ≤ 100 ms, requests in flight finish, exit ≤ grace + 1 s; at once when idle")
async def drain() -> Outcome:
    """SIGTERM with 200 requests of 0.1 to 8 s under way; SIGTERM when idle; a second SIGTERM."""
    grace = 12.0
    async with laboratory() as lab:
        await lab.start_relay("--drain-grace", str(grace))
        agent = await lab.start_agent(await lab.start_origin())
        finished: list[bool] = []

        async def request(number: int) -> None:
            try:
                await lab.visit(agent, path=f"/slow/{0.1 + 8 * number / 200:.2f}", source=f"127.0.5.{number % 20 + 1}")
                finished.append(True)
            except (OSError, trio.BrokenResourceError):
                finished.append(False)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(request, number)
            await trio.sleep(ARRIVALS)
            lab.relay.process.terminate()
            begun = trio.current_time()
            refused_after = await refuses(lab)
        with trio.fail_after(WAIT):
            status = await lab.relay.wait()
        took = trio.current_time() - begun
    idle, forced = await idle_and_forced()
    figure = (
        f"refusing after {1000 * refused_after:.0f} ms, {sum(finished)}/200 finished, exit {status} in {took:.1f} s, "
        f"idle exit after {idle:.2f} s, second signal {forced[0]} after {forced[1]:.2f} s"
    )
    good = sum(finished) == len(finished) and status == 0 and took <= grace + 1 and refused_after <= 0.1
    return Outcome(good and idle <= 1.0 and forced[0] == 143 and forced[1] <= 1.0, figure)


async def refuses(lab: Lab) -> float:
    """Return the seconds until a new connection is refused."""
    begun = trio.current_time()
    while True:
        try:
            stream = await lab.connect()
        except OSError:
            return trio.current_time() - begun
        await trio.aclose_forcefully(stream)
        await trio.sleep(0.002)


async def idle_and_forced() -> tuple[float, tuple[int, float]]:
    """Return how long an idle relay takes to stop, and a busy one told twice."""
    async with laboratory() as lab:
        await lab.start_relay()
        await lab.start_agent(await lab.start_origin())
        begun = trio.current_time()
        await lab.relay.stop()
        idle = trio.current_time() - begun
    async with laboratory() as lab:
        await lab.start_relay()
        agent = await lab.start_agent(await lab.start_origin())

        async def slow() -> None:
            try:
                await lab.visit(agent, path="/slow/30")
            except (OSError, trio.BrokenResourceError):
                return

        lab.nursery.start_soon(slow)
        await trio.sleep(0.5)
        lab.relay.process.terminate()
        await lab.relay.event("draining")
        begun = trio.current_time()
        status = await lab.relay.stop()
        return idle, (128 + 15 if status == -15 else status, trio.current_time() - begun)


@row("HOST-11", limit="refusing ≤ 100 ms, hanging ≤ 5.1 s: the visitor is answered; the agent survives and recovers")
async def dead_origin() -> Outcome:
    """An origin that refuses, one that never accepts, and its return."""
    async with laboratory() as lab:
        await lab.start_relay()
        port = free_port()
        agent = await lab.start_agent(port)
        begun = trio.current_time()
        refused = await page_of(lab, agent)
        refusing = trio.current_time() - begun
        hang = trio.socket.socket()
        await hang.bind(("127.0.0.1", 0))
        hang.listen(0)
        hung_port = hang.getsockname()[1]
        fillers = [await trio.open_tcp_stream("127.0.0.1", hung_port) for _ in range(1)]
        hung_agent = await lab.start_agent(hung_port, name="hung")
        begun = trio.current_time()
        answer = await page_of(lab, hung_agent)
        hanging = trio.current_time() - begun
        for filler in fillers:
            await trio.aclose_forcefully(filler)
        hang.close()
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")

        async def origin(stream: trio.SocketStream) -> None:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await stream.send_eof()

        lab.nursery.start_soon(trio.serve_listeners, origin, listeners)
        recovered = await lab.visit(agent) == b"ok"
        alive = agent.program.process.poll() is None and hung_agent.program.process.poll() is None
        figure = (
            f"refusing: {refused} after {1000 * refusing:.0f} ms, hanging: {answer} after {hanging:.2f} s, "
            f"recovered {recovered}, agents alive {alive}"
        )
        good = refused == answer == "502" and refusing <= 0.1 and hanging <= 5.1
        return Outcome(good and recovered and alive, figure)


async def page_of(lab: Lab, agent: Agent) -> str:
    """Return the status code that a visitor gets."""
    try:
        await lab.visit(agent)
    except ConnectionError as exc:
        return str(exc).split()[1]
    return "200"
