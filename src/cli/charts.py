"""Usage as a chart: inline SVG that needs no script, loads nothing, and can be read aloud."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as ET

import pygal
from pygal.style import Style

from cli.evidence import LineEvidence
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.windows import DAY, HOUR

METERED_COLOUR = "#0b5cad"
BILLED_COLOUR = "#e08a00"
"""Apart in lightness, too: they can be told apart on paper, and by whoever sees no colours."""

BY_HOUR_UP_TO = 3 * DAY
"""Longer times are shown by day."""

_SVG = "http://www.w3.org/2000/svg"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_STYLE_OPTIONS: dict[str, Any] = {
    "background": "transparent",
    "plot_background": "transparent",
    "foreground": "#333333",
    "foreground_strong": "#111111",
    "foreground_subtle": "#666666",
    "guide_stroke_color": "#cccccc",
    "major_guide_stroke_color": "#999999",
    "colors": (METERED_COLOUR, BILLED_COLOUR),
    "opacity": "1",
    "opacity_hover": "1",
    "transition": "0",
    "font_family": _FONT,
    "label_font_size": 13,
    "major_label_font_size": 13,
    "legend_font_size": 15,
}
_STYLE = Style(**_STYLE_OPTIONS)

_COUNTS_STYLE = Style(
    **{**_STYLE_OPTIONS, "colors": (METERED_COLOUR, "#e08a00", "#f3d27a", "#a4161a", "#3b0a0b")}
)
"""From light to dark: they can be told apart without colours, too."""

ET.register_namespace("", _SVG)


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """What was metered and billed in [start, end), UTC seconds; in units."""

    start: int
    end: int
    metered: Decimal
    billed: Decimal

    @property
    def name(self) -> str:
        """The day, or the hour, in UTC."""
        form = "%Y-%m-%d" if self.end - self.start >= DAY else "%Y-%m-%d %H:%M"
        return datetime.fromtimestamp(self.start, UTC).strftime(form)

    @property
    def label(self) -> str:
        """The name, short enough to stand below a bar."""
        form = "%d %b" if self.end - self.start >= DAY else "%d %b %H:%M"
        return datetime.fromtimestamp(self.start, UTC).strftime(form)


def usage_points(line: LineEvidence) -> list[UsagePoint]:
    """A line's usage by UTC day, or by hour where its time is short; also days and hours without any.

    Billed of an hour is what Stripe holds of it, and where that is not known what was sent.
    """
    step = HOUR if line.end - line.start <= BY_HOUR_UP_TO else DAY
    metered: dict[int, Decimal] = defaultdict(Decimal)
    billed: dict[int, Decimal] = defaultdict(Decimal)
    for piece in line.slices:
        if piece.is_in_line:
            at = piece.start - piece.start % step
            metered[at] += piece.metered or ZERO
            billed[at] += (piece.sent if piece.held is None else piece.held) or ZERO
    if not metered:
        return []
    return [
        UsagePoint(at, at + step, metered[at], billed[at])
        for at in range(line.start - line.start % step, max(metered) + 1, step)
    ]


def usage_chart(
    points: Sequence[UsagePoint], *, title: str, description: str = "", second: str = "billed"
) -> str:
    """Metered and billed side by side as an inline SVG element; a table of the same must stand beside it.

    `second`: what the second bar is called.
    """
    chart = _bars(pygal.Bar, [point.label for point in points], _STYLE, series=2)
    chart.add("metered", [float(point.metered) for point in points])
    chart.add(second, [float(point.billed) for point in points])
    said = description or (
        f"{len(points)} pairs of bars, metered beside {second}; in all {_sum(points, 'metered')} units "
        f"metered and {_sum(points, 'billed')} units {second}. The table has the same numbers."
    )
    return _accessible(chart.render_tree(), title, said)


def counts_chart(labels: Sequence[str], counts: Mapping[str, Sequence[int]], *, title: str) -> str:
    """Counts by name on top of each other, as an SVG; a table of the same must stand beside it."""
    chart = _bars(pygal.StackedBar, labels, _COUNTS_STYLE, series=len(counts))
    for name, numbers in counts.items():
        chart.add(name, list(numbers))
    sums = ", ".join(f"{sum(numbers)} {name}" for name, numbers in counts.items())
    said = f"{len(labels)} bars; in all {sums}. The table has the same numbers."
    return _accessible(chart.render_tree(), title, said)


def _bars(kind: Any, labels: Sequence[str], style: Style, *, series: int) -> Any:
    chart = kind(
        style=style,
        js=[],
        width=960,
        height=320,
        show_legend=True,
        legend_at_bottom=True,
        legend_at_bottom_columns=series,
        x_label_rotation=60 if len(labels) > 8 else 0,
        x_labels_major_every=max(1, len(labels) // 16),
        show_minor_x_labels=len(labels) <= 16,
        margin=8,
        include_x_axis=True,
        no_data_text="no usage",
        formatter=lambda value: f"{value:,.9f}".rstrip("0").rstrip("."),
    )
    chart.x_labels = list(labels)
    return chart


def _sum(points: Sequence[UsagePoint], name: str) -> str:
    return to_wire(sum((getattr(point, name) for point in points), ZERO))


def _accessible(tree: ET.Element, title: str, description: str) -> str:
    """The drawing without scripts and what only these would show, with a name and a description."""
    for parent in list(tree.iter()):
        for child in list(parent):
            is_comment = not isinstance(child.tag, str)
            if is_comment or _is(child, "script") or _is_for_scripts(child):
                parent.remove(child)
            else:
                child.attrib.pop("id", None)  # for scripts, and the same in each chart of a page
    for child in list(tree):
        if _is(child, "title") or _is(child, "desc"):
            tree.remove(child)
    number = uuid.uuid4().hex[:12]
    tree.set("role", "img")
    tree.set("aria-labelledby", f"title-{number} desc-{number}")
    for place, (name, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(name, {"id": f"{name}-{number}"})
        element.text = text
        tree.insert(place, element)
    return ET.tostring(tree, encoding="unicode")


def _is(element: ET.Element, name: str) -> bool:
    return element.tag in {name, f"{{{_SVG}}}{name}"}


def _is_for_scripts(element: ET.Element) -> bool:
    """Whether it is hidden until a script shows it."""
    classes = set((element.get("class") or "").split())
    return bool(classes & {"tooltip", "tooltip-overlay"}) or (_is(element, "desc") and bool(classes))
