"""Quantities: what a segment bills of the usage list, when all of it reaches Stripe in time."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

from sandbox.simulator.aggregations import aggregated
from sandbox.simulator.history import History, Usage
from sandbox.simulator.oracle import Segment, segments

MINUTE = 60
DOOR_CLOSES_EARLY = 30 * MINUTE
"""Stripe takes no usage record for a period that is over (Record usage for billing)."""


def measured(segment: Segment) -> tuple[int, int]:
    """The usage that a segment bills, [start, end) in UTC seconds.

    A legacy one is measured half an hour earlier, to the minute, save a first start.
    """
    if segment.item.kind != "legacy":
        return segment.start, segment.end
    start = segment.start
    if not segment.first:
        start = (start - DOOR_CLOSES_EARLY) // MINUTE * MINUTE
    return start, (segment.end - DOOR_CLOSES_EARLY) // MINUTE * MINUTE


def usage_of(segment: Segment, used: Iterable[Usage]) -> list[Usage]:
    """What a segment bills of all that was used."""
    start, end = measured(segment)
    mine = (segment.customer, segment.item.meter)
    return [use for use in used if (use.customer, use.meter) == mine and start <= use.time < end]


def quantity(segment: Segment, used: Iterable[Usage]) -> Decimal:
    """What an invoice shows for these events of a segment: never below zero, whole on a legacy price."""
    total = max(aggregated(used), Decimal(0))
    is_whole = segment.item.kind == "legacy"
    return total.quantize(Decimal(1), ROUND_HALF_UP) if is_whole else total


def bills(history: History, delay: int = 0) -> list[tuple[Segment, Decimal]]:
    """Every line that the invoices of a history have, and its quantity."""
    return [
        (segment, quantity(segment, usage_of(segment, history.usage)))
        for segment in segments(history, delay)
        if segment.has_line
    ]
