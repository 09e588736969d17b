"""The phases of a subscription schedule that changes prices at a renewal and nothing else; no calls.

A schedule's phase is shown in other terms than it is asked for ("Update a schedule" of Stripe's API
reference, version 2025-02-24.acacia): objects where ids are taken, nulls where nothing is to be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usage_reporting.customer_meters import id_of

Json = dict[str, Any]

_IDS = ("default_payment_method", "on_behalf_of")
_TEXTS = ("application_fee_percent", "billing_cycle_anchor", "collection_method", "currency", "description")


class UnreadablePhaseError(Exception):
    """A phase has something that cannot be asked for again."""


def two_phases(shown: Json, end: int, put_on: Mapping[str, Json]) -> list[Json]:
    """The running phase as it is until `end` (UTC seconds), then the same for one period on other prices.

    `shown`: the schedule that Stripe made from the subscription. `put_on`: the items that take the place of
    others, by the price of those. Raises UnreadablePhaseError.
    """
    phases = shown.get("phases") or []
    if len(phases) != 1:
        raise UnreadablePhaseError(f"schedule {shown['id']} has {len(phases)} phases, not the one of today")
    [phase] = phases
    if phase.get("add_invoice_items") or phase.get("billing_thresholds"):
        raise UnreadablePhaseError("the subscription has invoice items or thresholds that would be made anew")
    kept = phase_params(phase)
    items = [item_params(item) for item in phase["items"]]
    first = {**kept, "items": items, "start_date": phase["start_date"], "end_date": end}
    if phase.get("trial_end"):
        first["trial_end"] = phase["trial_end"]
    missing = put_on.keys() - {item["price"] for item in items}
    if missing:
        raise UnreadablePhaseError(f"schedule {shown['id']} does not hold {', '.join(sorted(missing))}")
    switched = [put_on.get(item["price"], item) for item in items]
    return [first, {**kept, "items": switched, "iterations": 1}]


def phase_params(phase: Json) -> Json:
    """What a phase says beside its items and times, as it is asked for; without proration."""
    params: Json = {"proration_behavior": "none"}
    params |= {name: phase[name] for name in _TEXTS if phase.get(name) is not None}
    params |= {name: id_of(phase[name]) for name in _IDS if phase.get(name)}
    if phase.get("metadata"):
        params["metadata"] = dict(phase["metadata"])
    if phase.get("default_tax_rates"):
        params["default_tax_rates"] = [id_of(rate) for rate in phase["default_tax_rates"]]
    if phase.get("discounts"):
        params["discounts"] = [_discount(one) for one in phase["discounts"]]
    if tax := phase.get("automatic_tax"):
        params["automatic_tax"] = {"enabled": tax["enabled"], **_party(tax, "liability")}
    if transfer := phase.get("transfer_data"):
        params["transfer_data"] = {**_said(transfer), "destination": id_of(transfer["destination"])}
    if settings := phase.get("invoice_settings"):
        params["invoice_settings"] = _invoice_settings(settings)
    return params


def item_params(item: Json) -> Json:
    """A phase's item as it is asked for."""
    params: Json = {"price": id_of(item["price"])}
    if item.get("billing_thresholds"):
        raise UnreadablePhaseError("an item has billing thresholds")
    if item.get("quantity") is not None:
        params["quantity"] = item["quantity"]
    if item.get("metadata"):
        params["metadata"] = dict(item["metadata"])
    if item.get("tax_rates"):
        params["tax_rates"] = [id_of(rate) for rate in item["tax_rates"]]
    if item.get("discounts"):
        params["discounts"] = [_discount(one) for one in item["discounts"]]
    return params


def put_on(item: Json, price: str, metadata: Mapping[str, str]) -> Json:
    """The item that takes the place of a metered one: with its discounts and taxes, and more metadata."""
    params = item_params(item)
    params.pop("quantity", None)
    return {**params, "price": price, "metadata": {**params.get("metadata", {}), **metadata}}


def _discount(shown: Json) -> Json:
    """One that was redeemed is used on, with the time that is left of it; else what it is made of."""
    for name in ("discount", "promotion_code", "coupon"):
        if shown.get(name):
            return {name: id_of(shown[name])}
    raise UnreadablePhaseError("a discount names neither a coupon nor a promotion code")


def _invoice_settings(settings: Json) -> Json:
    params = _said({name: value for name, value in settings.items() if name != "account_tax_ids"})
    if settings.get("account_tax_ids"):
        params["account_tax_ids"] = [id_of(one) for one in settings["account_tax_ids"]]
    return {**params, **_party(settings, "issuer")}


def _party(holder: Json, name: str) -> Json:
    if not holder.get(name):
        return {}
    party = holder[name]
    account = {"account": id_of(party["account"])} if party.get("account") else {}
    return {name: {"type": party["type"], **account}}


def _said(holder: Json) -> Json:
    return {name: value for name, value in holder.items() if value is not None}
