"""Billing periods: boundaries at an anchor (Billing cycle, "Set the billing cycle date")."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

from sandbox.stripe.objects import Recurring

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def boundary(anchor: int, recurring: Recurring, number: int) -> int:
    """The anchor moved by so many intervals; months keep the anchor's day, else take their last."""
    steps = recurring.interval_count * number
    start = datetime.fromtimestamp(anchor, UTC)
    if recurring.interval in _DAYS:
        moved = start + timedelta(days=steps * _DAYS[recurring.interval])
        return int(moved.timestamp())
    months = start.year * 12 + start.month - 1 + steps * _MONTHS[recurring.interval]
    year, month = months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def next_boundary(anchor: int, recurring: Recurring, after: int) -> int:
    """The first boundary later than this instant."""
    shortest = {"day": 86_400, "week": 604_800, "month": 28 * 86_400, "year": 365 * 86_400}
    number = (after - anchor) // ((shortest[recurring.interval] + 4 * 86_400) * recurring.interval_count)
    number -= 1
    while boundary(anchor, recurring, number) <= after:
        number += 1
    while boundary(anchor, recurring, number - 1) > after:
        number -= 1
    return boundary(anchor, recurring, number)


def boundary_before(anchor: int, recurring: Recurring, instant: int) -> int:
    """The boundary at which the period began that holds this instant."""
    number = 0
    while boundary(anchor, recurring, number) > instant:
        number -= 1
    while boundary(anchor, recurring, number + 1) <= instant:
        number += 1
    return boundary(anchor, recurring, number)
