"""The exam of the pump: FIN, RST, stall and resume on both sides, in any order and any split, both ways."""

from __future__ import annotations

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.pump.stage import both_ways, hired, pattern, read_exactly, stage
from tests.pump.tenants import SIZES, Step, play
from trunnel.pump import Workers

SIDE = st.sampled_from((0, 1))
STEPS = st.one_of(
    st.builds(Step, SIDE, st.just("send"), st.sampled_from(SIZES)),
    st.builds(Step, SIDE, st.sampled_from(["stall", "resume", "wait", "drain"]), st.just(0)),
    st.builds(Step, SIDE, st.sampled_from(["fin", "reset"]), st.just(0)),
)
SCRIPTS = st.lists(STEPS, max_size=12)
ALL_STEPS = st.one_of(STEPS, STEPS, STEPS, st.builds(Step, SIDE, st.just("cancel"), st.just(0)))
STUCK_THEN_RESET = [Step(1, "stall"), Step(0, "send", 700_000), Step(0, "wait"), Step(0, "reset"), Step(1, "send", 1)]
ENDED_THEN_RESET = [Step(1, "send", 700_000), Step(1, "fin"), Step(0, "drain"), Step(1, "reset"), Step(0, "send", 100)]
RESET_MEETS_WRITER = [Step(0, "send", 100), Step(1, "drain"), Step(1, "reset"), Step(0, "send", 16_385)]
CUT_MID_PIPE = [Step(1, "stall"), Step(0, "send", 700_000), Step(0, "wait"), Step(0, "cancel")]


@both_ways
def test_any_conversation_arrives_exactly_and_ends_as_it_ended(way: str) -> None:
    """Two tenants and a canary at a time, one worker for all: no foreign byte, no end that is none."""

    async def perform(workers: Workers | None, scripts: list[list[Step]]) -> None:
        async with stage(workers) as birdcage, trio.open_nursery() as nursery:
            for tenant, script in enumerate(scripts, start=1):
                nursery.start_soon(play, script, tenant, workers)
            while len(nursery.child_tasks) > 0:
                for near, far in ((birdcage.visitor, birdcage.origin), (birdcage.origin, birdcage.visitor)):
                    song = pattern(99, 40_000)
                    await near.send_all(song)
                    assert await read_exactly(far, len(song)) == song

    async def examine() -> None:
        async with hired(way) as workers:

            @settings(suppress_health_check=list(HealthCheck))
            @example(scripts=[STUCK_THEN_RESET, ENDED_THEN_RESET])
            @example(scripts=[RESET_MEETS_WRITER, RESET_MEETS_WRITER])
            @example(scripts=[CUT_MID_PIPE, STUCK_THEN_RESET])
            @given(scripts=st.tuples(SCRIPTS, st.lists(ALL_STEPS, max_size=12)).map(list))
            def every(scripts: list[list[Step]]) -> None:
                trio.from_thread.run(perform, workers, scripts)

            await trio.to_thread.run_sync(every)

    trio.run(examine)
