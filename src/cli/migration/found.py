"""What a migration finds in Stripe: legacy prices, who is on them, and how far each of them is; no calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from usage_reporting.customer_meters import id_of, period_of
from usage_reporting.model import CustomerMeter, Span
from usage_reporting.successors import OM_SUCCESSOR_PRICE
from usage_reporting.usage_since import OM_USAGE_SINCE

Json = dict[str, Any]

OM_PREDECESSOR_PRICE = "om_predecessor_price"
"""On a price that was made here: the legacy price that it takes the place of."""
OM_MIRRORED_SINCE = "om_mirrored_since"
"""On a legacy price: when it was given its successor, UTC seconds."""
OM_SWITCH_AT = "om_switch_at"
"""On a subscription and on its schedule: the renewal at which it is switched, UTC seconds."""
OM_SWITCH_REASON = "om_switch_reason"
"""On a schedule: why it was made though no period had compared exact."""

LIVE = frozenset({"active", "past_due"})
"""The states in which a subscription renews and bills what was used."""


class Stage(StrEnum):
    """How far a price, or a subscription on it, is."""

    LEFT = "not migrated"
    FOUND = "found"
    PREPARED = "prepared"
    """The new price is there, and does not take the place of the old one yet: `prepare` was cut short."""
    MIRRORED = "mirrored"
    COMPARED = "compared"
    SCHEDULED = "scheduled"
    SWITCHED = "switched"


@dataclass(slots=True)
class LegacyItem:
    """A subscription item on a legacy price."""

    subscription: Json
    item: Json
    customer_meter: CustomerMeter | None
    """None: it names no OpenMeter meter."""
    refusal: str = ""
    """Why it is not switched, and what to do; empty where it can be."""

    @property
    def id(self) -> str:
        """Stripe's id of the item."""
        return str(self.item["id"])

    @property
    def price(self) -> str:
        """The id of its legacy price."""
        return str(self.item["price"]["id"])

    @property
    def customer(self) -> str:
        """Stripe's id of the customer."""
        return id_of(self.subscription["customer"])

    @property
    def period(self) -> tuple[int, int]:
        """Its running period, UTC seconds."""
        return period_of(self.subscription, self.item) or (0, 0)

    @property
    def span(self) -> Span | None:
        """What Stripe bills on it in its running period."""
        spans = self.customer_meter.spans if self.customer_meter else ()
        return spans[0] if spans else None

    @property
    def is_scheduled(self) -> bool:
        """Whether a schedule of ours will switch it."""
        return is_ours(self.subscription, self.period[1])


@dataclass(slots=True)
class LegacyPrice:
    """A price that is billed by usage records, and all that hold it."""

    document: Json
    """As API version 2025-02-24.acacia shows it, with its tiers and currency options."""
    items: list[LegacyItem] = field(default_factory=list)
    openmeter_meter: str = ""
    """The meter in OpenMeter that all its items name."""
    formula: str = ""
    """Of the Stripe meter that holds its usage: `sum` or `last`."""
    refusal: str = ""
    successor: Json | None = None
    switched: list[Json] = field(default_factory=list)
    """The live subscriptions that were switched from it."""
    begun: int = 0
    """How many live subscriptions began with the successor: new customers."""

    @property
    def id(self) -> str:
        """Stripe's id."""
        return str(self.document["id"])

    @property
    def metadata(self) -> Json:
        """Its metadata."""
        return self.document.get("metadata") or {}

    @property
    def is_mirrored(self) -> bool:
        """Whether the functions mirror its items into the successor's meter."""
        return self.successor is not None and self.metadata.get(OM_SUCCESSOR_PRICE) == self.successor["id"]

    @property
    def mirrored_since(self) -> int:
        """From when on it has had a successor, UTC seconds: named by hand, since that was made."""
        made = int(self.successor["created"]) if self.successor else 0
        return seconds(self.metadata.get(OM_MIRRORED_SINCE)) or made

    @property
    def meter(self) -> str:
        """The id of the successor's Stripe meter; empty without one."""
        return str(self.successor["recurring"]["meter"]) if self.successor else ""

    @property
    def stage(self) -> Stage:
        """How far the price is; its subscriptions have stages of their own."""
        if self.refusal:
            return Stage.LEFT
        if self.is_mirrored:
            return Stage.MIRRORED if self.items or not self.switched else Stage.SWITCHED
        is_begun = self.successor is not None and self.successor["active"]
        return Stage.PREPARED if is_begun else Stage.FOUND


@dataclass(slots=True)
class Found:
    """The legacy prices of an account that concern a migration."""

    prices: list[LegacyPrice] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Subscriptions that could not be read, and why."""

    @property
    def items(self) -> Iterator[tuple[LegacyPrice, LegacyItem]]:
        """All items, each with its price."""
        return ((price, item) for price in self.prices for item in price.items)

    @property
    def unread(self) -> str:
        """Why nothing is archived: a subscription that could not be read may be on any price."""
        if not self.unreadable:
            return ""
        return f"{', '.join(sorted(self.unreadable)[:3])} could not be read, and may need it"


def seconds(text: Any) -> int:
    """UTC seconds as metadata holds them; 0 for anything else."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else 0


def is_legacy(price: Json) -> bool:
    """Whether a price is metered without a meter: by usage records."""
    recurring = price.get("recurring") or {}
    return recurring.get("usage_type") == "metered" and not recurring.get("meter")


def is_ours(subscription: Json, end: int) -> bool:
    """Whether a schedule that a migration made, or has begun to make, switches a subscription at `end`.

    `end`: of its running period, UTC seconds. A mark of an earlier renewal is of a switch that is over.
    """
    mark = (subscription.get("metadata") or {}).get(OM_SWITCH_AT)
    return bool(subscription.get("schedule")) and seconds(mark) == end


def switched_since(subscription: Json, price: str) -> int:
    """From when on a switched subscription's usage is billed by a price, UTC seconds.

    0: it was not switched to that price.
    """
    for item in (subscription.get("items") or {}).get("data", []):
        if item["price"]["id"] == price:
            return seconds((item.get("metadata") or {}).get(OM_USAGE_SINCE))
    return 0


def refusal_of(subscription: Json, items: Sequence[Json]) -> str:
    """Why a subscription is not switched now, and what to do; empty where it can be.

    Schedules can hold none of these (API reference, "Create a schedule"), or would move something else
    than the price.
    """
    return _state_refusal(subscription) or _shape_refusal(subscription, items)


def _state_refusal(subscription: Json) -> str:
    state = str(subscription.get("status"))
    if state == "trialing":
        return "it is in a trial; it can be compared and switched in a period that is billed"
    if state not in LIVE:
        return f"its status is {state}: no period of it is billed; it can be switched when it is active"
    if subscription.get("cancel_at") or subscription.get("cancel_at_period_end"):
        return "it ends and does not renew; its last period is billed by usage records"
    return ""


def _shape_refusal(subscription: Json, items: Sequence[Json]) -> str:
    periods = {period_of(subscription, item) or (0, 0) for item in items}
    if len(periods) > 1:
        return "its items renew at different times, and a schedule has one time for all; switch it by hand"
    if subscription.get("schedule") and not any(is_ours(subscription, end) for _, end in periods):
        return (
            f"it is on schedule {id_of(subscription['schedule'])} already; put the new price into that "
            "schedule by hand, or release it"
        )
    for name, what in _IN_THE_WAY.items():
        if subscription.get(name):
            return f"it has {what}, which a schedule cannot keep as it is; remove it, or switch it by hand"
    if any(item.get("billing_thresholds") for item in items):
        return "an item has billing thresholds, which bill in the course of a period; remove them"
    return ""


_IN_THE_WAY = {
    "pause_collection": "its collection paused",
    "pending_update": "an update that waits for a payment",
    "billing_thresholds": "billing thresholds",
    "pending_invoice_item_interval": "an interval of its own for pending invoice items",
}
