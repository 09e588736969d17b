"""How a price charges, and how a quantity becomes an amount, in words."""

from __future__ import annotations

from decimal import Decimal

from usage_reporting.amounts import to_wire
from usage_reporting.pricing import PriceTier, Pricing, decimals_of, money


def pricing_words(pricing: Pricing) -> str:
    """What a price charges, e.g. `$0.10 per unit`."""
    if not pricing.tiers:
        unit = _each(pricing.unit_amount, pricing.currency)
        if not pricing.divide_by:
            return f"{unit} per unit"
        begun = "begun" if pricing.rounds_up else "full"
        return f"{unit} for each {begun} package of {pricing.divide_by} units"
    how = "each tier charges its part" if pricing.is_graduated else "the tier reached charges everything"
    return f"{_tiers(pricing)}; {how}"


def reckoning(pricing: Pricing, quantity: Decimal) -> str:
    """How a quantity becomes its amount, e.g. `12.5 units at $0.10 = $1.25`."""
    amount = money(pricing.amount(quantity), pricing.currency)
    units = to_wire(max(quantity, Decimal(0)))
    if pricing.divide_by:
        units += f" units = {to_wire(pricing.packages(quantity))} packages"
    else:
        units += " units"
    if pricing.tiers:
        return f"{units} by tiers = {amount}"
    return f"{units} at {_each(pricing.unit_amount, pricing.currency)} = {amount}"


def _tiers(pricing: Pricing) -> str:
    parts = []
    bottom = Decimal(0)
    for tier in pricing.tiers:
        reach = f"over {to_wire(bottom)}" if tier.up_to is None else f"up to {to_wire(tier.up_to)}"
        parts.append(f"{reach} units: {_of_tier(tier, pricing.currency)}")
        bottom = tier.up_to or bottom
    return ", ".join(parts)


def _of_tier(tier: PriceTier, currency: str) -> str:
    unit = f"{_each(tier.unit_amount, currency)} each"
    return f"{unit} and {money(tier.flat_amount, currency)}" if tier.flat_amount else unit


def _each(minor: Decimal, currency: str) -> str:
    """An amount for one unit, which may have more decimals than money has."""
    decimals = decimals_of(currency)
    least = money(minor.to_integral_value(), currency)
    if minor == minor.to_integral_value():
        return least
    return f"{to_wire(minor.scaleb(-decimals))} {currency.upper()}"
