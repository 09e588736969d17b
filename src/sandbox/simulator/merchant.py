"""Stripe's side of a history: the catalog, the subscriptions, and what the merchant does to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus

from sandbox.simulator.bills import legacy_cut
from sandbox.simulator.history import METERS, Act, Bounds, Contract, Item
from sandbox.simulator.machine import VirtualClock, VirtualLoop
from sandbox.stripe import DEFAULT_API_VERSION, LEGACY_API_VERSION
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.messages import Request
from usage_reporting.renewals import HANDLED

Json = dict[str, Any]
DAY = 86_400
API_KEY = "sk_test_sandbox"


_UPDATES: dict[str, Callable[[Act], Json]] = {
    "cancel_at_period_end": lambda _act: {"cancel_at_period_end": True},
    "cancel_at": lambda act: {"cancel_at": act.until},
    "pause_collection": lambda act: {"pause_collection": {"behavior": act.behavior}},
    "resume_collection": lambda _act: {"pause_collection": ""},
    "reset_anchor": lambda _act: {"billing_cycle_anchor": "now", "proration_behavior": "none"},
    "end_trial": lambda _act: {"trial_end": "now"},
}
"""Acts that change a subscription by its parameters alone."""


class Merchant:
    """Makes the objects of a history; the dictionaries lead from its names to Stripe's ids and back.

    `account`: the connected account in which they are made, if they are not made in the key's own.
    """

    def __init__(self, gateway: Gateway, clock: VirtualClock, bounds: Bounds, account: str = "") -> None:
        self._gateway = gateway
        self._bounds: Bounds = bounds
        self._acting_for = {"stripe-account": account} if account else {}
        self._loop = VirtualLoop(clock)
        self.api_key = API_KEY
        self.meters = {item.holder: self._meter(item) for slug in METERS for item in _metered(slug)}
        """Stripe's meters by what holds the usage: OpenMeter's slug, and the formula if that is not `sum`."""
        self.product = self._post("products", {"name": "Usage"})["id"]
        self.prices: dict[tuple[str, str, str, str], str] = {}
        self.items_of_price: dict[str, Item] = {}
        self.customers: dict[str, str] = {}
        self.subscriptions: dict[str, str] = {}
        self.customer_of: dict[str, str] = {}
        """Stripe's id of the customer of each contract."""
        self.places: dict[str, list[str]] = {}
        """Subscription items of a contract by place; added ones follow."""
        self._intervals: dict[str, str] = {}
        self._items: dict[str, tuple[Item, ...]] = {}
        self._holders: dict[str, str] = {}
        self._legacy_items: set[str] = set()

    def holder(self, item: str) -> str:
        """What a subscription item is called in a verdict: its contract and its meter."""
        return self._holders[item]

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    def listen(self, *, connect: bool = False) -> tuple[str, str]:
        """Register the webhook, of connected accounts or of this one; its id and signing secret."""
        params: Json = {
            "url": "https://example.com/stripe/webhook",
            "enabled_events": sorted(HANDLED),
            "api_version": DEFAULT_API_VERSION,
        }
        endpoint = self._post("webhook_endpoints", {**params, "connect": True} if connect else params)
        return endpoint["id"], endpoint["secret"]

    def listen_over_event_bridge(self) -> str:
        """Make an event destination on Amazon EventBridge; the name of its event source."""
        body = {
            "name": "usage-reporter-events",
            "type": "amazon_eventbridge",
            "event_payload": "snapshot",
            "snapshot_api_version": DEFAULT_API_VERSION,
            "enabled_events": sorted(HANDLED),
            "amazon_eventbridge": {"aws_account_id": "123456789012", "aws_region": "us-east-1"},
        }
        headers = {
            "authorization": f"Bearer {self.api_key}",
            "stripe-version": DEFAULT_API_VERSION,
            "content-type": "application/json",
        }
        request = Request("POST", "/v2/core/event_destinations", "", headers, json.dumps(body).encode())
        answer: Json = self._loop.run_until_complete(self._gateway.answer(request)).json()
        arn: str = answer["amazon_eventbridge"]["aws_event_source_arn"]
        return arn.partition(":event-source/")[2]

    def customer(self, name: str) -> str:
        """The id of a customer, made when first named."""
        if name not in self.customers:
            self.customers[name] = self._post("customers", {"name": name})["id"]
        return self.customers[name]

    def subscribe(self, contract: Contract) -> None:
        """Make a subscription."""
        is_legacy = any(item.kind == "legacy" for item in contract.items)
        params: Json = {
            "customer": self.customer(contract.customer),
            "items": [self._row(item, contract.interval) for item in contract.items],
        }
        if not is_legacy:
            params["billing_mode"] = {"type": contract.mode}
        if contract.pauses:
            params["trial_settings"] = {"end_behavior": {"missing_payment_method": "pause"}}
        if contract.is_invoiced:
            params |= {"collection_method": "send_invoice", "days_until_due": 14}
        if contract.trial_days:
            params["trial_period_days"] = contract.trial_days
        made = self._post("subscriptions", params, legacy=is_legacy)
        self.customer_of[contract.name] = params["customer"]
        self.subscriptions[contract.name] = made["id"]
        self.places[contract.name] = [item["id"] for item in made["items"]["data"]]
        self._intervals[contract.name] = contract.interval
        self._items[contract.name] = contract.items
        for item in made["items"]["data"]:
            meter = self.items_of_price[item["price"]["id"]].meter
            self._holders[item["id"]] = f"{contract.name} {meter}"
            if self.items_of_price[item["price"]["id"]].kind == "legacy":
                self._legacy_items.add(item["id"])

    def act(self, act: Act) -> None:
        """Do something to a subscription."""
        path = f"subscriptions/{self.subscriptions[act.contract]}"
        if act.kind in _UPDATES:
            self._post(path, _UPDATES[act.kind](act))
        elif act.kind == "cancel_now":
            self._call("DELETE", path, {})
        elif act.kind == "cancel_now_and_bill":
            self._call("DELETE", path, {"invoice_now": True})
        elif act.kind == "delete_customer":
            self._call("DELETE", f"customers/{self.customer_of[act.contract]}", {})
        elif act.kind == "resume":
            self._post(f"{path}/resume", {"billing_cycle_anchor": act.anchor})
        else:
            self._change_items(act, path)

    def _change_items(self, act: Act, path: str) -> None:
        places, interval = self.places[act.contract], self._intervals[act.contract]
        if act.kind == "remove":
            row = {"id": places[act.item], "deleted": True, **self._clearing(places[act.item])}
            self._post(path, {"items": [row], "proration_behavior": act.proration})
        elif act.to is None:
            raise ValueError(f"nothing to put on: {act}")
        elif act.kind == "name_successor":
            named = {"om_successor_price": self.price(act.to, interval)}
            self._post(
                f"prices/{self.price(self._items[act.contract][act.item], interval)}", {"metadata": named}
            )
        elif act.kind == "migrate":
            self._migrate(act, self.price(act.to, interval))
        elif act.kind == "swap_at_renewal":
            self._schedule(act.contract, places[act.item], self.price(act.to, interval))
        elif act.kind == "swap":
            row = {"id": places[act.item], "price": self.price(act.to, interval)}
            self._post(path, {"items": [row], "proration_behavior": act.proration})
        else:
            known = set(places)
            changed = self._post(path, {"items": [self._row(act.to, interval)]})
            places.extend(item["id"] for item in changed["items"]["data"] if item["id"] not in known)

    def _migrate(self, act: Act, price: str) -> None:
        """Let a schedule put a price with a meter in a legacy one's place, with what that leaves to it."""
        schedule = self._post(
            "subscription_schedules", {"from_subscription": self.subscriptions[act.contract]}, legacy=True
        )
        running = schedule["phases"][0]
        since = legacy_cut(running["end_date"], self._bounds)
        now = [
            {name: row[name] for name in ("price", "quantity", "metadata") if row.get(name)}
            for row in running["items"]
        ]
        naming = self._naming(price)
        metered = {"price": price, "metadata": {**naming["metadata"], "om_usage_since": str(since)}}
        then = [metered if number == act.item else row for number, row in enumerate(now)]
        phases = [
            {"start_date": running["start_date"], "end_date": running["end_date"], "items": now},
            {"items": then, "iterations": 1, "proration_behavior": "none"},
        ]
        self._post(f"subscription_schedules/{schedule['id']}", {"phases": phases}, legacy=True)

    def _schedule(self, contract: str, item: str, price: str) -> None:
        """Let a schedule put another price on an item at the next renewal."""
        schedule = self._post("subscription_schedules", {"from_subscription": self.subscriptions[contract]})
        running = schedule["phases"][0]
        place = self.places[contract].index(item)
        now = [{"price": row["price"]} for row in running["items"]]
        then = [{"price": price} if number == place else row for number, row in enumerate(now)]
        metered = [row | self._naming(row["price"]) for row in then]
        phases = [
            {"start_date": running["start_date"], "end_date": running["end_date"], "items": now},
            {"end_date": running["end_date"] + 400 * DAY, "items": metered},
        ]
        self._post(f"subscription_schedules/{schedule['id']}", {"phases": phases})

    def _naming(self, price: str) -> Json:
        item = self.items_of_price[price]
        return {} if item.kind == "licensed" else {"metadata": {"om_meter_id": item.meter}}

    def _clearing(self, item: str) -> Json:
        """Stripe takes no item off that has usage records, unless they are deleted, too."""
        return {"clear_usage": True} if item in self._legacy_items else {}

    def price(self, item: Item, interval: str) -> str:
        """The id of a price, made when first named."""
        interval = item.interval or interval
        key = (item.kind, item.meter, interval, item.variant)
        if key not in self.prices:
            self.prices[key] = self._price(item, interval)
            self.items_of_price[self.prices[key]] = item
        return self.prices[key]

    def _row(self, item: Item, interval: str) -> Json:
        price = self.price(item, interval)
        return {"price": price, **self._naming(price)}

    def _price(self, item: Item, interval: str) -> str:
        recurring: Json = {"interval": interval}
        if item.kind != "licensed":
            recurring["usage_type"] = "metered"
        if item.kind in {"mirror", "last"}:
            recurring["meter"] = self.meters[item.holder]
        params: Json = {"currency": "usd", "unit_amount": 10, "product": self.product, "recurring": recurring}
        if item.kind != "licensed":
            params["metadata"] = {"om_meter_id": item.meter}
        return str(self._post("prices", params, legacy=item.kind == "legacy")["id"])

    def _meter(self, item: Item) -> str:
        params = {
            "display_name": item.holder,
            "event_name": f"usage_{item.meter}_{item.kind}",
            "default_aggregation": {"formula": "last" if item.kind == "last" else "sum"},
        }
        return str(self._post("billing/meters", params)["id"])

    def _post(self, path: str, params: Mapping[str, Any], *, legacy: bool = False) -> Json:
        return self._call("POST", path, params, legacy=legacy)

    def _call(self, method: str, path: str, params: Mapping[str, Any], *, legacy: bool = False) -> Json:
        headers = {
            "authorization": f"Bearer {self.api_key}",
            "stripe-version": LEGACY_API_VERSION if legacy else DEFAULT_API_VERSION,
            **self._acting_for,
        }
        encoded = _encode(params)
        body = encoded.encode() if method == "POST" else b""
        query = "" if method == "POST" else encoded
        request = Request(method, f"/v1/{path}", query, headers, body)
        response = self._loop.run_until_complete(self._gateway.answer(request))
        answer: Json = response.json()
        if response.status != 200:
            raise ValueError(f"{method} {path}: {answer}")
        return answer


def _metered(slug: str) -> Iterator[Item]:
    """The ways in which a meter of Stripe can hold a meter of OpenMeter."""
    if METERS[slug] in {"SUM", "COUNT"}:
        yield Item(meter=slug)
    yield Item(meter=slug, kind="last")


def _encode(params: Mapping[str, Any]) -> str:
    """Parameters in Stripe's bracket notation."""
    pairs: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, held in value.items():
                add(f"{name}[{key}]", held)
        elif isinstance(value, list):
            for place, held in enumerate(value):
                add(f"{name}[{place}]", held)
        else:
            pairs.append((name, str(value).lower() if isinstance(value, bool) else str(value)))

    for name, value in params.items():
        add(name, value)
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs)
