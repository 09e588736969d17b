"""Charts as images: a drawing has styles of its own, which this page's policy takes in an image alone."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from datetime import UTC, datetime

from cli.charts import UsagePoint, counts_chart, usage_chart, usage_points
from cli.desk.traffic import STATES, SendsOfHour, UsageOfDay
from cli.evidence import LineEvidence
from usage_reporting.model import Target
from usage_reporting.windows import DAY

Points = tuple[UsagePoint, ...]


def day_points(days: Sequence[UsageOfDay]) -> Points:
    """Days as a chart takes them."""
    return tuple(UsagePoint(day.start, day.start + DAY, day.metered, day.told) for day in days)


def points_of(line: LineEvidence) -> Points:
    """The usage of an invoice's line as a chart takes it; none where only the total means anything."""
    return tuple(usage_points(line)) if line.target is Target.MIRROR else ()


@functools.lru_cache(maxsize=64)
def usage_drawing(points: Points, title: str, second: str) -> str:
    """Metered beside something, as the address of an image. The same data has the same address."""
    return _address(usage_chart(points, title=title, second=second))


def sends_drawing(hours: Sequence[SendsOfHour]) -> str:
    """The sends by hour, as the address of an image."""
    counted = tuple(tuple(hour.counts.get(state, 0) for state in STATES) for hour in hours)
    labels = tuple(datetime.fromtimestamp(hour.start, UTC).strftime("%d %b %H:%M") for hour in hours)
    return _sends_drawing(labels, counted)


@functools.lru_cache(maxsize=8)
def _sends_drawing(labels: tuple[str, ...], counted: tuple[tuple[int, ...], ...]) -> str:
    by_state = {state: [of_hour[place] for of_hour in counted] for place, state in enumerate(STATES)}
    return _address(counts_chart(labels, by_state, title="Meter events by hour"))


def _address(drawing: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()
