"""Amounts of usage: Decimal from the wire to the wire.

Stripe takes at most 15 significant digits and no exponent in a meter event's value (changelog
2026-04-22.dahlia, "Validates the number of digits in meter event values"). OpenMeter computes in
float64, so two readings of the same usage may differ in the last digits.
"""

from __future__ import annotations

import json
from decimal import ROUND_DOWN, ROUND_HALF_UP, ROUND_UP, Decimal, InvalidOperation
from typing import Any

from usage_reporting.errors import RefusedError

ZERO = Decimal(0)
MAX_DIGITS = 15
MAX_DECIMALS = 9

_CERTAINLY_FITS = 10**MAX_DIGITS

_WHOLE_NUMBER_MODES = {"half_up": ROUND_HALF_UP, "down": ROUND_DOWN, "up": ROUND_UP}


def finite(value: Decimal) -> Decimal:
    """The value itself. Raises RefusedError for NaN and infinity, which cannot even be compared."""
    if not value.is_finite():
        raise RefusedError(f"{value} is not an amount of usage; correct the events in OpenMeter")
    return value


def round_units(value: Decimal) -> Decimal:
    """Round one slice's usage to what Stripe can hold: 9 decimals, 15 significant digits.

    Raises RefusedError for NaN, infinity and for more than 15 digits before the point.
    """
    if value.is_finite() and abs(value) < _CERTAINLY_FITS and value == (whole := value.to_integral_value()):
        return Decimal(int(whole))
    whole_digits = value.adjusted() + 1 if finite(value) else 0
    if whole_digits <= MAX_DIGITS:
        decimals = min(MAX_DECIMALS, MAX_DIGITS - whole_digits)
        rounded = value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)
        if rounded.adjusted() < MAX_DIGITS:  # rounding may have added a digit
            return Decimal(to_wire(rounded))
    raise RefusedError(
        f"{value:.16g} has more than {MAX_DIGITS} digits, more than Stripe takes; meter in a larger unit"
    )


def round_whole(value: Decimal, mode: str) -> int:
    """Round a period's total to the whole number that a legacy usage record takes.

    `mode` is `half_up`, `down` or `up`. Raises RefusedError for NaN, infinity, negative totals, and for more
    than 15 digits. What OpenMeter's floats leave of a sum that is nothing may be below nothing.
    """
    if not value.is_finite() or (value < 0 and not is_same(value, ZERO)):
        raise RefusedError(f"a period's total of {value} cannot be billed; correct it in OpenMeter")
    if value.adjusted() >= MAX_DIGITS:
        raise RefusedError(
            f"a period's total of {value:.16g} has more than {MAX_DIGITS} digits; meter in a larger unit"
        )
    return int(value.quantize(Decimal(1), rounding=_WHOLE_NUMBER_MODES[mode]))


def is_same(left: Decimal, right: Decimal) -> bool:
    """Whether two readings are equal but for floating-point noise."""
    if left == right:
        return True
    return abs(left - right) <= max(Decimal("1e-9"), Decimal("1e-12") * max(abs(left), abs(right)))


def to_wire(value: Decimal) -> str:
    """Write an amount without exponent and without needless zeros."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def loads(text: str | bytes) -> Any:
    """Parse JSON with every number that has a fraction or exponent as Decimal.

    Raises ValueError for text that is not JSON, is nested too deeply, or holds a number too long or out
    of range.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=Decimal)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except InvalidOperation:
        raise ValueError("the JSON holds a number out of range") from None
