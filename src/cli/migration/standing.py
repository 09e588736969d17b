"""Where a migration stands: each legacy item with its stage, its bills and what there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.migration.comparing import Bill, Compared
from cli.migration.forecast import Forecast
from cli.migration.found import Found, LegacyItem, LegacyPrice, Stage
from usage_reporting.amounts import to_wire
from usage_reporting.pricing import to_major
from usage_reporting.windows import rfc3339

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a migration."""

    found: Found
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    compared: Mapping[str, Compared] = field(default_factory=dict)

    def stage(self, price: LegacyPrice, item: LegacyItem) -> Stage:
        """How far an item is."""
        if price.refusal or item.customer_meter is None:
            return Stage.LEFT
        if item.is_scheduled:
            return Stage.SCHEDULED
        if item.refusal:
            return Stage.LEFT
        compared = self.compared.get(item.id)
        return Stage.COMPARED if compared is not None and compared.is_exact else price.stage

    def reason(self, price: LegacyPrice, item: LegacyItem) -> str:
        """Why an item is not migrated; empty where it can be."""
        if item.customer_meter is None:
            return item.refusal
        return price.refusal or ("" if item.is_scheduled else item.refusal)

    def to_json(self) -> Json:
        """The document that --json prints; amounts are texts in the currency's major unit."""
        return {
            "prices": [self._price(price) for price in self.found.prices],
            "unreadable": [
                {"what": name, "reason": why} for name, why in sorted(self.found.unreadable.items())
            ],
        }

    def _price(self, price: LegacyPrice) -> Json:
        return {
            "price": price.id,
            "active": price.document["active"],
            "openmeter_meter": price.openmeter_meter or None,
            "aggregate_usage": (price.document.get("recurring") or {}).get("aggregate_usage"),
            "stage": price.stage.value,
            "reason": price.refusal,
            "new_price": price.successor["id"] if price.successor else None,
            "stripe_meter": price.meter or None,
            "formula": price.formula or None,
            "mirrored_since": rfc3339(price.mirrored_since) if price.is_mirrored else None,
            "switched_subscriptions": [one["id"] for one in price.switched],
            "items": [self._item(price, item) for item in price.items],
        }

    def _item(self, price: LegacyPrice, item: LegacyItem) -> Json:
        forecast = self.forecasts.get(item.id, Forecast())
        return {
            "stripe_customer": item.customer,
            "subscription": item.subscription["id"],
            "item": item.id,
            "renews": rfc3339(item.period[1]),
            "stage": self.stage(price, item).value,
            "reason": self.reason(price, item),
            "running_period": bill_json(forecast.running),
            "last_invoice": bill_json(forecast.last),
            "unpriced": forecast.problem,
        }


def bill_json(bill: Bill | None) -> Json | None:
    """A bill as it is printed by --json."""
    if bill is None:
        return None
    return {
        "units_old": to_wire(bill.old_units),
        "units_new": to_wire(bill.new_units),
        "currency": bill.currency,
        "old": str(to_major(bill.old, bill.currency)),
        "new": str(to_major(bill.new, bill.currency)),
        "change": str(to_major(bill.change, bill.currency)),
    }


def compared_json(one: Compared) -> Json:
    """The comparison of an item as it is printed by --json."""
    return {
        "stripe_customer": one.item.customer,
        "subscription": one.item.subscription["id"],
        "item": one.item.id,
        "problem": one.problem,
        "first_possible": None if one.periods else rfc3339(one.first_possible),
        "periods": [
            {
                "from": rfc3339(each.period.start),
                "to": rfc3339(each.period.end),
                "measured_from": rfc3339(each.period.measured_from),
                "measured_until": rfc3339(each.period.measured_until),
                "record": to_wire(each.period.quantity),
                "meter": to_wire(each.mirrored),
                "difference": to_wire(each.difference),
                "verdict": each.verdict.value,
                "bill": bill_json(each.bill),
            }
            for each in one.periods
        ],
    }
