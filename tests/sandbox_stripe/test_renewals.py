"""Renewals, drafts, finalization, and which usage lands on which invoice."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from sandbox.stripe.errors import StripeError
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Json, World, end_of


def test_usage_is_billed_in_the_period_of_its_stamp(world: World) -> None:
    subscription = world.subscribe()
    start = subscription["items"]["data"][0]["current_period_start"]
    end = end_of(subscription)
    assert start == world.clock()
    world.report("100", start - 1)
    world.report("1", start)
    world.to(end)
    world.report("2.5", end - 1)
    world.report("8", end)
    world.finish(end)
    assert world.billed(subscription) == {world.price["id"]: "3.5"}
    invoice = world.invoices()[0]
    assert (invoice["total"], invoice["status"], invoice["billing_reason"]) == (
        35,
        "paid",
        "subscription_cycle",
    )
    second = end_of(world.subscription(subscription))
    world.finish(second)
    assert world.billed(subscription) == {world.price["id"]: "3.5+8"}


def test_a_renewal_advances_every_item_and_makes_a_draft(world: World) -> None:
    other = world.new_price("20", world.new_meter("m2"))
    subscription = world.subscribe(world.licensed_price(), world.price, other)
    end = end_of(subscription)
    world.to(end)
    renewed = world.subscription(subscription)
    for item in renewed["items"]["data"]:
        assert item["current_period_start"] == end
        assert item["current_period_end"] > end
    draft = world.invoices(status="draft")[0]
    assert draft["id"] == renewed["latest_invoice"]
    assert draft["parent"]["subscription_details"]["subscription"] == subscription["id"]
    assert draft["automatically_finalizes_at"] == end + HOUR
    periods = {line["amount"]: line["period"] for line in world.lines(draft)}
    assert periods[500] == {"start": end, "end": renewed["items"]["data"][0]["current_period_end"]}
    assert periods[0] == {"start": world.clock() - (end - subscription["created"]), "end": end}


def test_usage_after_finalization_is_on_no_invoice(world: World) -> None:
    subscription = world.subscribe()
    end = end_of(subscription)
    world.to(end + HOUR - 1)
    world.report("1", end - 1)
    world.to(end + HOUR)
    world.report("2", end - 1)
    world.finish(end_of(world.subscription(subscription)))
    assert world.billed(subscription) == {world.price["id"]: "1+0"}


def test_a_draft_shows_the_usage_of_its_creation(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    end = end_of(subscription)
    stripe.change_settings(aggregation_delay=3 * HOUR)
    world.to(end - 60)
    world.report("1", end - 100)
    world.to(end)
    world.report("2", end - 1)
    assert world.lines(world.invoices()[0])[0]["quantity_decimal"] == "0"
    world.finish(end)
    assert world.billed(subscription) == {world.price["id"]: "3"}


def test_a_preview_shows_what_summaries_show(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    stripe.change_settings(aggregation_delay=60)
    world.report("2")
    asked = {"subscription": subscription["id"]}
    assert world.api.post("invoices/create_preview", asked)["total"] == 0
    world.clock.advance(60)
    preview = world.api.post("invoices/create_preview", asked)
    assert (preview["total"], preview["billing_reason"]) == (20, "upcoming")
    assert world.invoices() == []
    world.api.delete(f"subscriptions/{subscription['id']}")
    assert world.api.error("POST", "invoices/create_preview", asked)["code"] == "invoice_upcoming_none"


def test_periods_that_were_jumped_over_are_worked_through_in_order(
    world: World, stripe: StripeSandbox
) -> None:
    subscription = world.subscribe()
    first = end_of(subscription)
    world.finish(subscription["created"] + 70 * DAY)
    assert [event.type for event in stripe.events.table][-10:] == 2 * [
        "invoice.created",
        "customer.subscription.updated",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    times = [event.created for event in stripe.events.table if "updated" in event.type]
    second = end_of(world.subscription(subscription))
    assert times[0] == first
    assert first < times[1] < second
    assert [row["created"] for row in world.invoices()] == times[::-1]


def test_a_renewal_can_be_late(world: World, stripe: StripeSandbox) -> None:
    stripe.change_settings(renewal_delay=16)
    subscription = world.subscribe()
    end = end_of(subscription)
    world.to(end + 15)
    assert end_of(world.subscription(subscription)) == end
    world.to(end + 16)
    assert world.subscription(subscription)["items"]["data"][0]["current_period_start"] == end
    draft = world.invoices()[0]
    assert (draft["created"], draft["automatically_finalizes_at"]) == (end + 16, end + 16 + HOUR)


@pytest.mark.parametrize(
    ("quantity", "cents", "total"),
    [
        ("10.5", "0.1", 1),
        ("0.5", "1", 1),
        ("0.49", "1", 0),
        ("-3", "10", 0),
        ("123456789012345", "0.000000000001", 123),
        ("3", "1.5", 5),
    ],
)
def test_amounts(stripe: StripeSandbox, clock: ManualClock, quantity: str, cents: str, total: int) -> None:
    world = World(stripe, clock)
    subscription = world.subscribe(world.new_price(cents))
    world.report(quantity)
    world.finish(end_of(subscription))
    line = world.lines(world.invoices()[0])[0]
    assert line["amount"] == world.invoices()[0]["total"] == total
    assert line["quantity_decimal"] == ("0" if quantity == "-3" else quantity)
    assert line["quantity"] == int(max(float(quantity), 0))


@pytest.mark.parametrize(("formula", "billed"), [("last", "2"), ("count", "3")])
def test_formulas(stripe: StripeSandbox, clock: ManualClock, formula: str, billed: str) -> None:
    world = World(stripe, clock, formula)
    subscription = world.subscribe()
    start, end = subscription["created"], end_of(subscription)
    clock.advance(100)
    world.report("7", start + 1)
    world.report("2", start + 3)
    world.report("5", start + 2)
    world.to(end)
    world.report("9", end)
    world.finish(end)
    assert world.billed(subscription) == {world.price["id"]: billed}


def test_two_subscriptions_on_one_meter_both_bill_it(world: World) -> None:
    first, second = world.subscribe(), world.subscribe()
    world.report("2")
    world.finish(end_of(first))
    assert world.billed(first) == world.billed(second) == {world.price["id"]: "2"}


def test_a_custom_time_of_finalization(world: World) -> None:
    end = end_of(world.subscribe())
    world.to(end)
    draft = world.invoices()[0]
    path = f"invoices/{draft['id']}"
    later = end + 5 * HOUR
    alone = {"automatically_finalizes_at": later}
    assert world.api.error("POST", path, alone)["param"] == "automatically_finalizes_at"
    moved = world.api.post(path, {**alone, "auto_advance": True})
    assert moved["automatically_finalizes_at"] == later
    past = {"automatically_finalizes_at": end, "auto_advance": True}
    assert world.api.error("POST", path, past)["status"] == 400
    world.to(later - 1)
    assert world.invoices()[0]["status"] == "draft"
    world.to(later)
    assert world.invoices()[0]["status"] == "paid"
    assert world.invoices()[0]["automatically_finalizes_at"] is None
    assert world.api.error("POST", path, {"auto_advance": False})["status"] == 400
    assert world.api.error("POST", f"{path}/finalize")["status"] == 400


def test_a_draft_that_does_not_advance_is_finalized_by_hand(world: World) -> None:
    end = end_of(world.subscribe())
    world.to(end)
    path = f"invoices/{world.invoices()[0]['id']}"
    held = world.api.post(path, {"auto_advance": False})
    assert (held["auto_advance"], held["automatically_finalizes_at"]) == (False, None)
    world.to(end + 10 * DAY)
    assert world.invoices()[0]["status"] == "draft"
    again = world.api.post(path, {"auto_advance": True})
    assert again["automatically_finalizes_at"] == world.clock() + HOUR
    assert world.api.post(f"{path}/finalize")["status"] == "paid"


def test_the_grace_period_is_a_setting(world: World, stripe: StripeSandbox) -> None:
    stripe.change_settings(finalization_grace=72 * HOUR)
    end = end_of(world.subscribe())
    world.to(end + 72 * HOUR - 1)
    assert world.invoices()[0]["status"] == "draft"
    world.to(end + 72 * HOUR)
    assert world.invoices()[0]["status"] == "paid"
    with pytest.raises(ValueError, match="72 hours"):
        stripe.change_settings(finalization_grace=72 * HOUR + 1)


def test_invoices_sent_by_mail_stay_open(world: World) -> None:
    subscription = world.subscribe(collection_method="send_invoice", days_until_due=7)
    world.report("1")
    world.finish(end_of(subscription))
    invoice = world.invoices()[0]
    assert invoice["status"] == "open"
    assert invoice["due_date"] == invoice["status_transitions"]["finalized_at"] + 7 * DAY


@pytest.mark.parametrize(
    ("behavior", "status"),
    [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")],
)
def test_paused_collection_keeps_invoicing(world: World, behavior: str, status: str) -> None:
    subscription = world.subscribe()
    path = f"subscriptions/{subscription['id']}"
    pause: Json = {"behavior": behavior, "resumes_at": end_of(subscription) + DAY}
    paused = world.api.post(path, {"pause_collection": pause})
    assert (paused["status"], paused["pause_collection"]) == ("active", pause)
    world.finish(end_of(subscription))
    assert world.invoices()[0]["status"] == status
    world.to(pause["resumes_at"])
    assert world.subscription(subscription)["pause_collection"] is None


def test_the_first_invoice_is_final_at_once(world: World) -> None:
    subscription = world.subscribe(world.licensed_price(), world.price)
    invoice = world.invoices()[0]
    assert (invoice["status"], invoice["total"]) == ("paid", 500)
    assert invoice["billing_reason"] == "subscription_create"
    assert len(world.lines(invoice)) == 1
    classic = world.subscribe(world.licensed_price(), world.price, billing_mode={"type": "classic"})
    assert len(world.lines(world.invoices(subscription=classic["id"])[0])) == 2
    assert subscription["latest_invoice"] == invoice["id"]


def test_more_than_ten_lines_are_paged(world: World) -> None:
    prices = [world.new_price("1", world.new_meter(f"x{number}")) for number in range(12)]
    subscription = world.subscribe(*prices)
    items = subscription["items"]
    assert (len(items["data"]), items["has_more"]) == (10, True)
    asked = {"subscription": subscription["id"], "limit": 100}
    rows = world.api.get("subscription_items", asked)["data"]
    assert len(rows) == 12
    page = {**asked, "limit": 5, "starting_after": rows[4]["id"]}
    assert world.api.get("subscription_items", page)["data"] == rows[5:10]
    world.to(end_of(subscription))
    draft = world.invoices()[0]
    assert (len(draft["lines"]["data"]), draft["lines"]["has_more"]) == (10, True)
    more = world.api.get(f"invoices/{draft['id']}/lines", {"limit": 100})["data"]
    assert len(more) == 12


def test_lists_filter(world: World) -> None:
    first = world.subscribe()
    world.clock.advance(100)
    second = world.subscribe(world.licensed_price())
    world.api.delete(f"subscriptions/{first['id']}")

    def ids(**params: Any) -> list[str]:
        return [row["id"] for row in world.api.get("subscriptions", params)["data"]]

    assert ids() == [second["id"]]
    assert ids(status="all") == [second["id"], first["id"]]
    assert ids(status="canceled") == ids(status="ended") == [first["id"]]
    assert ids(price=world.price["id"], status="all") == [first["id"]]
    end = end_of(second)
    assert ids(current_period_end={"gte": end, "lte": end}) == [second["id"]]
    assert ids(current_period_end={"gt": end}) == []
    assert ids(customer="cus_nobody") == []
    invoices = world.api.get("invoices", {"created": {"gte": second["created"]}})["data"]
    assert [row["id"] for row in invoices] == [second["latest_invoice"]]


def test_the_older_shape(world: World) -> None:
    subscription = world.subscribe(world.price, world.licensed_price())
    old = world.subscription(subscription, version=ACACIA)
    assert old["current_period_end"] == end_of(subscription)
    assert "current_period_end" not in old["items"]["data"][0]
    world.to(end_of(subscription))
    draft: Json = world.api.get("invoices", {"status": "draft"}, version=ACACIA)["data"][0]
    assert draft["subscription"] == subscription["id"]
    assert "parent" not in draft
    line = next(row for row in draft["lines"]["data"] if row["price"]["id"] == world.price["id"])
    assert line["subscription_item"] == subscription["items"]["data"][0]["id"]


def test_a_period_that_is_told_to_end_is_renewed_like_any_other(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe()
    start = world.clock()
    world.to(start + DAY)
    world.report("4", start + HOUR)
    end = start + DAY + 3

    stripe.end_periods(subscription["id"], end)

    assert end_of(world.subscription(subscription)) == end
    world.to(end)
    draft = world.invoices(status="draft")[0]
    assert [line["period"] for line in world.lines(draft)] == [{"start": start, "end": end}]
    renewed = world.subscription(subscription)["items"]["data"][0]
    assert renewed["current_period_start"] == end
    assert renewed["current_period_end"] > end + 27 * DAY
    updated = next(e for e in stripe.events.table if e.type == "customer.subscription.updated")
    assert updated.created == end
    world.finish(end)
    assert world.billed(subscription) == {world.price["id"]: "4"}


@pytest.mark.parametrize("seconds", [0, -1, 40 * DAY])
def test_a_period_ends_ahead_and_before_its_own_end(
    world: World, stripe: StripeSandbox, seconds: int
) -> None:
    subscription = world.subscribe()

    with pytest.raises(StripeError, match="must lie ahead"):
        stripe.end_periods(subscription["id"], world.clock() + seconds)


def test_a_trial_is_not_told_to_end(world: World, stripe: StripeSandbox) -> None:
    subscription = world.subscribe(trial_end=world.clock() + 9 * DAY)

    with pytest.raises(StripeError, match="no period that is billed"):
        stripe.end_periods(subscription["id"], world.clock() + DAY)
