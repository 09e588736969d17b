"""Test clocks: customers with a time of their own, which is moved forward by a call."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import DAY, HOUR, Json, World, end_of

START = NOW - 20 * DAY
CLOCKS = "test_helpers/test_clocks"


@pytest.fixture
def world(stripe: StripeSandbox, clock: ManualClock) -> World:
    return World(stripe, clock)


def new_clock(world: World, at: int = START) -> Json:
    return world.api.post(CLOCKS, {"frozen_time": at, "name": "probe"})


def on_clock(world: World, clock: Json, **subscription: Any) -> Json:
    """A subscription to a daily price, of a customer on the clock; the world's customer from now on."""
    world.customer = world.api.post("customers", {"test_clock": clock["id"]})
    return world.subscribe(world.new_price(interval="day"), **subscription)


def advance(world: World, clock: Json, to: int) -> Json:
    """To an instant that may be many intervals away; answers the clock once it is there."""
    at = world.api.get(f"{CLOCKS}/{clock['id']}")["frozen_time"]
    while at < to:
        at = min(at + 2 * DAY, to)
        world.api.post(f"{CLOCKS}/{clock['id']}/advance", {"frozen_time": at})
    return world.api.get(f"{CLOCKS}/{clock['id']}")


def test_objects_of_a_clock_live_in_its_time(world: World) -> None:
    clock = new_clock(world)
    subscription = on_clock(world, clock)

    assert {subscription["created"], subscription["start_date"], world.customer["created"]} == {START}
    assert (subscription["test_clock"], world.customer["test_clock"]) == (clock["id"], clock["id"])
    assert end_of(subscription) == START + DAY
    world.report("3", START + 60)
    advance(world, clock, START + DAY + HOUR + 1)
    (invoice,) = world.invoices(customer=world.customer["id"])
    assert (invoice["created"], invoice["status_transitions"]["finalized_at"]) == (
        START + DAY,
        START + DAY + HOUR,
    )
    assert invoice["test_clock"] == clock["id"]
    assert [line["quantity_decimal"] for line in world.lines(invoice)] == ["3"]
    told = world.api.get("events", {"type": "invoice.finalized"})["data"]
    assert [event["created"] for event in told] == [START + DAY + HOUR]


def test_real_time_moves_neither_a_clock_nor_what_is_on_it(world: World) -> None:
    clock = new_clock(world)
    subscription = on_clock(world, clock)
    world.to(NOW + 10 * DAY)

    assert world.api.get(f"{CLOCKS}/{clock['id']}")["frozen_time"] == START
    assert world.subscription(subscription)["items"] == subscription["items"]
    assert world.invoices(customer=world.customer["id"]) == []


def test_a_clock_moves_nobody_else(world: World) -> None:
    other = world.subscribe(world.new_price(interval="day"))
    clock = new_clock(world)
    on_clock(world, clock)
    advance(world, clock, START + 10 * DAY)

    assert world.subscription(other)["items"] == other["items"]


def test_advancing_takes_a_while_in_which_nothing_may_be_changed(
    world: World, stripe: StripeSandbox, clock: ManualClock
) -> None:
    stripe.change_settings(test_clock_advance=20)
    made = new_clock(world)
    subscription = on_clock(world, made)
    path = f"{CLOCKS}/{made['id']}"
    started = world.api.post(f"{path}/advance", {"frozen_time": START + DAY})

    assert (started["status"], started["frozen_time"]) == ("advancing", START)
    assert started["status_details"] == {"advancing": {"target_frozen_time": START + DAY}}
    clock.advance(19)
    assert world.api.get(path)["status"] == "advancing"
    for method, where, params in [
        ("DELETE", path, {}),
        ("POST", f"{path}/advance", {"frozen_time": START + 2 * DAY}),
        ("DELETE", f"subscriptions/{subscription['id']}", {}),
        ("POST", "billing/meter_events", world.event("1", START)),
    ]:
        assert "currently advancing" in world.api.error(method, where, params)["message"]
    clock.advance(1)
    ready = world.api.get(path)
    assert (ready["status"], ready["frozen_time"], ready["status_details"]) == ("ready", START + DAY, {})
    kinds = {"types": [f"test_helpers.test_clock.{kind}" for kind in ("created", "advancing", "ready")]}
    assert [event["type"].rpartition(".")[2] for event in world.api.get("events", kinds)["data"]] == [
        "ready",
        "advancing",
        "created",
    ]


@pytest.mark.parametrize("to", [START, START - 1, START + 2 * DAY + 1])
def test_a_clock_moves_forward_by_at_most_two_of_the_shortest_intervals(world: World, to: int) -> None:
    clock = new_clock(world)
    on_clock(world, clock)
    world.subscribe()

    assert world.api.error("POST", f"{CLOCKS}/{clock['id']}/advance", {"frozen_time": to})["status"] == 400
    advance(world, clock, START + 2 * DAY)


def test_without_a_subscription_a_clock_moves_by_two_years(world: World) -> None:
    path = f"{CLOCKS}/{new_clock(world)['id']}/advance"

    assert world.api.error("POST", path, {"frozen_time": START + 731 * DAY})["status"] == 400
    world.api.post(path, {"frozen_time": START + 730 * DAY})


def test_a_clock_takes_three_customers_and_each_three_subscriptions(world: World) -> None:
    clock = new_clock(world)
    for _ in range(3):
        on_clock(world, clock)
    for _ in range(2):
        world.subscribe()

    assert world.api.error("POST", "customers", {"test_clock": clock["id"]})["param"] == "test_clock"
    params = {"customer": world.customer["id"], "items": [{"price": world.price["id"]}]}
    assert world.api.error("POST", "subscriptions", params)["param"] == "customer"
    assert world.api.error("POST", "customers", {"test_clock": "clock_none"})["code"] == "resource_missing"


def test_lists_hide_what_is_on_a_clock_unless_it_is_asked_for(world: World) -> None:
    clock = new_clock(world)
    subscription = on_clock(world, clock)
    advance(world, clock, START + DAY)
    owner = {"customer": world.customer["id"]}

    def ids(path: str, **params: Any) -> list[str]:
        return [row["id"] for row in world.api.get(path, params)["data"]]

    assert world.customer["id"] not in ids("customers")
    assert ids("customers", test_clock=clock["id"]) == [world.customer["id"]]
    assert ids("subscriptions") == []
    assert (
        ids("subscriptions", test_clock=clock["id"]) == [subscription["id"]] == ids("subscriptions", **owner)
    )
    assert ids("invoices") == []
    assert len(ids("invoices", **owner)) == len(ids("invoices", subscription=subscription["id"])) == 1


def test_deleting_a_clock_deletes_its_customers(world: World) -> None:
    clock = new_clock(world)
    subscription = on_clock(world, clock)
    advance(world, clock, START + DAY)
    gone = world.api.delete(f"{CLOCKS}/{clock['id']}")

    assert gone == {"id": clock["id"], "object": "test_helpers.test_clock", "deleted": True}
    assert world.api.get(f"customers/{world.customer['id']}")["deleted"]
    assert world.api.error("GET", f"subscriptions/{subscription['id']}")["status"] == 404
    assert world.invoices(customer=world.customer["id"]) == []
    assert world.api.error("GET", f"{CLOCKS}/{clock['id']}")["status"] == 404


def test_a_clock_is_deleted_after_30_days(world: World) -> None:
    clock = new_clock(world)
    on_clock(world, clock)
    assert clock["deletes_after"] == NOW + 30 * DAY
    world.to(NOW + 30 * DAY)

    assert world.api.error("GET", f"{CLOCKS}/{clock['id']}")["status"] == 404


def test_live_mode_has_no_clocks(clock: ManualClock) -> None:
    live = World(StripeSandbox(clock, StripeSettings(livemode=True)), clock)
    assert "test mode" in live.api.error("POST", CLOCKS, {"frozen_time": START})["message"]


def test_stamps_are_checked_by_the_clock(world: World) -> None:
    on_clock(world, new_clock(world))

    assert world.api.error("POST", "billing/meter_events", world.event("1", START + 301))["status"] == 400
    world.report("1", START - 35 * DAY)
    taken = world.api.post("billing/meter_events", {**world.event("1", START + 300)})
    assert (taken["created"], taken["timestamp"]) == (START, START + 300)


def test_identifiers_and_aggregation_go_by_real_time(
    world: World, stripe: StripeSandbox, clock: ManualClock
) -> None:
    stripe.change_settings(aggregation_delay=60)
    made = new_clock(world)
    on_clock(world, made)
    world.report("5", START, identifier="i1")
    advance(world, made, START + 2 * DAY)
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    first = START // 60 * 60
    asked = {"customer": world.customer["id"], "start_time": first, "end_time": first + 60}

    again = world.event("5", START + 2 * DAY, identifier="i1")
    assert "already exists" in world.api.error("POST", "billing/meter_events", again)["message"]
    assert world.api.get(path, asked)["data"] == []
    clock.advance(60)
    assert [row["aggregated_value"] for row in world.api.get(path, asked)["data"]] == [5]


def test_webhooks_of_a_clock_are_posted_at_once_and_hold_its_drafts(clock: ManualClock) -> None:
    answers = [500, 200]
    stripe = StripeSandbox(clock, StripeSettings(seed=1), deliver=lambda *_: answers.pop(0))
    world = World(stripe, clock)
    asked = {"url": "https://example.com", "enabled_events": ["invoice.created"]}
    world.api.post("webhook_endpoints", asked)
    made = new_clock(world)
    on_clock(world, made)
    advance(world, made, START + DAY + 2 * HOUR)
    stripe.run_due()

    (invoice,) = world.invoices(customer=world.customer["id"])
    assert (answers, invoice["status"]) == ([200], "draft")
    world.to(NOW + 10 * 60)
    (invoice,) = world.invoices(customer=world.customer["id"])
    assert (answers, invoice["status"]) == ([], "paid")
    assert invoice["webhooks_delivered_at"] == START + DAY + 2 * HOUR


def test_a_customer_can_have_the_test_card(world: World) -> None:
    card = "pm_card_visa"
    asked = {"payment_method": card, "invoice_settings": {"default_payment_method": card}}
    made = world.api.post("customers", asked)

    assert made["invoice_settings"]["default_payment_method"].startswith("pm_")
    assert world.api.error("POST", "customers", {"payment_method": "pm_card_none"})["status"] == 400


def test_shapes_and_requests_fit_stripes_spec(world: World, stripe: StripeSandbox) -> None:
    stripe.change_settings(test_clock_advance=20)
    clock = new_clock(world)
    subscription = on_clock(world, clock)
    started = world.api.post(f"{CLOCKS}/{clock['id']}/advance", {"frozen_time": START + DAY})
    world.clock.advance(20)
    ready = world.api.get(f"{CLOCKS}/{clock['id']}")
    shown = [clock, started, ready, *world.api.get(CLOCKS)["data"]]
    (invoice,) = world.invoices(customer=world.customer["id"])
    gone = world.api.delete(f"{CLOCKS}/{clock['id']}")

    for row in shown:
        assert object_errors("test_helpers.test_clock", row) == []
    assert object_errors("invoice", invoice) == []
    assert object_errors("subscription", subscription) == []
    assert object_errors("deleted_test_helpers.test_clock", gone) == []
    for event in world.api.get("events", {"limit": 100})["data"]:
        assert object_errors("event", event) == []
    for request in stripe.log.requests:
        assert request_errors(request.method, request.path, request.params) == []
