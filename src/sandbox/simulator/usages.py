"""The usage of a world: few hours of each stretch that is billed, and its ends to the second."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sandbox.simulator.history import METERS, Usage
from sandbox.simulator.oracle import Segment

MINUTE = 60
HOUR = 3600
_VALUES = ("1", "2", "3", "0.1", "0.25", "7", "1000", "12.345")
_QUIET = 8 * HOUR
"""So long before an end that nobody foresees there is mostly no usage: a tick has reported all of it."""


class Usages:
    """Draws usage for the stretches of a world; `kinds` are the faults that are in it.

    `corrects`: some usage is taken back later, by an event below zero. `windows`: seconds of the windows to
    which bounds are rounded.
    """

    def __init__(
        self,
        dice: random.Random,
        kinds: Sequence[str],
        stretches: Sequence[Segment],
        *,
        corrects: bool = False,
        windows: Sequence[int] = (),
    ) -> None:
        self.dice = dice
        self.stretches = stretches
        self.kinds = kinds
        self.corrects = corrects
        self.windows = windows

    def all(self) -> Iterator[Usage]:
        """The usage of all stretches; a meter of the latest value has one event in a second."""
        taken: set[tuple[str, str, int]] = set()
        for stretch in self.stretches:
            for use in self._of(stretch):
                key = (use.customer, use.meter, use.time)
                if METERS[use.meter] != "LATEST" or key not in taken:
                    taken.add(key)
                    yield use

    def _of(self, stretch: Segment) -> Iterator[Usage]:
        lag = self.dice.randint(5, 50) * MINUTE if self._strikes("openmeter_lag", 0.15) else 0
        for time in self._times(stretch):
            use = self._use(stretch, time, lag)
            yield use
            if self.corrects and METERS[use.meter] == "SUM" and self.dice.random() < 0.3:
                yield from self._correction(use)

    def _correction(self, use: Usage) -> Iterator[Usage]:
        """What takes usage back in part or whole: at the same second, seen later, but still billable."""
        latest = min(
            _last_look(one)
            for one in self.stretches
            if (one.customer, one.item.meter) == (use.customer, use.meter) and one.start <= use.time < one.end
        )
        if use.seen_at + HOUR < latest:
            value = self.dice.choice((use.value, "0.1"))
            yield replace(use, value=f"-{value}", seen_at=self.dice.randrange(use.seen_at + 1, latest))

    def _strikes(self, kind: str, chance: float) -> bool:
        return kind in self.kinds and self.dice.random() < chance

    def _times(self, stretch: Segment) -> Iterator[int]:
        dice, start, end = self.dice, stretch.start, stretch.end
        if stretch.how == "received" and dice.random() < 0.8:
            end -= _QUIET
            if end <= start:
                return
        edges = [start, start + 1, start + 30, end - 1, end - 2, end - 40, end - 400]
        if stretch.item.kind == "legacy":
            edges += [end - 30 * MINUTE, end - 30 * MINUTE - 1, (end - 30 * MINUTE) // MINUTE * MINUTE]
        edges += [end - dice.randrange(2 * HOUR) for _ in range(4)]
        edges += [
            edge - edge % window - back for edge in (start, end) for window in self.windows for back in (0, 1)
        ]
        inside = [at for at in edges if start <= at < end]
        if dice.random() < 0.8:
            yield from dice.sample(inside, min(5, len(inside)))
        for _ in range(dice.randint(0, 2)):
            hour = dice.randrange(start, end)
            for _ in range(dice.randint(1, 3)):
                yield min(hour + dice.randrange(HOUR), end - 1)

    def _use(self, stretch: Segment, time: int, lag: int) -> Usage:
        dice = self.dice
        seen_at = time + dice.choice((0, 1, 2, 3)) + lag
        if self._strikes("late_usage", 0.1):
            seen_at = max(seen_at, time + dice.randint(2, 55) * MINUTE)
        elif self._strikes("usage_after_final", 0.025):
            seen_at = max(seen_at, stretch.closes + dice.randint(1, 600) * MINUTE)
        return Usage(stretch.customer, stretch.item.meter, time, dice.choice(_VALUES), seen_at)


def _last_look(stretch: Segment) -> int:
    """Until when a decrease is certainly seen in time, UTC seconds."""
    if stretch.item.kind == "legacy":
        return stretch.end - HOUR
    return stretch.end - _QUIET if stretch.how in {"received", "dropped"} else stretch.end
