"""Customers and subscriptions made for benchmarks are as those made over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.bench.population import Subscriber, scattered, subscribe, use
from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox
from sandbox.stripe import StripeSandbox, lifecycle
from sandbox.stripe.books import Books
from sandbox.stripe.errors import StripeError
from sandbox.stripe.objects import Subscription
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Direct, Json, World, end_of

METADATA = {"om_meter_id": "m1"}


def over_http(world: World, price: Json) -> Subscriber:
    customer = world.api.post("customers", {"email": "customer-0@example.com"})
    item = {"price": price["id"], "metadata": METADATA}
    made = world.api.post("subscriptions", {"customer": customer["id"], "items": [item]})
    return Subscriber(customer["id"], made["id"])


def shown(world: World, one: Subscriber, version: str) -> Any:
    """Everything that the API tells of a subscriber, with the ids that are its own left out."""
    subscription = world.subscription({"id": one.subscription}, version=version)
    found = [
        world.api.get(f"customers/{one.customer}", version=version),
        subscription,
        world.api.get("subscriptions", {"customer": one.customer}, version=version)["data"],
        [
            {**event, "id": "", "request": {**event["request"], "id": event["request"]["id"][:4]}}
            for event in world.api.get("events", {"limit": 100})["data"]
            if one.customer in str(event)
        ],
    ]
    return without(found, one.customer, one.subscription, subscription["items"]["data"][0]["id"])


def without(value: Any, *ids: str) -> Any:
    if isinstance(value, dict):
        return {name: without(member, *ids) for name, member in value.items() if name != "invoice_prefix"}
    if isinstance(value, list):
        return [without(member, *ids) for member in value]
    if isinstance(value, str):
        for number, id_ in enumerate(ids):
            value = value.replace(id_, f"id {number}")
    return value


def test_they_cannot_be_told_apart(world: World, stripe: StripeSandbox, clock: ManualClock) -> None:
    """Neither at once nor when a period has been billed."""
    by_hand = over_http(world, world.price)
    [made] = subscribe(stripe, world.price["id"], [clock()], item_metadata=METADATA)
    for version in ("2026-05-27.dahlia", ACACIA):
        assert shown(world, made, version) == shown(world, by_hand, version)
    ids = [made.subscription, by_hand.subscription]
    assert [row["id"] for row in world.api.get("subscriptions")["data"]] == ids
    for one in (made, by_hand):
        event = world.event("1.5")
        payload = {**event["payload"], "stripe_customer_id": one.customer}
        world.api.post("billing/meter_events", {**event, "payload": payload})
    world.finish(end_of(world.subscription({"id": made.subscription})))
    bills = [world.billed({"id": id_}) for id_ in ids]
    assert bills == [{world.price["id"]: "1.5"}] * 2


def test_each_begins_at_its_anchor(world: World, stripe: StripeSandbox) -> None:
    anchors = scattered(5, NOW - 10 * DAY, NOW)
    assert anchors == [NOW - days * DAY for days in (10, 8, 6, 4, 2)]
    made = subscribe(stripe, world.price["id"], reversed(anchors))
    rows = world.api.get("subscriptions")["data"]
    assert [row["id"] for row in rows] == [one.subscription for one in reversed(made)]
    for row, anchor in zip(reversed(rows), anchors, strict=True):
        assert {row["created"], row["start_date"], row["billing_cycle_anchor"]} == {anchor}
        assert row["items"]["data"][0]["current_period_start"] == anchor
        assert world.api.get(f"customers/{row['customer']}")["created"] == anchor


def test_the_same_anchor_for_all_renews_all_at_once(
    world: World, stripe: StripeSandbox, clock: ManualClock
) -> None:
    made = subscribe(stripe, world.price["id"], [NOW - DAY] * 3)
    end = end_of(world.subscription({"id": made[0].subscription}))
    world.to(end - 1)
    assert world.invoices() == []
    world.to(end)
    assert {draft["subscription"] for draft in _drafts(world)} == {one.subscription for one in made}


def _drafts(world: World) -> list[Json]:
    drafts = world.api.get("invoices", {"status": "draft"}, version=ACACIA)["data"]
    return list(drafts)


def test_while_nothing_is_due_no_subscription_is_looked_at(
    world: World, stripe: StripeSandbox, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(stripe, world.price["id"], scattered(20, NOW - 10 * DAY, NOW))
    stripe.advance()
    asked: list[str] = []

    def next_due(_books: Books, subscription: Subscription) -> None:
        asked.append(subscription.id)

    monkeypatch.setattr(lifecycle, "next_due", next_due)
    clock.advance(DAY)
    stripe.advance()
    stripe.run_due()
    assert asked == []


def test_what_cannot_be(world: World, stripe: StripeSandbox, api: Direct) -> None:
    with pytest.raises(ValueError, match="future"):
        subscribe(stripe, world.price["id"], [NOW + 1])
    with pytest.raises(StripeError, match="No such price"):
        subscribe(stripe, "price_none", [NOW])
    assert api.get("subscriptions")["data"] == []


def test_usage_is_measured_hour_by_hour(clock: ManualClock) -> None:
    openmeter = OpenMeterSandbox(clock)
    openmeter.create_meter("tokens", "prompt")
    hour = NOW // HOUR * HOUR
    hours = [hour - 2 * HOUR, hour - HOUR]
    assert use(openmeter, "prompt", ["cus_a", "cus_b"], hours, value=2.5) == 4
    answer = openmeter.query("tokens", start=hours[0], end=hour, subjects=["cus_b"], window_size="HOUR")
    assert [row.value for row in answer.rows] == [2.5, 2.5]
    assert use(openmeter, "prompt", ["cus_a", "cus_b"], hours, value=2.5) == 0
