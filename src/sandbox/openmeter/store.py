"""The stored events: which of them queries can see yet, indexed for fast queries."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from sandbox.openmeter.aggregates import Aggregate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox.openmeter.cloudevents import Event
    from sandbox.openmeter.values import Path

HOUR = 3600

type Hours = dict[int, Bucket]


@dataclass(slots=True)
class Bucket:
    """The events of one type and subject in one UTC hour, with their aggregates as last asked."""

    events: list[Event] = field(default_factory=list)
    aggregates: dict[tuple[str, Path | None], Aggregate] = field(default_factory=dict)

    def aggregate(self, aggregation: str, path: Path | None) -> Aggregate:
        """The aggregate of all events; not to be changed by the caller."""
        known = self.aggregates.get((aggregation, path))
        if known is None:
            known = self.aggregates[aggregation, path] = Aggregate(aggregation, path)
        if known.events < len(self.events):
            for event in self.events[known.events :]:
                known.add(event)
        return known


class EventIndex:
    """Events by type, subject and UTC hour."""

    def __init__(self) -> None:
        self._types: dict[str, dict[str, Hours]] = {}

    def add(self, event: Event) -> None:
        """Put an event in its place."""
        hours = self._types.setdefault(event.type, {}).setdefault(event.subject, {})
        hours.setdefault(event.time // HOUR, Bucket()).events.append(event)

    def subjects(self, event_type: str) -> dict[str, Hours]:
        """Everything of one type."""
        return self._types.get(event_type, {})

    def __iter__(self) -> Iterator[Event]:
        for subjects in self._types.values():
            for hours in subjects.values():
                for bucket in hours.values():
                    yield from bucket.events


@dataclass(frozen=True, slots=True)
class EventMatch:
    """Chooses events; what is None chooses all."""

    subject: str | None = None
    type: str | None = None
    ids: frozenset[str] | None = None

    def __call__(self, event: Event) -> bool:
        """Whether the event is chosen."""
        return (
            self.subject in (None, event.subject)
            and self.type in (None, event.type)
            and (self.ids is None or event.id in self.ids)
        )


class EventStore:
    """Takes events, drops duplicates, and shows each when its time has come."""

    def __init__(self, clock: Callable[[], int], *, dedupe: bool) -> None:
        self.accepted = EventIndex()
        """Every event that was taken, seen by queries or not."""
        self._clock = clock
        self._dedupe = dedupe
        self._seen: set[tuple[str, str]] = set()
        self._visible = EventIndex()
        self._pending: list[tuple[int, int, Event]] = []
        self._order = count()
        self._held: list[Event] = []
        self._holds: list[EventMatch] = []

    def add(self, event: Event) -> bool:
        """Take an event; False if one with its source and id was taken before."""
        if self._dedupe:
            key = (event.source, event.id)
            if key in self._seen:
                return False
            self._seen.add(key)
        self.accepted.add(event)
        if event.visible_at is None or any(match(event) for match in self._holds):
            event.visible_at = None
            self._held.append(event)
        elif event.visible_at <= self._clock() and not self._is_pending(event.visible_at):
            self._show(event, event.visible_at)
        else:
            heapq.heappush(self._pending, (event.visible_at, next(self._order), event))
        return True

    def hold(self, match: EventMatch) -> None:
        """From now on keep events that match from queries, until they are released."""
        self._holds.append(match)

    def release(self, match: EventMatch) -> int:
        """Show the held events that match at once, and hold no more like them; how many."""
        everything = match == EventMatch()
        self._holds = [hold for hold in self._holds if not everything and hold != match]
        freed = [event for event in self._held if match(event)]
        self._held = [event for event in self._held if not match(event)]
        for event in freed:
            event.visible_at = self._clock()
            heapq.heappush(self._pending, (event.visible_at, next(self._order), event))
        return len(freed)

    def visible(self) -> EventIndex:
        """The events that queries see now."""
        now = self._clock()
        while self._is_pending(now):
            stored_at, _, event = heapq.heappop(self._pending)
            self._show(event, stored_at)
        return self._visible

    def _is_pending(self, until: int) -> bool:
        return bool(self._pending) and self._pending[0][0] <= until

    def _show(self, event: Event, stored_at: int) -> None:
        event.stored_at = stored_at
        self._visible.add(event)
