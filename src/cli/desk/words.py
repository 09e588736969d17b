"""How the console writes amounts, instants and times."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from usage_reporting.windows import DAY, HOUR, MINUTE


def units(value: Decimal | None) -> str:
    """An amount with all its digits; a dash where it is not known."""
    if value is None:
        return "-"
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def moment(instant: int) -> str:
    """An instant, UTC seconds, as people read it; the page says once that all times are UTC."""
    return f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M:%S}"


def time_left(seconds: int) -> str:
    """Time up to something, in the two units that matter; what is past is over."""
    if seconds <= 0:
        return "over"
    for size, name, smaller, smaller_name in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size} {name} {seconds % size // smaller} {smaller_name}"
    return f"{seconds} s"
