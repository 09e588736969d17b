"""The growth curves as an SVG: seconds, calls and memory over the number of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from sandbox.bench.measure import Growth

WIDTH, HEIGHT = 260, 200
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 14, 34
GAP = 18


@dataclass(frozen=True, slots=True)
class _Curve:
    title: str
    points: Sequence[tuple[float, float]]


def growth_chart(growth: Sequence[Growth]) -> str:
    """One chart for each measure, on logarithmic scales: what grows in proportion is a straight diagonal."""
    sizes = [float(one.tick.subscriptions) for one in growth]
    measures = {
        "seconds of a tick": [one.tick.run.seconds for one in growth],
        "calls to Stripe and OpenMeter": [
            float(one.tick.calls.stripe_calls + one.tick.calls.openmeter_queries) for one in growth
        ],
        "most memory of a process, MB": [one.peak_mb for one in growth],
    }
    curves = [_Curve(title, list(zip(sizes, values, strict=True))) for title, values in measures.items()]
    charts = [_chart(curve, number * (WIDTH + GAP)) for number, curve in enumerate(curves)]
    width = len(curves) * (WIDTH + GAP) - GAP
    text = "; ".join(
        f"{curve.title}: " + ", ".join(f"{value:.4g} at {size:,.0f}" for size, value in curve.points)
        for curve in curves
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="10">\n<title>Growth with the number of subscriptions</title>\n'
        f"<desc>{text}</desc>\n"
        f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(charts) + "\n</svg>\n"
    )


def _chart(curve: _Curve, x: int) -> str:
    xs, ys = [size for size, _ in curve.points], [value for _, value in curve.points]
    low_x, high_x = _decades(xs)
    low_y, high_y = _decades(ys)
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(size: float) -> float:
        return LEFT + inner_width * (log10(size) - low_x) / (high_x - low_x)

    def down(value: float) -> float:
        return TOP + inner_height * (1 - (log10(value) - low_y) / (high_y - low_y))

    lines = [
        f'<g transform="translate({x} 0)">',
        f'<text x="{LEFT}" y="18" font-size="12">{curve.title}</text>',
    ]
    for decade in range(low_x, high_x + 1):
        at = across(10**decade)
        lines.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{10**decade:,}</text>')
    for decade in range(low_y, high_y + 1):
        at = down(10**decade)
        lines.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{at + 3:.1f}" text-anchor="end">{10.0**decade:,g}</text>')
    path = " ".join(f"{across(size):.1f},{down(value):.1f}" for size, value in curve.points)
    lines.append(f'<polyline points="{path}" fill="none" stroke="#2457a6" stroke-width="2"/>')
    for size, value in curve.points:
        lines.append(f'<circle cx="{across(size):.1f}" cy="{down(value):.1f}" r="3" fill="#2457a6"/>')
        label = f'<text x="{across(size):.1f}" y="{down(value) - 7:.1f}" text-anchor="middle" fill="#2457a6">'
        lines.append(f"{label}{value:,.3g}</text>" if value < 1000 else f"{label}{value:,.0f}</text>")
    return "\n".join([*lines, "</g>"])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around these values."""
    low = int(log10(min(values)) // 1)
    high = -int(-log10(max(values)) // 1)
    return low, max(high, low + 1)
