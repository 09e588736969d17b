"""Prices and numbers as JSON; parts of other objects."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal

from sandbox.stripe.account import Account, Json
from sandbox.stripe.objects import Price
from sandbox.stripe.versions import ApiVersion

ITEMS_EMBEDDED = 10
"""How many rows a list inside an object shows before `has_more`."""


def decimal_text(value: Decimal) -> str:
    """A decimal without exponent and without trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def json_number(value: Decimal) -> int | float:
    """A decimal as a JSON number (a double; whole where it is whole)."""
    return int(value) if value == value.to_integral_value() else float(value)


def price_json(account: Account, row: Price, version: ApiVersion) -> Json:
    """A price; `recurring.aggregate_usage` only before basil."""
    recurring: Json | None = None
    if row.recurring is not None:
        recurring = {
            "interval": row.recurring.interval,
            "interval_count": row.recurring.interval_count,
            "meter": row.recurring.meter,
            "usage_type": row.recurring.usage_type,
        }
        if not version.is_basil:
            recurring["aggregate_usage"] = row.recurring.aggregate_usage
            recurring["trial_period_days"] = None
    transform = row.transform_quantity
    return {
        "id": row.id,
        "object": "price",
        "active": row.active,
        "billing_scheme": "tiered" if row.tiers else "per_unit",
        "created": row.created,
        "currency": row.currency,
        "custom_unit_amount": None,
        "livemode": account.settings.livemode,
        "lookup_key": row.lookup_key,
        "metadata": dict(row.metadata),
        "nickname": row.nickname,
        "product": row.product,
        "recurring": recurring,
        "tax_behavior": row.tax_behavior,
        "tiers_mode": row.tiers_mode,
        "transform_quantity": None if transform is None else asdict(transform),
        "type": "one_time" if recurring is None else "recurring",
        **_amounts("unit_amount", row.unit_amount),
    }


def currency_options_json(row: Price) -> Json:
    """The amounts of a price by currency, which only `expand[]=currency_options` shows.

    Its own currency is among them (Localize prices, "Create a multi-currency price"); it has no other here.
    """
    option = {
        "custom_unit_amount": None,
        "tax_behavior": row.tax_behavior,
        **_amounts("unit_amount", row.unit_amount),
    }
    return {row.currency: option}


def tiers_json(row: Price) -> list[Json]:
    """The tiers of a price, which only `expand[]=tiers` shows."""
    return [
        {
            **_amounts("flat_amount", tier.flat_amount),
            **_amounts("unit_amount", tier.unit_amount),
            "up_to": tier.up_to,
        }
        for tier in row.tiers
    ]


def _amounts(name: str, amount: Decimal | None) -> Json:
    """An amount in the minor unit, as an integer where it is whole, and as a decimal."""
    if amount is None:
        return {name: None, f"{name}_decimal": None}
    whole = amount == amount.to_integral_value()
    return {name: int(amount) if whole else None, f"{name}_decimal": decimal_text(amount)}


def embedded_list(rows: list[Json], url: str) -> Json:
    """A list object inside another object: its first rows and whether there are more."""
    return {
        "object": "list",
        "data": rows[:ITEMS_EMBEDDED],
        "has_more": len(rows) > ITEMS_EMBEDDED,
        "url": url,
    }
