"""Finds the legacy prices of an account, their subscriptions and their successors; changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.migration.few_at_once import few_at_once
from cli.migration.found import (
    OM_PREDECESSOR_PRICE,
    Found,
    LegacyItem,
    LegacyPrice,
    is_legacy,
    refusal_of,
    switched_since,
)
from cli.migration.legacy_api import LegacyApi
from cli.migration.proposal import formula_of, price_refusal
from cli.wiring import Operator
from usage_reporting.customer_meters import OM_METER_ID, is_metered, meter_id_of
from usage_reporting.errors import RefusedError, UsageReportingError
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.successors import OM_SUCCESSOR_PRICE

Json = dict[str, Any]

_ODD = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class Reader:
    """Reads all that a migration needs to know, in the order in which it depends on one another."""

    parts: Operator
    customer: str = ""
    """Only this customer's subscriptions; empty: everybody's."""
    say: Callable[[str], None] = lambda _text: None
    price: str = ""
    """Only this legacy price; empty: all."""
    _seen: dict[str, tuple[Json, list[LegacyItem]]] = field(default_factory=dict)

    async def read(self) -> Found:
        """The legacy prices that somebody is on, or was. Raises what `StripeApi` raises."""
        api = LegacyApi(self.parts.billing.api)
        metered = {"type": "recurring", "recurring": {"usage_type": "metered"}}
        listed = await api.prices(metered)
        successors = {
            (one.get("metadata") or {}).get(OM_PREDECESSOR_PRICE): one
            for one in reversed(listed)  # newest first: should there be several, the oldest counts
            if not is_legacy(one)
        }
        by_id = {one["id"]: one for one in listed}
        found = Found()
        legacy = [one for one in listed if is_legacy(one) and self.price in ("", one["id"])]
        for number, one in enumerate(legacy, 1):
            self.say(f"reading legacy prices: {number:,} of {len(legacy):,}")
            named = by_id.get((one.get("metadata") or {}).get(OM_SUCCESSOR_PRICE))
            price = await self._price(api, one, named or successors.get(one["id"]))
            if price.items or price.switched or price.successor:
                found.prices.append(price)
        found.unreadable = dict(self.parts.billing.unreadable)
        _refuse_shared_totals(found)
        return found

    async def _price(self, api: LegacyApi, listed: Json, successor: Json | None) -> LegacyPrice:
        price = LegacyPrice(listed, successor=successor)
        price.items = [item for item in await self._items(listed["id"]) if item.price == listed["id"]]
        if successor is not None:
            holders = [one for one, _ in await self._subscriptions(successor["id"])]
            price.switched = [one for one in holders if switched_since(one, successor["id"])]
            price.begun = len(holders) - len(price.switched)
        if price.items or successor is not None:
            price.document = await _whole(api, listed)
            price.successor = await _whole(api, successor) if successor is not None else None
            await self._judge(price)
        return price

    async def _judge(self, price: LegacyPrice) -> None:
        """Say what of the price is migrated, and what is not."""
        ours = [one.customer_meter for one in price.items if one.customer_meter]
        named = {one.openmeter_meter for one in ours}
        if not price.items and price.successor:
            named = {price.successor["metadata"].get(OM_METER_ID, "")}
        price.refusal = price_refusal(price.document, named)
        if price.refusal:
            return
        [price.openmeter_meter] = named
        try:
            meter = await self.parts.openmeter.meter(price.openmeter_meter)
        except RefusedError as error:
            price.refusal = error.reason
            return
        price.formula = formula_of(meter.aggregation)

    async def _items(self, price: str) -> list[LegacyItem]:
        return [item for _, items in await self._subscriptions(price) for item in items]

    async def _subscriptions(self, price: str) -> list[tuple[Json, list[LegacyItem]]]:
        """The live subscriptions that hold a price, and the legacy items of each."""
        billing = self.parts.billing
        query: Json = {"price": price, **({"customer": self.customer} if self.customer else {})}
        if billing.settings.subject_metadata_key:
            query["expand"] = ["data.customer"]
        listed = [one async for page in billing.api.pages("/v1/subscriptions", query) for one in page]

        async def read(subscription: Json) -> None:
            if subscription["id"] not in self._seen:
                self._seen[subscription["id"]] = await self._read(subscription)

        await few_at_once(listed, read)
        return [self._seen[one["id"]] for one in listed]

    async def _read(self, subscription: Json) -> tuple[Json, list[LegacyItem]]:
        """One subscription; what cannot be read of it does not stop the others."""
        billing = self.parts.billing
        try:
            items = await billing.items(subscription)
            whole = {**subscription, "items": {"data": items}}
            mapped = await billing.customer_meters(whole) if any(map(is_metered, items)) else []
        except UsageReportingError as error:
            billing.unreadable[subscription["id"]] = error.reason
            return subscription, []
        except _ODD as error:
            billing.unreadable[subscription["id"]] = (
                f"Stripe's answer lacks or misshapes something: {error!r}"
            )
            return subscription, []
        by_item = {
            span.item: one for one in mapped if one.target is Target.USAGE_RECORD for span in one.spans
        }
        refusal = refusal_of(whole, items)
        return whole, [
            LegacyItem(whole, item, by_item.get(item["id"]), _item_refusal(by_item.get(item["id"]), refusal))
            for item in items
            if is_metered(item) and not meter_id_of(item["price"])
        ]


def _item_refusal(mapped: CustomerMeter | None, refusal: str) -> str:
    if mapped is None:
        return "it names no OpenMeter meter, so that its usage is not ours"
    return mapped.refusal or refusal


async def _whole(api: LegacyApi, price: Json) -> Json:
    """A price with all that a copy needs: a list shows neither its tiers nor its other currencies."""
    path = f"/v1/prices/{price['id']}"
    found = await api.get(path, {"expand": ["tiers", "currency_options"]})
    others = [name for name in found.get("currency_options") or {} if name != found["currency"]]
    if found.get("billing_scheme") == "tiered" and others:
        expand = ["tiers", *(f"currency_options.{name}.tiers" for name in others)]
        found = await api.get(path, {"expand": expand})
    return found


def _refuse_shared_totals(found: Found) -> None:
    """Two items of a customer with unlike periods cannot share a meter that takes the last value."""
    by_customer: dict[tuple[str, str], list[LegacyItem]] = defaultdict(list)
    for price, item in found.items:
        if price.formula == "last":
            by_customer[item.customer, price.openmeter_meter].append(item)
    for several in by_customer.values():
        if len({item.period for item in several}) > 1:
            _refuse(several)


def _refuse(items: Sequence[LegacyItem]) -> None:
    names = " and ".join(sorted(item.id for item in items))
    for item in items:
        item.refusal = item.refusal or (
            f"{names} of this customer take one OpenMeter meter's total over unlike periods, and a meter "
            "with formula 'last' holds one total; move one to the other's billing date, or switch by hand"
        )
