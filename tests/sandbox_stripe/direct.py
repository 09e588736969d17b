"""Calls the stand-in without a server, and makes what most tests need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import copy
from typing import Any
from urllib.parse import quote_plus

from sandbox.clock import ManualClock
from sandbox.stripe import DEFAULT_API_VERSION, LEGACY_API_VERSION, StripeSandbox
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.messages import Request, Response

Json = dict[str, Any]
ACACIA = LEGACY_API_VERSION
HOUR = 3600
DAY = 24 * HOUR


def encode(params: Mapping[str, Any]) -> str:
    """Parameters in bracket notation, as Stripe's clients write them."""
    pairs: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, row in value.items():
                add(f"{name}[{key}]", row)
        elif isinstance(value, list):
            for index, row in enumerate(value):
                add(f"{name}[{index}]", row)
        else:
            pairs.append((name, str(value).lower() if isinstance(value, bool) else str(value)))

    for name, value in params.items():
        add(name, value)
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs)


class Direct:
    """Requests to one stand-in, or for an account that is connected to it."""

    def __init__(self, stripe: StripeSandbox) -> None:
        self.gateway = Gateway(stripe)
        self._naming: dict[str, str] = {}

    def acting_for(self, account: str) -> Direct:
        """Requests through the same gateway that name a connected account."""
        other = copy(self)
        other._naming = {"stripe-account": account}
        return other

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        version: str = DEFAULT_API_VERSION,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        encoded = encode(params or {})
        in_body = method == "POST"
        request = Request(
            method,
            f"/v1/{path}",
            "" if in_body else encoded,
            {
                "authorization": "Bearer sk_test_sandbox",
                "stripe-version": version,
                **self._naming,
                **(headers or {}),
            },
            encoded.encode() if in_body else b"",
        )
        return asyncio.run(self.gateway.answer(request))

    def get(self, path: str, params: Mapping[str, Any] | None = None, **rest: Any) -> Json:
        return _success(self.request("GET", path, params, **rest))

    def post(self, path: str, params: Mapping[str, Any] | None = None, **rest: Any) -> Json:
        return _success(self.request("POST", path, params, **rest))

    def delete(self, path: str, params: Mapping[str, Any] | None = None, **rest: Any) -> Json:
        return _success(self.request("DELETE", path, params, **rest))

    def error(self, method: str, path: str, params: Mapping[str, Any] | None = None, **rest: Any) -> Json:
        """The error object of a request that must fail, with its `status`."""
        response = self.request(method, path, params, **rest)
        assert response.status >= 400, response.json()
        return {"status": response.status, **response.json()["error"]}


def _success(response: Response) -> Json:
    content: Json = response.json()
    assert response.status == 200, content
    return content


class World:
    """A product, a meter, a price and a customer, and shortcuts around them."""

    def __init__(
        self, stripe: StripeSandbox, clock: ManualClock, formula: str = "sum", api: Direct | None = None
    ) -> None:
        self.stripe = stripe
        self.clock = clock
        self.api = api or Direct(stripe)
        self.product = self.api.post("products", {"name": "Execution Duration"})
        self.meter = self.new_meter("m1", formula)
        self.price = self.new_price()
        self.customer = self.api.post("customers", {"email": "a@example.com"})

    def new_meter(self, event_name: str, formula: str = "sum", **rest: Any) -> Json:
        return self.api.post(
            "billing/meters",
            {
                "display_name": event_name,
                "event_name": event_name,
                "default_aggregation": {"formula": formula},
                **rest,
            },
        )

    def new_price(self, cents: str = "10", meter: Json | None = None, **recurring: Any) -> Json:
        return self.api.post(
            "prices",
            {
                "currency": "usd",
                "product": self.product["id"],
                "unit_amount_decimal": cents,
                "recurring": {
                    "interval": "month",
                    "usage_type": "metered",
                    "meter": (meter or self.meter)["id"],
                    **recurring,
                },
            },
        )

    def licensed_price(self, cents: int = 500, **recurring: Any) -> Json:
        return self.api.post(
            "prices",
            {
                "currency": "usd",
                "product": self.product["id"],
                "unit_amount": cents,
                "recurring": {"interval": "month", **recurring},
            },
        )

    def legacy_price(self, **recurring: Any) -> Json:
        return self.api.post(
            "prices",
            {
                "currency": "usd",
                "product": self.product["id"],
                "unit_amount": 10,
                "recurring": {"interval": "month", "usage_type": "metered", **recurring},
            },
            version=ACACIA,
        )

    def subscribe(self, *prices: Json, version: str = DEFAULT_API_VERSION, **params: Any) -> Json:
        items = [{"price": price["id"]} for price in prices or (self.price,)]
        asked = {"customer": self.customer["id"], "items": items, **params}
        return self.api.post("subscriptions", asked, version=version)

    def report(self, value: str, at: int | None = None, *, event_name: str = "m1", **rest: Any) -> Json:
        return self.api.post("billing/meter_events", self.event(value, at, event_name, **rest))

    def event(self, value: str, at: int | None = None, event_name: str = "m1", **rest: Any) -> Json:
        payload = {"stripe_customer_id": self.customer["id"], "value": value}
        timestamp = self.clock() if at is None else at
        return {"event_name": event_name, "payload": payload, "timestamp": timestamp, **rest}

    def subscription(self, subscription: Json, **rest: Any) -> Json:
        return self.api.get(f"subscriptions/{subscription['id']}", **rest)

    def invoices(self, **params: Any) -> list[Json]:
        """Newest first."""
        found: list[Json] = self.api.get("invoices", {"limit": 100, **params})["data"]
        return found

    def lines(self, invoice: Json) -> list[Json]:
        found: list[Json] = self.api.get(f"invoices/{invoice['id']}/lines")["data"]
        return found

    def billed(self, subscription: Json) -> dict[str, str]:
        """Quantity per price over all final invoices; a price on several lines is listed with `+`."""
        totals: dict[str, str] = {}
        for invoice in reversed(self.invoices(subscription=subscription["id"])):
            if invoice["status"] != "draft":
                for line in self.lines(invoice):
                    price = line["pricing"]["price_details"]["price"]
                    quantity = line["quantity_decimal"]
                    totals[price] = f"{totals[price]}+{quantity}" if price in totals else quantity
        return totals

    def to(self, instant: int) -> None:
        self.clock.set(instant)
        self.stripe.run_due()

    def finish(self, instant: int) -> None:
        """Beyond an instant and the grace period of the draft that it brings."""
        self.to(instant + HOUR)


def end_of(subscription: Json) -> int:
    """The end of the first item's period."""
    end: int = subscription["items"]["data"][0]["current_period_end"]
    return end
