"""What the benchmark makes of its figures: ratios of one round, verdicts, tables, plots."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from scripts.bench import report
from scripts.bench.judge import ASKED, OURS, TIMES, judge
from scripts.bench.plots import Bar, plot
from scripts.bench.scenarios import SCENARIOS, STEP, Sample, amount_of, chosen

MEASURED = {"rate": 100.0, "p50": 0.001, "p99": 0.002, "bytes": 1e9}


def sample(scenario: str, peer: str, number: int = 0, failure: str = "", **figures: float) -> Sample:
    return Sample(scenario, peer, number, {} if failure else {**MEASURED, **figures}, {}, failure)


def verdict(samples: list[Sample], title: str) -> tuple[str, str]:
    found = [each for each in judge(samples) if each.title == title]
    assert len(found) == 1, found
    return found[0].measured, found[0].verdict


@pytest.mark.parametrize(("rate", "said"), [(150.0, "reached"), (120.0, "met"), (119.0, "MISSED")])
def test_a_rate_is_judged_by_its_ratio(rate: float, said: str) -> None:
    samples = [sample("down-1", "haproxy"), sample("down-1", OURS, rate=rate)]
    assert verdict(samples, "bulk down, passed through, 1 stream") == (f"{rate / 100:.2f} {TIMES}", said)


def test_a_ratio_is_that_of_one_round_and_the_median_of_rounds_counts() -> None:
    """Three rounds on a machine that grows slower: each ratio is 1.0, the medians of rates say nothing."""
    rates = [(100.0, 100.0), (10.0, 10.0), (1.0, 3.0)]
    samples = [
        sample("down-8", peer, number, rate=pair[place])
        for number, pair in enumerate(rates)
        for place, peer in enumerate((OURS, "haproxy"))
    ]
    measured, said = verdict(samples, "bulk down, 8 streams")
    assert measured == f"1.00 {TIMES} (0.33 to 1.00)"
    assert said == "met"


def test_an_added_latency_is_what_a_hop_adds_to_none() -> None:
    samples = [
        sample("request-1", "none", p50=0.010),
        sample("request-1", "haproxy", p50=0.020),
        sample("request-1", OURS, p50=0.035),
    ]
    assert verdict(samples, "added p50 of a request, 1 connection") == (f"2.50 {TIMES}", "met")


def test_one_failed_stream_fails_the_line_whatever_the_other_rounds_say() -> None:
    samples = [
        *(sample("connect", peer, number) for peer in ("haproxy", "ssh") for number in range(3)),
        *(sample("connect", OURS, number, rate=1000.0) for number in range(2)),
        sample("connect", OURS, 2, failure="1 streams failed"),
    ]
    assert {each.verdict for each in judge(samples)} == {"FAILED"}


def test_cpu_is_that_of_the_relay_and_its_workers_and_a_smaller_one_is_better() -> None:
    ours = Sample("down-1", OURS, 0, dict(MEASURED), {"relay": 0.1, "relay workers": 0.3, "agent": 9.0})
    theirs = Sample("down-1", "haproxy", 0, dict(MEASURED), {"haproxy": 0.5})
    assert verdict([ours, theirs], "relay CPU per GB") == (f"0.80 {TIMES}", "met")


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge([sample("down-1", OURS)]) == []


def test_each_line_that_is_asked_has_bounds_in_order() -> None:
    for line in ASKED:
        assert line.asked >= line.reach if line.most else line.asked <= line.reach, line.title


def test_a_failure_stands_in_the_table_instead_of_a_figure() -> None:
    run = report.Run({}, [each for each in SCENARIOS if each.name == "connect"])
    run.samples = [sample("connect", "haproxy"), sample("connect", OURS, failure="1 streams failed")]
    text = report.markdown(run)
    assert "| FAILED 1 of 1 |" in text
    assert "1 streams failed" in text
    assert report.raw(run).count('"failure": "1 streams failed"') == 1


def test_a_plot_is_well_formed_and_has_a_bar_for_each_peer() -> None:
    drawn = ET.fromstring(plot("a < b", [Bar("none", 2.0, 1.0, 3.0, "2/s"), Bar(OURS, 1.0, 1.0, 1.0, "1/s")]))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}path")) == 2


def test_scenarios_are_chosen_by_name_or_by_a_part_of_names() -> None:
    def names(*only: str, quick: bool = False) -> list[str]:
        return [each.name for each in chosen(SCENARIOS, only, quick=quick)]

    assert names("connect") == ["connect"], "a name that is one is not a part of others"
    assert names("agent-") == ["agent-bulk", "agent-request", "agent-connect"]
    assert "up-8" in names()
    assert "up-8" not in names(quick=True)


def test_amounts_are_whole_steps_so_that_streams_have_equal_shares() -> None:
    assert amount_of(rate=1e9, seconds=1.0) % STEP == 0
    assert amount_of(rate=1.0, seconds=1.0) >= STEP, "the slowest peer moves something"
