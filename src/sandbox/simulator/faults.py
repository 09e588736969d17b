"""The faults of a world: mostly around the ends of its periods, where they cost money."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from sandbox.simulator.history import Fault, Usage
from sandbox.simulator.trouble import CALL_FAULTS, EVENT_FAULTS

MINUTE = 60
HOUR = 3600
QUARTER = 15 * MINUTE
OVERTAKEN: Final = "two_workers"

ONCE: Final = frozenset({"ledger_lost", "ledger_restored", "openmeter_outage", "ticks_skipped"})
"""A world has one of these at most, and that rarely strikes where a period ends: whatever comes then is held
or not seen in time, as foretold."""
_SECONDS: Final = {
    "slow_call": (1, 50),
    "two_workers": (0, 90),
    "stripe_timeout": (0, 1),
    "openmeter_down": (60, 3000),
    "openmeter_outage": (HOUR, 7 * HOUR),
    "webhook_late": (30, 50_000),
    "webhook_very_late": (25 * HOUR, 60 * HOUR),
    "webhook_reordered": (1, 90),
    "ticks_skipped": (HOUR, 5 * HOUR),
    "ledger_restored": (10 * MINUTE, 60 * HOUR),
    "clock_skew": (-4, 4),
}
_STATUSES: Final = (429, 500, 503, 408)


class Faults:
    """Draws the faults of a world; `ends` are the instants at which its periods end (UTC seconds)."""

    def __init__(self, dice: random.Random, kinds: Sequence[str], ends: Sequence[int]) -> None:
        self.dice = dice
        self.kinds = kinds
        self.ends = ends

    def between(self, start: int, end: int) -> Iterator[Fault]:
        """The faults of [start, end)."""
        for kind in self.kinds:
            if kind in ONCE:
                yield self._one(kind, self._apart(start, end))
            elif kind in CALL_FAULTS or kind in EVENT_FAULTS:
                for _ in range(self.dice.randint(2, 12 // len(self.kinds))):
                    near = self._near(start, end)
                    yield self._one(kind, near - near % QUARTER if kind == OVERTAKEN else near)

    def _one(self, kind: str, at: int) -> Fault:
        dice = self.dice
        is_once = kind in ONCE
        return Fault(
            kind=kind,
            at=at,
            skip=dice.choice((0, 0, 1, 2, 3, 5, 8, 13, 21)) if kind in CALL_FAULTS and not is_once else 0,
            times=1 if is_once else dice.choice((1, 1, 2, 5)),
            seconds=dice.choice(_STATUSES) if kind == "openmeter_error" else self._seconds(kind),
            later=dice.randint(61 * MINUTE, 5 * HOUR) if kind.startswith("ledger_") else 0,
        )

    def _seconds(self, kind: str) -> int:
        return self.dice.randint(*_SECONDS.get(kind, (0, 0)))

    def seen_in_between(self, used: Sequence[Usage], faults: Sequence[Fault]) -> Iterator[Usage]:
        """The usage, some of it seen just when one worker waits and another overtakes it."""
        waits = [(fault.at, fault.at + max(fault.seconds, 1)) for fault in faults if fault.kind == OVERTAKEN]
        for use in used:
            meant = next((wait for wait in waits if wait[0] - 2 * HOUR < use.time < wait[0]), None)
            if meant is None or self.dice.random() < 0.5 or use.seen_at > meant[0]:
                yield use
            else:
                yield replace(use, seen_at=self.dice.randint(*meant))

    def _near(self, start: int, end: int) -> int:
        near = self.dice.choice(self.ends) + self.dice.randrange(-HOUR, 50 * MINUTE)
        return near if self.dice.random() < 0.8 else self.dice.randrange(start, end)

    def _apart(self, start: int, end: int) -> int:
        """Now and then near an end; mostly so far before the next one that all is mended by then."""
        if self.dice.random() < 0.1:
            return self._near(start, end)
        at = self.dice.randrange(start, end)
        for _ in range(20):
            if all(not at - 2 * HOUR < one < at + 7 * HOUR for one in self.ends):
                break
            at = self.dice.randrange(start, end)
        return at
