"""Lines of prices that divide quantities (`transform_quantity`): whether they show units or packages; pure.

Stripe's page "Transform quantities" does not say which of the two a line's quantity is. The line's amount
does, where it is what one of them costs and not what the other does.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from usage_reporting.amounts import ZERO
from usage_reporting.pricing import Pricing
from usage_reporting.verdict import Finding, JudgedLine, compared

COUNTED_IN_PACKAGES = "counted in packages"
"""How the reason of a line begins whose quantities are packages, not units."""


def in_packages(line: JudgedLine, amount: Decimal, pricing: Pricing) -> JudgedLine:
    """A line judged in units, judged in packages if that is what it shows; `amount` in the minor unit."""
    if line.metered is None or line.finding not in {Finding.SHORT, Finding.OVER}:
        return line
    owed = pricing.packages(max(line.metered, ZERO))
    shows_units = pricing.amount(line.quantity) == amount
    shows_packages = line.quantity * pricing.unit_amount == amount
    finding = compared(owed, line.quantity)
    if shows_packages and (finding is Finding.EXACT or not shows_units):
        reason = f"{COUNTED_IN_PACKAGES} of {pricing.divide_by}"
        return replace(line, finding=finding, metered=owed, causes={}, reason=reason)
    if shows_units and not shows_packages:
        return line
    reason = f"its quantity may be units or packages of {pricing.divide_by} (transform_quantity)"
    return replace(line, finding=Finding.NOT_JUDGED, causes={}, reason=reason)
