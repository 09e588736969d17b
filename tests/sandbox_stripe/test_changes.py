"""Price swaps, items that come and go, trials, anchors, cancellations."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import DAY, HOUR, Json, World, end_of

CLASSIC: Json = {"billing_mode": {"type": "classic"}}


def item_of(subscription: Json, number: int = 0) -> str:
    found: str = subscription["items"]["data"][number]["id"]
    return found


def swap(world: World, subscription: Json, price: Json, **params: Any) -> Json:
    row = {"id": item_of(subscription), "price": price["id"]}
    return world.api.post(f"subscriptions/{subscription['id']}", {"items": [row], **params})


def test_a_swap_bills_each_price_for_its_own_days(world: World) -> None:
    subscription = world.subscribe()
    new = world.new_price("20")
    world.clock.advance(15 * DAY)
    at = world.clock()
    world.report("3", at - 1)
    swapped = swap(world, subscription, new)
    assert item_of(swapped) == item_of(subscription)
    assert end_of(swapped) == end_of(subscription)
    world.report("100", at - 1)
    world.report("5", at)
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {world.price["id"]: "3", new["id"]: "5"}
    old, fresh = world.lines(world.invoices()[0])
    assert old["parent"]["type"] == "invoice_item_details"
    assert old["period"] == {"start": subscription["created"], "end": at}
    assert fresh["period"] == {"start": at, "end": end_of(subscription)}


def test_a_swap_in_classic_mode_drops_the_usage_before_it(world: World) -> None:
    subscription = world.subscribe(**CLASSIC)
    new = world.new_price("20")
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    swap(world, subscription, new)
    world.report("5")
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {world.price["id"]: "0", new["id"]: "5"}


def test_a_swap_without_prorations_drops_it_too(world: World) -> None:
    subscription = world.subscribe()
    new = world.new_price("20")
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    swap(world, subscription, new, proration_behavior="none")
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {new["id"]: "0"}


def test_a_swap_can_be_invoiced_at_once(world: World) -> None:
    subscription = world.subscribe()
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    swap(world, subscription, world.new_price("20"), proration_behavior="always_invoice")
    assert world.billed(subscription) == {world.price["id"]: "3"}
    assert world.invoices()[0]["billing_reason"] == "subscription_update"


@pytest.mark.parametrize(("mode", "billed"), [({}, "3"), (CLASSIC, None)])
def test_a_removed_item(world: World, mode: Json, billed: str | None) -> None:
    other = world.licensed_price()
    subscription = world.subscribe(world.price, other, **mode)
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    world.api.delete(f"subscription_items/{item_of(subscription)}")
    world.finish(end_of(subscription))
    last = world.invoices()[0]
    quantities = {
        line["pricing"]["price_details"]["price"]: line["quantity_decimal"] for line in world.lines(last)
    }
    assert quantities.get(world.price["id"]) == billed
    assert world.api.error("GET", f"subscription_items/{item_of(subscription)}")["status"] == 404


def test_an_items_metadata_moves_no_period(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    world.clock.advance(DAY)
    path = f"subscription_items/{item_of(subscription)}"
    changed = world.api.post(path, {"metadata": {"om_meter_id": "m1", "k": "v"}})
    assert changed["metadata"] == {"om_meter_id": "m1", "k": "v"}
    assert changed["current_period_end"] == end_of(subscription)
    assert world.api.post(path, {"metadata": {"k": ""}})["metadata"] == {"om_meter_id": "m1"}
    assert world.api.post(path, {"metadata": ""})["metadata"] == {}
    data = next(stripe.events.table.newest()).body(livemode=False)["data"]
    assert list(data["previous_attributes"]) == ["items"]
    assert world.invoices() == []


def test_a_licensed_swap_keeps_the_quantity(world: World) -> None:
    subscription = world.subscribe(world.licensed_price())
    path = f"subscription_items/{item_of(subscription)}"
    assert world.api.post(path, {"quantity": 3})["quantity"] == 3
    swapped = world.api.post(path, {"price": world.licensed_price(700)["id"]})
    assert (swapped["quantity"], swapped["price"]["unit_amount"]) == (3, 700)
    metered = world.api.post(path, {"price": world.price["id"]})
    assert "quantity" not in metered
    assert world.api.error("POST", path, {"quantity": 2})["param"] == "items[0][quantity]"
    world.finish(end_of(subscription))
    assert world.invoices()[0]["total"] == 0


@pytest.mark.parametrize(("mode", "anchor_moves"), [({}, False), (CLASSIC, True)])
def test_a_swap_to_another_interval(world: World, mode: Json, anchor_moves: bool) -> None:
    subscription = world.subscribe(**mode)
    world.clock.advance(DAY)
    weekly = world.new_price("20", interval="week")
    swapped = swap(world, subscription, weekly)
    item = swapped["items"]["data"][0]
    assert item["current_period_start"] == world.clock()
    anchor = world.clock() if anchor_moves else subscription["billing_cycle_anchor"]
    assert swapped["billing_cycle_anchor"] == anchor
    assert item["current_period_end"] == anchor + 7 * DAY


def test_the_last_item_stays(world: World) -> None:
    subscription = world.subscribe()
    item = item_of(subscription)
    assert world.api.error("DELETE", f"subscription_items/{item}")["param"] == "items"
    assert item_of(world.subscription(subscription)) == item
    assert world.api.get(f"subscription_items/{item}")["id"] == item


def test_an_added_item_bills_from_its_creation(world: World) -> None:
    subscription = world.subscribe(world.licensed_price())
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    asked = {"subscription": subscription["id"], "price": world.price["id"]}
    item = world.api.post("subscription_items", {**asked, "metadata": {"om_meter_id": "m1"}})
    assert item["metadata"] == {"om_meter_id": "m1"}
    assert item["created"] == world.clock()
    assert item["current_period_end"] == end_of(subscription)
    world.report("4")
    world.finish(end_of(subscription))
    assert world.billed(subscription)[world.price["id"]] == "4"


def test_a_refused_change_changes_nothing(world: World) -> None:
    subscription = world.subscribe(world.price, world.licensed_price())
    before = world.subscription(subscription)
    rows = [{"id": item_of(subscription), "deleted": True}, {"id": "si_none", "deleted": True}]
    path = f"subscriptions/{subscription['id']}"
    assert world.api.error("POST", path, {"items": rows})["code"] == "resource_missing"
    assert world.subscription(subscription) == before
    assert world.api.get(f"subscription_items/{item_of(subscription)}")


@pytest.mark.parametrize(
    "params",
    [
        {"items": []},
        {"items": [{"price": "price_none"}]},
        {"customer": "cus_none"},
        {"backdate_start_date": 1_900_000_000},
        {"billing_cycle_anchor": 1_000_000_000},
        {"billing_cycle_anchor": 1_900_000_000},
        {"billing_cycle_anchor": NOW},
        {"trial_end": NOW},
        {"cancel_at": NOW},
        {"cancel_at": 1_790_000_000, "cancel_at_period_end": True},
        {"collection_method": "send_invoice"},
        {"days_until_due": 3},
        {"billing_mode": {"type": "rigid"}},
        {"current_period_end": 1},
    ],
)
def test_subscriptions_that_are_refused(world: World, params: Json) -> None:
    asked = {"customer": world.customer["id"], "items": [{"price": world.price["id"]}], **params}
    assert world.api.error("POST", "subscriptions", asked)["status"] == 400
    assert world.api.get("subscriptions", {"status": "all"})["data"] == []


def test_items_that_are_refused(world: World) -> None:
    once = world.api.post("prices", {"currency": "usd", "product": world.product["id"], "unit_amount": 5})
    yearly = world.licensed_price(interval="year")
    metered = {"price": world.price["id"], "quantity": 2}
    base = {"customer": world.customer["id"]}
    for items in ([{"price": once["id"]}], [metered], [{"price": world.price["id"]}] * 2):
        assert world.api.error("POST", "subscriptions", {**base, "items": items})["status"] == 400
    mixed = {**base, "items": [{"price": world.price["id"]}, {"price": yearly["id"]}]}
    assert world.api.error("POST", "subscriptions", {**mixed, **CLASSIC})["param"] == "items"
    both = world.api.post("subscriptions", mixed)["items"]["data"]
    assert both[0]["current_period_end"] < both[1]["current_period_end"]


def test_mixed_intervals_renew_each_in_its_time(world: World) -> None:
    subscription = world.subscribe(world.price, world.licensed_price(interval="year"))
    month, year = subscription["items"]["data"]
    world.finish(month["current_period_end"])
    renewed = world.subscription(subscription)["items"]["data"]
    assert renewed[0]["current_period_start"] == month["current_period_end"]
    assert renewed[1] == year
    assert len(world.lines(world.invoices()[0])) == 1
    asked = {"subscription": subscription["id"], "price": world.new_price("20")["id"]}
    added = world.api.post("subscription_items", asked)
    assert added["current_period_start"] == renewed[0]["current_period_start"]
    assert added["current_period_end"] == renewed[0]["current_period_end"]


def test_usage_in_a_trial_is_not_billed(world: World) -> None:
    trial_end = world.clock() + 10 * DAY + 7
    subscription = world.subscribe(trial_end=trial_end)
    assert (subscription["status"], end_of(subscription)) == ("trialing", trial_end)
    world.report("3")
    world.to(trial_end)
    active = world.subscription(subscription)
    assert (active["status"], active["billing_cycle_anchor"]) == ("active", trial_end)
    world.report("5", trial_end)
    world.finish(trial_end)
    free = world.lines(world.invoices()[0])[0]
    assert (free["amount"], free["description"][:14]) == (0, "Free trial for")
    world.finish(end_of(active))
    assert world.invoices()[0]["total"] == 50


def test_a_trial_can_end_now(world: World) -> None:
    subscription = world.subscribe(trial_end=world.clock() + 10 * DAY)
    world.clock.advance(DAY)
    world.report("3", world.clock() - 1)
    path = f"subscriptions/{subscription['id']}"
    active = world.api.post(path, {"trial_end": "now"})
    assert (active["status"], active["trial_end"]) == ("active", world.clock())
    world.report("5")
    world.finish(end_of(active))
    assert [row["total"] for row in world.invoices()] == [50, 0]
    assert world.api.error("POST", path, {"trial_end": "now"})["status"] == 400


def test_a_trial_can_be_moved(world: World) -> None:
    subscription = world.subscribe(trial_end=world.clock() + 10 * DAY)
    path = f"subscriptions/{subscription['id']}"
    later = world.clock() + 20 * DAY
    moved = world.api.post(path, {"trial_end": later})
    assert (moved["status"], moved["trial_end"], end_of(moved)) == ("trialing", later, later)
    assert world.api.error("POST", path, {"trial_end": world.clock()})["param"] == "trial_end"
    assert world.invoices() == []
    world.to(later)
    assert world.subscription(subscription)["billing_cycle_anchor"] == later


def test_the_anchor_can_be_reset(world: World) -> None:
    subscription = world.subscribe()
    world.clock.advance(DAY)
    at = world.clock()
    world.report("3", at - 1)
    path = f"subscriptions/{subscription['id']}"
    reset = world.api.post(path, {"billing_cycle_anchor": "now"})
    assert reset["billing_cycle_anchor"] == at
    assert reset["items"]["data"][0]["current_period_start"] == at
    assert world.billed(subscription) == {world.price["id"]: "3"}
    world.report("5")
    world.finish(end_of(reset))
    assert world.billed(subscription) == {world.price["id"]: "3+5"}


def test_an_anchor_in_the_future_makes_a_short_first_period(world: World) -> None:
    anchor = world.clock() + 3 * DAY + 11
    subscription = world.subscribe(billing_cycle_anchor=anchor)
    assert end_of(subscription) == anchor
    world.report("3")
    world.finish(anchor)
    assert world.billed(subscription) == {world.price["id"]: "3"}


@pytest.mark.parametrize(("mode", "first"), [({}, "3"), (CLASSIC, "0")])
def test_backdated_usage(world: World, mode: Json, first: str) -> None:
    start = world.clock() - 10 * DAY
    world.report("3", start)
    world.report("100", start - 1)
    subscription = world.subscribe(backdate_start_date=start, **mode)
    assert subscription["start_date"] == start
    assert world.billed(subscription) == {world.price["id"]: first}
    world.report("5")
    world.finish(end_of(subscription))
    following = "8" if mode else "5"
    assert world.billed(subscription) == {world.price["id"]: f"{first}+{following}"}


def test_a_backdated_classic_subscription_with_an_anchor_has_one_long_period(world: World) -> None:
    start, anchor = world.clock() - 20 * DAY, world.clock() + 60
    subscription = world.subscribe(backdate_start_date=start, billing_cycle_anchor=anchor, **CLASSIC)
    item = subscription["items"]["data"][0]
    assert (item["current_period_start"], item["current_period_end"]) == (start, anchor)
    world.report("3", start)
    world.finish(anchor)
    assert world.billed(subscription)[world.price["id"]].endswith("+3")


def test_a_cancellation_at_period_end_bills_the_last_usage(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    end = end_of(subscription)
    path = f"subscriptions/{subscription['id']}"
    set_ = world.api.post(path, {"cancel_at_period_end": True})
    assert (set_["status"], set_["cancel_at"], set_["cancel_at_period_end"]) == ("active", end, True)
    world.to(end)
    world.report("3", end - 1)
    gone = world.subscription(subscription)
    assert (gone["status"], gone["ended_at"], end_of(gone)) == ("canceled", end, end)
    types = [event.type for event in stripe.events.table if event.created == end]
    assert types == ["invoice.created", "customer.subscription.deleted"]
    world.finish(end)
    assert world.billed(subscription) == {world.price["id"]: "3"}
    world.to(end + 40 * DAY)
    assert len(world.invoices()) == 1


def test_a_cancellation_in_the_middle(world: World) -> None:
    at = world.clock() + 5 * DAY + 3
    subscription = world.subscribe(cancel_at=at)
    world.to(at)
    world.report("3", at - 1)
    world.report("100", at)
    world.finish(at)
    assert world.subscription(subscription)["ended_at"] == at
    assert world.billed(subscription) == {world.price["id"]: "3"}
    assert world.lines(world.invoices()[0])[0]["period"]["end"] == at


def test_a_cancellation_can_be_taken_back(world: World) -> None:
    subscription = world.subscribe(cancel_at=world.clock() + DAY)
    path = f"subscriptions/{subscription['id']}"
    kept = world.api.post(path, {"cancel_at": ""})
    assert (kept["cancel_at"], kept["canceled_at"]) == (None, None)
    world.clock.advance(2 * DAY)
    assert world.subscription(subscription)["status"] == "active"


@pytest.mark.parametrize(("params", "billed"), [({}, {}), ({"invoice_now": True}, "3")])
def test_an_immediate_cancellation_drops_usage_unless_invoiced(
    world: World, params: Json, billed: Any
) -> None:
    subscription = world.subscribe()
    world.clock.advance(HOUR)
    world.report("3", world.clock() - 1)
    path = f"subscriptions/{subscription['id']}"
    gone = world.api.delete(path, params)
    assert (gone["status"], gone["ended_at"]) == ("canceled", world.clock())
    world.report("100", world.clock() - 1)
    world.finish(end_of(subscription))
    assert world.billed(subscription) == ({world.price["id"]: billed} if billed else {})
    assert world.api.error("DELETE", path)["status"] == 404
    assert world.api.error("POST", path, {"description": "x"})["status"] == 400


def test_an_unchanged_update_makes_no_event(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    path = f"subscriptions/{subscription['id']}"
    count = len(stripe.events.table)
    world.api.post(path, {"metadata": {}})
    assert len(stripe.events.table) == count
    world.api.post(path, {"metadata": {"k": "v"}})
    newest = next(stripe.events.table.newest())
    data = newest.body(livemode=False)["data"]
    assert data["previous_attributes"] == {"metadata": {"k": None}}


def test_prices_are_checked(world: World, clock: ManualClock) -> None:
    base = {"currency": "usd", "product": world.product["id"]}
    metered = {"interval": "month", "usage_type": "metered"}
    for params in (
        {**base},
        {**base, "unit_amount": -1},
        {**base, "unit_amount": 1, "unit_amount_decimal": "1"},
        {**base, "unit_amount_decimal": "0.0000000000001"},
        {**base, "unit_amount": 1, "currency": "dollars"},
        {**base, "unit_amount": 1, "recurring": metered},
        {**base, "unit_amount": 1, "recurring": {**metered, "meter": "mtr_none"}},
        {**base, "unit_amount": 1, "recurring": {"interval": "month", "meter": world.meter["id"]}},
        {**base, "unit_amount": 1, "recurring": {"interval": "month", "interval_count": 37}},
        {**base, "unit_amount": 1, "product": "prod_none"},
    ):
        assert world.api.error("POST", "prices", params)["status"] == 400
