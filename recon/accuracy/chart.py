"""A line chart as an SVG drawing within a page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

#: Colours of the lines; they also differ in lightness.
COLOURS = ("#888888", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
WIDTH, HEIGHT, LEFT, RIGHT = 600, 240, 45, 190


def chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    ticks: Sequence[tuple[float, str]],
    bounds: tuple[float, float],
    unit: str,
    label: str,
    *,
    dots: bool = False,
) -> str:
    """SVG of named lines of points (x, y); the names are listed at the side in the same order.

    `ticks` are positions on the x axis and their labels, the first and last of them its ends; `bounds` are those of y,
    in `unit`; `label` describes the chart for screen readers.
    """
    low, high = bounds
    left, right = ticks[0][0], ticks[-1][0]

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, 15 + (high - min(max(y, low), high)) / (high - low) * (HEIGHT - 50)

    text = 'font-size="12" fill="currentColor"'
    out = [f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(label, True)}">']
    for x, said in ticks:
        across = at(x, low)[0]
        out.append(f'<text x="{across:.0f}" y="{HEIGHT - 15}" text-anchor="middle" {text}>{html.escape(said)}</text>')
    step = _step(high - low)
    for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        y = at(left, k * step)[1]
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".2"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end" {text}>{k * step:g}</text>')
    out.append(f'<text x="2" y="11" {text}>{html.escape(unit)}</text>')
    for n, (name, points) in enumerate(lines.items()):
        places = [at(*p) for p in points if left <= p[0] <= right]
        colour = COLOURS[n % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if dots:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = 22 + 17 * n
        out.append(f'<path d="M{WIDTH - RIGHT + 18} {y - 4}h16" stroke="{colour}" stroke-width="3"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 42}" y="{y}" {text}>{html.escape(name)}</text>')
    return "".join([*out, "</svg>"])


def _step(span: float) -> float:
    """A round distance between grid lines, of which at most eight fit."""
    size = 10.0 ** math.floor(math.log10(span / 8))
    return next(size * s for s in (1, 2, 5, 10) if span / (size * s) <= 8)
