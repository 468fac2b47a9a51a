"""A scenario as bars, in SVG: the median of each peer, and a line from the least to the greatest of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 760, 190, 130
ROW, BAR, TOP = 28, 16, 44
OURS, OTHERS, SPREAD = "#1a6", "#89a", "#222"
STYLE = "text{font:13px sans-serif;fill:#222}"


@dataclass(frozen=True)
class Bar:
    """One peer."""

    peer: str
    median: float
    least: float
    greatest: float
    label: str


def plot(title: str, bars: Sequence[Bar]) -> str:
    """Draw bars to one scale that begins at 0."""
    height = TOP + ROW * len(bars) + 8
    scale = (WIDTH - LEFT - RIGHT) / (max(bar.greatest for bar in bars) or 1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="24" font-weight="bold">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = TOP + ROW * number
        middle = top + BAR / 2
        colour = OURS if bar.peer.startswith("trunnel") else OTHERS
        least, greatest = (LEFT + scale * value for value in (bar.least, bar.greatest))
        lines += [
            f'<text x="{LEFT - 8}" y="{middle + 5:.0f}" text-anchor="end">{escape(bar.peer)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{scale * bar.median:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{least:.1f} {middle}H{greatest:.1f}" stroke="{SPREAD}" stroke-width="2"/>',
            f'<text x="{greatest + 8:.1f}" y="{middle + 5:.0f}">{escape(bar.label)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
