"""Legacy metered prices without a meter: the rounded total so far, set at one fixed instant.

Stripe takes no usage record for a period that has ended (legacy guide, "Record usage for billing"), so
what is measured lies half an hour earlier than the period: it is complete before the door closes, and
the rest falls into the next period.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from usage_reporting import identifiers
from usage_reporting.amounts import round_whole, to_wire
from usage_reporting.model import CustomerMeter, Send, Span
from usage_reporting.period_bounds import Cuts, PeriodBounds
from usage_reporting.windows import MINUTE, settled_until

DOOR_CLOSES_EARLY = 30 * MINUTE


def measured_span(
    span: Span,
    setting: PeriodBounds = PeriodBounds.EXACT,
    *,
    others: Iterable[Span] = (),
    kept: Cuts | None = None,
) -> tuple[int, int]:
    """The usage that a period bills: [start, end), UTC seconds.

    A first start is not earlier, and no period reaches back before the first start of `others`. `kept`:
    where these periods were cut before, by their bounds.
    """
    kept = kept or {}
    firsts = [setting.first_start(one.start) for one in others if one.first and one.start <= span.start]
    start = kept.get(span.start, max([_start(span, setting), *firsts]))
    end = _end(span, setting)
    # A renewal that turned out to be the end: no next period bills what its window holds.
    end = max(end, kept.get(span.end, 0)) if span.last else kept.get(span.end, end)
    return start, max(start, end)


def cuts_to_keep(span: Span, measured: tuple[int, int], now: int) -> dict[int, int]:
    """Where a period was cut, as far as that has passed: it outlives a change of the setting."""
    cuts = zip((span.start, span.end), measured, strict=True)
    return {bound: at for bound, at in cuts if at <= now}


def _start(span: Span, setting: PeriodBounds) -> int:
    if span.first:
        return setting.first_start(span.start)
    return _edges(setting).renewal(span.start - DOOR_CLOSES_EARLY)


def _end(span: Span, setting: PeriodBounds) -> int:
    early = span.end - DOOR_CLOSES_EARLY
    return _edges(setting).last_end(early) if span.last else _edges(setting).renewal(early)


def _edges(setting: PeriodBounds) -> PeriodBounds:
    return PeriodBounds.MINUTE if setting is PeriodBounds.EXACT else setting


def readable_until(end: int, now: int, *, eager: bool = False) -> int:
    """Up to when usage that is measured up to `end` is read at `now`, UTC seconds."""
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
    """The usage record that sets the period's quantity. Raises RefusedError for a total below zero.

    The instant is part of the fact: Stripe would answer an earlier record of the same value from memory, if
    a lost ledger began its sequence anew (Idempotent requests).
    """
    quantity = Decimal(round_whole(total, rounding))
    stamp = stamp_of(span)
    told = facts(stamp, quantity, now)
    return Send(
        identifier=identifiers.identifier(customer_meter.pk, span.item, span.start, sequence, *told),
        slice_start=span.start,
        stamp=stamp,
        value=quantity,
        intended_at=now,
    )


def facts(stamp: int, quantity: Decimal, now: int) -> tuple[str, str, str]:
    """What a record's identifier is made of beside its period and its number; times in UTC seconds."""
    return str(stamp), to_wire(quantity), str(now)
