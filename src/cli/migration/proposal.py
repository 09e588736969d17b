"""The Stripe meter and the price that take the place of a legacy price; no calls.

What is asked for is in the terms of "Create a meter" and "Create a price" of Stripe's API reference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from cli.migration.found import OM_MIRRORED_SINCE, OM_PREDECESSOR_PRICE, LegacyItem, LegacyPrice
from usage_reporting.customer_meters import OM_METER_ID, named_meter
from usage_reporting.openmeter import ADDITIVE
from usage_reporting.successors import OM_SUCCESSOR_PRICE

Json = dict[str, Any]

NOT_CARRIED_OVER = "last_ever"
"""What a legacy price bills again in a period without a usage record; a meter has nothing in such a period.

The functions put one usage record into a period and set it anew, so that `sum`, `max` and
`last_during_period` of it are all the same, and what a meter has.
"""

_AMOUNTS = ("unit_amount_decimal", "flat_amount_decimal")


def price_refusal(price: Json, named: Collection[str]) -> str:
    """Why no price can take a legacy price's place, and what to do; empty where one can.

    `named`: the OpenMeter meters that its items name.
    """
    if not named:
        return (
            f"none of its items names an OpenMeter meter; put {OM_METER_ID} into its metadata if it is ours"
        )
    if len(named) > 1:
        meters = ", ".join(sorted(named))
        return f"its items name several OpenMeter meters ({meters}); give each meter a price of its own"
    if (price.get("recurring") or {}).get("aggregate_usage") == NOT_CARRIED_OVER:
        return (
            f"it bills by aggregate_usage {NOT_CARRIED_OVER!r}: a period without a record is billed the "
            "value of an earlier one, which no meter does; create a price for it by hand"
        )
    if price.get("billing_scheme") == "tiered":
        options = (price.get("currency_options") or {}).items()
        unread = [name for name, one in options if name != price["currency"] and not one.get("tiers")]
        if unread:
            return f"Stripe does not show its tiers in {', '.join(unread).upper()}; create its price by hand"
    return ""


def successor_refusal(price: LegacyPrice, item: LegacyItem) -> str:
    """Why an item is not put on the price that is named, and what to do; empty where it can be.

    That may have been named, or changed, by hand.
    """
    old, new = price.document, price.successor
    if new is None:
        return ""
    name = f"its new price {new['id']}"
    if not new["active"]:
        return f"{name} is archived; reactivate it in Stripe"
    if _rhythm(new) != _rhythm(old):
        return f"{name} is not billed at the interval of {price.id}; name another one in {OM_SUCCESSOR_PRICE}"
    if new["currency"] != old["currency"] or _others(old) - _others(new):
        return f"{name} does not have all currencies of {price.id}; add them"
    feeds = named_meter({"metadata": item.item.get("metadata"), "price": new})
    if feeds != price.openmeter_meter:
        return (
            f"{name} names {feeds or 'no OpenMeter meter'}; set its {OM_METER_ID} to {price.openmeter_meter}"
        )
    return ""


def _rhythm(price: Json) -> tuple[Any, Any]:
    recurring = price["recurring"]
    return recurring["interval"], recurring["interval_count"]


def _others(price: Json) -> set[str]:
    return set(price.get("currency_options") or {}) - {price["currency"]}


def formula_of(aggregation: str) -> str:
    """How a Stripe meter has to aggregate for an aggregation of OpenMeter."""
    return "sum" if aggregation in ADDITIVE else "last"


def event_names(openmeter_meter: str) -> tuple[str, str]:
    """The names under which the Stripe meter of an OpenMeter meter is looked for, and made."""
    return openmeter_meter, f"{openmeter_meter}_openmeter"


def fits(meter: Json, formula: str) -> bool:
    """Whether a Stripe meter can take the usage of an OpenMeter meter."""
    return bool(meter["default_aggregation"]["formula"] == formula and not meter.get("event_time_window"))


def meter_for(openmeter_meter: str, formula: str, meters: Iterable[Json]) -> Json | str:
    """The Stripe meter to use, or the event name of the one to make.

    An archived one keeps its name (`setup` takes it up again, too).
    """
    by_name = {meter["event_name"]: meter for meter in meters}
    for name in event_names(openmeter_meter):
        found = by_name.get(name)
        if found is None:
            return name
        if fits(found, formula):
            return found
    return ""


def meter_params(openmeter_meter: str, event_name: str, formula: str) -> Json:
    """What a meter is made of."""
    return {
        "display_name": openmeter_meter,
        "event_name": event_name,
        "default_aggregation": {"formula": formula},
    }


def price_params(price: LegacyPrice, meter: str) -> Json:
    """What a legacy price's successor is made of: all but its meter as it was.

    The lookup key is the old price's until the end: one price alone can have it.
    """
    old = price.document
    recurring = old["recurring"]
    own = {OM_SUCCESSOR_PRICE, OM_MIRRORED_SINCE}
    kept = {name: value for name, value in price.metadata.items() if name not in own}
    params: Json = {
        "product": old["product"],
        "currency": old["currency"],
        "recurring": {
            "interval": recurring["interval"],
            "interval_count": recurring["interval_count"],
            "usage_type": "metered",
            "meter": meter,
        },
        "metadata": {**kept, OM_METER_ID: price.openmeter_meter, OM_PREDECESSOR_PRICE: price.id},
        "billing_scheme": old["billing_scheme"],
        **_amounts(old),
    }
    for name in ("nickname", "tax_behavior", "tiers_mode"):
        if old.get(name):
            params[name] = old[name]
    if transform := old.get("transform_quantity"):
        params["transform_quantity"] = {name: transform[name] for name in ("divide_by", "round")}
    options = {
        currency: _option(option)
        for currency, option in (old.get("currency_options") or {}).items()
        if currency != old["currency"]
    }
    return {**params, "currency_options": options} if options else params


def _option(option: Json) -> Json:
    tax = option.get("tax_behavior")
    return {**_amounts(option), **({"tax_behavior": tax} if tax else {})}


def _amounts(holder: Json) -> Json:
    """Decimal amounts hold the whole ones, too."""
    if holder.get("tiers"):
        return {"tiers": [_tier(tier) for tier in holder["tiers"]]}
    return {"unit_amount_decimal": holder["unit_amount_decimal"]}


def _tier(tier: Json) -> Json:
    up_to = tier.get("up_to")
    amounts = {name: tier[name] for name in _AMOUNTS if tier.get(name) is not None}
    return {"up_to": "inf" if up_to is None else up_to, **amounts}
