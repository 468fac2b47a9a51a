"""SEC-17: the authority's weekly limit is shared by all agents of a relay, and kept by it.

Agents with keys of their own attach one after the other and ask for permission
as an agent does before it orders.  The last one is a whole program, which is to
tell a person how long it waits; the relay is killed in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

import trunnel
from scripts.rows.lab import WAIT, Lab, free_port, laboratory
from scripts.rows.registry import Outcome, row
from trunnel.agent.exposure import Exposure
from trunnel.agent.permission import Questions
from trunnel.agent.runner import run_agent
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import DataChoice, TransportChoice
from trunnel.wire import control

SUFFIX = "t.example"
BUDGET = limits.ISSUANCES_PER_WEEK
NEW = int(BUDGET * limits.ISSUANCE_SHARE)
"""How many of them new names may use."""
FAILED = 3
"""Orders that come to nothing among those."""
WEEK = limits.ISSUANCE_WINDOW
SLACK = 600.0
"""Seconds of a week by which what is told may be less: the row takes a while."""


async def serve(stream: trio.abc.HalfCloseableStream, _: trunnel.VisitorInfo) -> None:
    """Serve nobody."""
    await stream.aclose()


@asynccontextmanager
async def attached(lab: Lab, label: str) -> AsyncIterator[tuple[Questions, Hostname]]:
    """Run an agent with a key of its own while the body runs; yields how it asks, and the name that it was given."""
    settings = trunnel.AgentSettings(
        state_dir=lab.folder / "agents" / label,
        servers=(ServerAddress("127.0.0.1", lab.agents_port),),
        tls_passthrough=True,
        transport=TransportChoice.H2,
        data=DataChoice.SESSION,
    )
    async with trio.open_nursery() as nursery:
        agent: Exposure = await nursery.start(partial(run_agent, serve, settings))
        with trio.fail_after(WAIT):
            await agent.ready.wait()
        attachment = agent.supervisors[0].attachment
        if attachment is None:
            raise ConnectionError("the agent is ready and has no session")
        yield attachment.questions, Hostname(agent.ready_events[0].hostname)
        nursery.cancel_scope.cancel()


async def ask(lab: Lab, label: str, *, renewal: bool = False, issued: bool = True) -> control.Issuance:
    """Have an agent ask, and say what came of it."""
    async with attached(lab, label) as (questions, name):
        answer = await questions.may_issue([name], renewal=renewal)
        if answer is None:
            raise ConnectionError("the relay did not answer")
        if not answer.wait:
            questions.ended(answer, issued=issued)
            await questions.may_issue([Hostname("not.mine.example")], renewal=True)  # so the relay has heard it
        return answer


def until_next_week(answer: control.Issuance) -> bool:
    """Whether an answer says to wait for the oldest certificate to leave the week."""
    return WEEK - SLACK < answer.wait <= WEEK and "for all agents together" in answer.reason


async def restart(lab: Lab) -> None:
    """Kill the relay, and start it again on its ports."""
    await lab.relay.kill()
    ports = ("--api-port", str(lab.agents_port), "--pub-port", str(lab.visitors_port))
    lab.relay = lab.spawn("serve", *ports, "--state-dir", str(lab.folder / "relay"), "--domain-suffix", SUFFIX)
    await lab.relay.event("listening")


@row(
    "SEC-17",
    limit=f"one domain, {BUDGET} a week, an agent each: {NEW} new names, {BUDGET - NEW} renewals, then nobody; failed "
    "orders given back; the next one is told when, by program and event, and the same after kill -9 of the relay",
)
async def budget() -> Outcome:
    """Use the budget up, and ask on."""
    async with laboratory() as lab:
        await lab.start_relay("--domain-suffix", SUFFIX)
        failed = [await ask(lab, f"failed{number}", issued=False) for number in range(FAILED)]
        new = [await ask(lab, f"new{number}") for number in range(NEW)]
        more = await ask(lab, "more")
        renewals = [await ask(lab, f"old{number}", renewal=True) for number in range(BUDGET - NEW)]
        beyond = await ask(lab, "beyond", renewal=True)
        await restart(lab)
        later = await ask(lab, "beyond", renewal=True)
        nowhere = f"https://127.0.0.1:{free_port()}/directory"
        agent = await lab.start_agent(await lab.start_origin(), "--acme-directory", nowhere)
        told = await agent.program.event("certificate", state="waiting")
    given = sum(not answer.wait for answer in (*failed, *new, *renewals))
    refused = [more, beyond, later]
    hours = float(str(told["retry_in"])) / 3600
    passed = given == FAILED + BUDGET and all(map(until_next_week, refused)) and "all agents together" in str(told)
    passed = passed and hours > (WEEK - SLACK) / 3600
    return Outcome(
        passed=passed,
        figure=f"{given} permitted, {FAILED} of them given back; number {NEW + 1} of new names, number {BUDGET + 1} of "
        f"all, and the same after the restart wait {', '.join(f'{each.wait / 3600:.1f}' for each in refused)} h; "
        f"the program says: {told['reason']} (again in {hours:.1f} h)",
    )
