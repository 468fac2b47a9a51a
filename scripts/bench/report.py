"""The report: a table on standard output, the same in Markdown, and every figure in JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.bench.judge import judge
from scripts.bench.plots import Bar, plot
from scripts.bench.scenarios import Sample, Scenario

GB = 1e9


@dataclass
class Run:
    """One run, as it is written down."""

    about: dict[str, str]
    """What ran where: version, date, machine, size."""
    scenarios: list[Scenario]
    samples: list[Sample] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Peers that are not there, and why."""
    notes: list[str] = field(default_factory=list)
    chapters: list[str] = field(default_factory=list)
    """Markdown of chapters that have a form of their own."""
    standing: dict[str, str] = field(default_factory=dict)
    """Titles of the scenarios that have figures of their own, by name."""

    def of(self, scenario: str) -> list[Sample]:
        """Return a scenario's samples."""
        return [sample for sample in self.samples if sample.scenario == scenario]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table whose columns are aligned in plain text, too."""
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return [line(every[0]), rule, *map(line, every[1:])]


def of_rate(value: float, unit: str) -> str:
    """Word a rate."""
    return f"{value / 1e6:,.0f} MB/s" if unit == "B/s" else f"{value:,.0f}{unit}"


def of_latency(seconds: float) -> str:
    """Word a latency."""
    return f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:,.1f} ms"


def cpu_of(samples: Sequence[Sample]) -> str:
    """Word the CPU time by role: seconds a GB for bulk, microseconds a request or connection otherwise."""
    roles = dict.fromkeys(role for sample in samples for role in sample.cpu)
    bulk = "bytes" in samples[0].figures and "count" not in samples[0].figures
    amount, scale = ("bytes", GB) if bulk else ("count", 1e6)
    words: list[str] = []
    for role in roles:
        each = [sample.cpu.get(role, 0.0) / sample.figures[amount] * scale for sample in samples]
        if statistics.median(each) > 0:
            words.append(f"{role} {statistics.median(each):.{2 if bulk else 0}f}")
    return ", ".join(words)


def row_of(scenario: Scenario, samples: Sequence[Sample]) -> list[str]:
    """Return one peer's line of a scenario; one failure, and it is the line."""
    peer = samples[0].peer
    failures = [sample.failure for sample in samples if sample.failure]
    if failures:
        return [peer, f"FAILED {len(failures)} of {len(samples)}", failures[0][:70], "", "", ""]
    rates = [sample.figures.get("rate", 0.0) for sample in samples]
    cells = [peer, "", "", "", "", cpu_of(samples) if scenario.unit else ""]
    if scenario.unit:
        cells[1] = of_rate(statistics.median(rates), scenario.unit)
        cells[2] = f"{of_rate(min(rates), scenario.unit)} to {of_rate(max(rates), scenario.unit)}"
    for column, share in ((3, "p50"), (4, "p99")):
        if share in samples[0].figures:
            cells[column] = of_latency(statistics.median(sample.figures[share] for sample in samples))
    return cells


def of_rates(run: Run, scenario: Scenario) -> list[str]:
    """Word one scenario that all peers did."""
    found = run.of(scenario.name)
    peers = dict.fromkeys(sample.peer for sample in found)
    rows = [row_of(scenario, [sample for sample in found if sample.peer == peer]) for peer in peers]
    head = ["peer", "median", "spread", "p50", "p99", "CPU s/GB" if scenario.unit == "B/s" else "CPU µs each"]
    return ["", f"## {scenario.title}", "", *table(head, rows)] if rows else []


def of_figures(run: Run, name: str, title: str) -> list[str]:
    """Word one scenario whose figures have names of their own; medians, where it was measured again."""
    lines: list[str] = []
    found = run.of(name)
    failures = [sample.failure for sample in found if sample.failure]
    good = [sample.figures for sample in found if not sample.failure]
    if failures:
        lines += [f"FAILED {len(failures)} of {len(found)}: {failures[0]}", ""]
    if good:
        rows = [[key, f"{statistics.median(each[key] for each in good):,.2f}"] for key in good[0]]
        lines += table(["figure", "median"], rows)
    return ["", f"## {title}", "", *lines] if lines else []


def markdown(run: Run) -> str:
    """Word the whole run."""
    lines = ["# trunnel beside others", "", *(f"- {name}: {words}" for name, words in run.about.items())]
    lines += [f"- skipped: {words}" for words in run.skipped]
    lines += [f"- {words}" for words in run.notes]
    for scenario in run.scenarios:
        lines += of_rates(run, scenario)
    for name, title in run.standing.items():
        lines += of_figures(run, name, title)
    lines += [line for chapter in run.chapters for line in ("", chapter)]
    if verdicts := judge(run.samples):
        head = ["what is asked", "against", "asked", "reach for", "measured", "verdict"]
        lines += ["", "## Judgement", "", *table(head, [list(asdict(each).values()) for each in verdicts])]
    return "\n".join(lines) + "\n"


def raw(run: Run) -> str:
    """Return every figure as JSON."""
    verdicts = [asdict(each) for each in judge(run.samples)]
    found = [asdict(sample) for sample in run.samples]
    return json.dumps(
        {"about": run.about, "skipped": run.skipped, "notes": run.notes, "samples": found, "judgement": verdicts},
        indent=1,
    )


def write(run: Run, folder: Path, stem: str) -> list[Path]:
    """Write Markdown and JSON; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / f"{stem}.md": markdown(run), folder / f"{stem}.json": raw(run)}
    for scenario in run.scenarios:
        bars = bars_of(scenario, run.of(scenario.name))
        if bars:
            texts[folder / f"{stem}-{scenario.name}.svg"] = plot(scenario.title, bars)
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


def bars_of(scenario: Scenario, samples: Sequence[Sample]) -> list[Bar]:
    """Return a bar for each peer that has figures: its rate, or its latency where that is what counts."""
    name = "rate" if scenario.unit else "p99"
    bars: list[Bar] = []
    for peer in dict.fromkeys(sample.peer for sample in samples):
        values = [sample.figures[name] for sample in samples if sample.peer == peer and name in sample.figures]
        if values:
            middle = statistics.median(values)
            label = of_rate(middle, scenario.unit) if scenario.unit else f"p99 {of_latency(middle)}"
            bars.append(Bar(peer, middle, min(values), max(values), label))
    return bars
