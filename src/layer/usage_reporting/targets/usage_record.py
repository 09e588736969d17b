"""Legacy metered prices without a meter: the rounded total so far, set at one fixed instant.

Stripe takes no usage record for a period that has ended (legacy guide, "Record usage for billing"), so
what is measured lies half an hour earlier than the period: it is complete before the door closes, and
the rest falls into the next period.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal

from usage_reporting.amounts import round_whole, to_wire
from usage_reporting.model import CustomerMeter, Send, Span
from usage_reporting.windows import MINUTE, floor_minute, settled_until

DOOR_CLOSES_EARLY = 30 * MINUTE


def measured_span(span: Span) -> tuple[int, int]:
    """The usage that a period bills: [start, end), UTC seconds. A first start stays where it is."""
    start = span.start if span.first else floor_minute(span.start - DOOR_CLOSES_EARLY)
    return start, floor_minute(span.end - DOOR_CLOSES_EARLY)


def readable_until(span: Span, now: int, *, eager: bool = False) -> int:
    """Up to when a period's usage is read at `now`, UTC seconds."""
    _, end = measured_span(span)
    return end if end <= now else settled_until(now, eager=eager)


def stamp_of(span: Span) -> int:
    """The instant of the period's only usage record: Stripe refuses the very start of a period."""
    return span.start + 1


def send(
    customer_meter: CustomerMeter,
    span: Span,
    total: Decimal,
    sequence: int,
    *,
    rounding: str,
    now: int,
) -> Send:
    """The usage record that sets the period's quantity. Raises RefusedError for a total below zero."""
    quantity = Decimal(round_whole(total, rounding))
    stamp = stamp_of(span)
    fact = "|".join([customer_meter.pk, str(span.start), str(sequence), str(stamp), to_wire(quantity)])
    digest = hashlib.sha256(fact.encode()).hexdigest()[:16]
    return Send(
        identifier=f"{span.item}.{span.start}.{sequence}.{digest}",
        slice_start=span.start,
        stamp=stamp,
        value=quantity,
        intended_at=now,
    )
