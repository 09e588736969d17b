"""What may be billed by a total: prices on a meter of the last value, and legacy ones.

A total need not grow with usage, so "at least what could be seen" says nothing. But whoever looked, saw all
that OpenMeter showed by then: a bill has to be the total of the usage seen up to some instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from sandbox.simulator.bills import quantity
from sandbox.simulator.history import Usage
from sandbox.simulator.oracle import Segment

HOUR = 3600


def door_of(segment: Segment) -> int:
    """When Stripe stops taking usage for a segment, UTC seconds."""
    return segment.end if segment.item.kind == "legacy" else segment.closes


def seen_from(segment: Segment, used: Sequence[Usage], instant: int) -> Iterator[Decimal]:
    """What a look at `instant` (UTC seconds), or any later one, came to."""
    for look in [instant, *(use.seen_at for use in used if use.seen_at > instant)]:
        yield quantity(segment, [use for use in used if use.seen_at <= look])


def seen_in_course(segment: Segment, used: Sequence[Usage], looked: int) -> Iterator[Decimal]:
    """What a look at `looked` (UTC seconds) or a later one came to; it reads at least all earlier hours."""
    read = looked - looked % HOUR
    for until in [read, *(use.time + 1 for use in used if use.time >= read)]:
        for look in [looked, *(use.seen_at for use in used if use.seen_at > looked)]:
            yield quantity(segment, [use for use in used if use.time < until and use.seen_at <= look])
