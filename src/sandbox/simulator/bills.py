"""Quantities: what a segment bills of the usage list, when all of it reaches Stripe in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from sandbox.simulator.aggregations import aggregated
from sandbox.simulator.history import Bounds, History, Usage
from sandbox.simulator.oracle import Segment, segments

MINUTE = 60
DOOR_CLOSES_EARLY = 30 * MINUTE
"""Stripe takes no usage record for a period that is over (Record usage for billing)."""

_WINDOWS: Final[dict[Bounds, int]] = {"exact": 1, "minute": 60, "hour": 3600, "day": 86_400}


def legacy_cut(end: int, setting: Bounds) -> int:
    """Where usage is cut for the renewal of a legacy price, UTC seconds."""
    early = end - DOOR_CLOSES_EARLY
    return early - early % max(_WINDOWS[setting], MINUTE)


class Measures:
    """Which usage each segment bills, with PERIOD_BOUNDS as it is set.

    A renewal is rounded down to its window, a first start up to the minute, a last end down to it; but
    nothing to before what an earlier bound of the same usage is rounded to. A price with a meter that follows
    a legacy one bills from where that one ended, half an hour before.
    """

    def __init__(self, setting: Bounds, found: Sequence[Segment]) -> None:
        self._setting = setting
        self._by_holder: dict[tuple[str, str], list[Segment]] = defaultdict(list)
        for segment in found:
            self._by_holder[self._holder(segment)].append(segment)
        legacy = [one for one in found if one.item.kind == "legacy"]
        self._left_at = {(one.contract, one.place, one.end): self._of_legacy(one)[1] for one in legacy}
        self._cuts = {holder: self._rounded(mine) for holder, mine in self._by_holder.items()}

    def of(self, segment: Segment) -> tuple[int, int]:
        """The usage that a segment bills, [start, end) in UTC seconds; empty where both are the same."""
        if segment.item.kind == "legacy":
            return self._of_legacy(segment)
        cuts = self._cuts[self._holder(segment)]
        return cuts[segment.start], cuts[segment.end]

    def usage(self, segment: Segment, used: Iterable[Usage]) -> list[Usage]:
        """What a segment bills of all that was used."""
        start, end = self.of(segment)
        mine = (segment.customer, segment.item.meter)
        return [use for use in used if (use.customer, use.meter) == mine and start <= use.time < end]

    def _holder(self, segment: Segment) -> tuple[str, str]:
        """Usage records belong to an item, all else to a customer."""
        if segment.item.kind == "legacy":
            return segment.contract, str(segment.place)
        return segment.customer, segment.item.holder

    def _rounded(self, mine: list[Segment]) -> dict[int, int]:
        firsts = {one.start for one in mine if one.first}
        lasts = {one.end for one in mine if one.is_last}
        left_at = {one.start: self._left_at.get((one.contract, one.place, one.start)) for one in mine}
        cuts: dict[int, int] = {}
        latest = 0
        for bound in sorted({edge for one in mine for edge in (one.start, one.end)}):
            if (left := left_at.get(bound)) is not None:
                at = left
            elif bound in lasts:
                at = self._down(bound, MINUTE)
            elif bound in firsts:
                at = self._up(bound)
            else:
                at = bound - bound % _WINDOWS[self._setting]
            cuts[bound] = latest = max(latest, at)
        return cuts

    def _of_legacy(self, segment: Segment) -> tuple[int, int]:
        """Half an hour earlier, to the minute at least; but not the first start, nor anything before it."""
        window = max(_WINDOWS[self._setting], MINUTE)
        begun = min(one.start for one in self._by_holder[self._holder(segment)])
        start, end = segment.start - DOOR_CLOSES_EARLY, segment.end - DOOR_CLOSES_EARLY
        first = self._up(begun)
        start = first if segment.first else max(start - start % window, first)
        return start, max(start, end - end % (MINUTE if segment.is_last else window))

    def _up(self, instant: int) -> int:
        return instant if self._setting == "exact" else -(-instant // MINUTE) * MINUTE

    def _down(self, instant: int, window: int) -> int:
        return instant if self._setting == "exact" else instant - instant % window


def quantity(segment: Segment, used: Iterable[Usage]) -> Decimal:
    """What an invoice shows for these events of a segment: never below zero, whole on a legacy price."""
    total = max(aggregated(used), Decimal(0))
    is_whole = segment.item.kind == "legacy"
    return total.quantize(Decimal(1), ROUND_HALF_UP) if is_whole else total


def is_same(left: Decimal, right: Decimal) -> bool:
    """Whether two quantities differ by floating-point noise at most."""
    return abs(left - right) <= max(Decimal("1e-6"), Decimal("1e-12") * max(abs(left), abs(right)))


def bills(history: History, delay: int = 0) -> list[tuple[Segment, Decimal]]:
    """Every line that the invoices of a history have, and its quantity."""
    found = list(segments(history, delay))
    measures = Measures(history.bounds, found)
    return [
        (segment, quantity(segment, measures.usage(segment, history.usage)))
        for segment in found
        if segment.has_line
    ]
