"""Billing periods by Stripe's rule, worked out from the calendar alone (Billing cycle)."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

from sandbox.simulator.history import Interval

DAY = 86_400


def moved(anchor: int, interval: Interval, number: int) -> int:
    """The anchor moved by so many intervals, UTC seconds; a month without its day takes the last."""
    at = datetime.fromtimestamp(anchor, UTC)
    if interval != "month":
        return int((at + timedelta(days=number * (7 if interval == "week" else 1))).timestamp())
    year, month = divmod(at.year * 12 + at.month - 1 + number, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return int(at.replace(year=year, month=month + 1, day=min(at.day, last)).timestamp())
