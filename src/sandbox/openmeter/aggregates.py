"""The seven aggregations, in float64 as ClickHouse computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.openmeter.values import Path, number_at, text_at

if TYPE_CHECKING:
    from sandbox.openmeter.cloudevents import Event


@dataclass(slots=True)
class Aggregate:
    """What is known of a set of events; two disjoint ones can be merged.

    `first` and `last` are the times of the earliest and the latest event (UTC unix seconds); `texts` is
    there for UNIQUE_COUNT alone, because each stored hour of each subject has an aggregate.
    """

    aggregation: str
    path: Path | None
    events: int = 0
    numbers: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    latest: tuple[int, float] = (-1, 0.0)
    first: int = 0
    last: int = 0
    texts: set[str] | None = None

    def add(self, event: Event) -> None:
        """Count one event."""
        time = event.time
        if not self.events or time < self.first:
            self.first = time
        self.last = max(self.last, time)
        self.events += 1
        if self.path is None:
            return
        if self.aggregation == "UNIQUE_COUNT":
            self.texts = self.texts or set()
            self.texts.add(text_at(event.data, self.path))
            return
        number = number_at(event.data, self.path)
        if number is None:
            return
        self.numbers += 1
        self.total += number
        self.least = min(self.least, number)
        self.most = max(self.most, number)
        if time > self.latest[0]:
            self.latest = (time, number)

    def merge(self, other: Aggregate) -> None:
        """Count the events of another aggregate of the same kind."""
        if not other.events:
            return
        self.first = min(self.first, other.first) if self.events else other.first
        self.last = max(self.last, other.last)
        self.events += other.events
        self.numbers += other.numbers
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)
        if other.latest[0] > self.latest[0]:
            self.latest = other.latest
        if other.texts:
            self.texts = other.texts | (self.texts or set())

    def value(self) -> float | None:
        """The aggregate's value; None is SQL's NULL, for which OpenMeter shows no row."""
        if self.aggregation == "COUNT":
            return float(self.events)
        if self.aggregation == "UNIQUE_COUNT":
            return float(len((self.texts or set()) - {"null"}))
        return self._numeric() if self.numbers else None

    def _numeric(self) -> float:
        match self.aggregation:
            case "SUM":
                return self.total
            case "AVG":
                return self.total / self.numbers
            case "MIN":
                return self.least
            case "MAX":
                return self.most
            case _:
                return self.latest[1]
