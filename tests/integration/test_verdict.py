"""Each metered line of a final invoice is judged once: EXACT, SHORT or OVER, in the ledger and aloud."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.config import Mode
from usage_reporting.renewals import DELETED, INVOICE_FINALIZED, UPDATED

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
FINAL = END + HOUR + MINUTE


def subscribed(world: World, **params: Any) -> tuple[str, str]:
    """A subscription with usage in its first hour, and the webhook that hears of final invoices."""
    world.clock.set(START)
    subscription = world.subscription(world.metered_price()[0], **params)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    customer = str(subscription.customer)
    world.use(customer, START + MINUTE, "7.25")
    world.use(customer, END - 1, 4)
    world.use(customer, END, 8)
    return subscription.id, customer


def closed(world: World) -> None:
    """The period ends, the closing tick sees the draft, the invoice becomes final."""
    world.travel(END + 16)
    world.tick("closing")
    world.inbox.clear()
    world.travel(FINAL)


def verdicts(world: World) -> list[dict[str, Any]]:
    """The lines of all verdicts in the ledger, in plain values."""
    table = world.container().table
    keys = [(item["pk"]["S"], "verdict") for item in world.ledger() if item["sk"]["S"] == "verdict"]
    return [line for item in table.get(keys) for line in item["lines"]]


@pytest.mark.parametrize("version", ["2026-05-27.dahlia", "2025-02-24.acacia"])
def test_an_exact_line(world: World, counted: dict[str, float], version: str) -> None:
    world.clock.set(START)
    world.listen(version, enabled_events=[INVOICE_FINALIZED])
    subscription = world.subscription(world.metered_price()[0])
    customer = str(subscription.customer)
    world.use(customer, START + MINUTE, "7.25")
    closed(world)

    assert [(told.code, told.status) for told in world.deliver()] == [(200, "exact")]

    [line] = verdicts(world)
    assert (line["customer"], line["verdict"], line["quantity"], line["metered"]) == (
        customer,
        "exact",
        Decimal("7.25"),
        Decimal("7.25"),
    )
    assert (line["start"], line["end"], line["causes"]) == (START, END, {})
    assert counted["VerdictExact"] == 1
    [item] = [item for item in world.ledger() if item["sk"]["S"] == "verdict"]
    invoice = world.client.v1.invoices.list({"subscription": subscription.id}).data[0].id
    assert item["pk"]["S"] == f"self#test#{invoice}"
    assert int(item["expires_at"]["N"]) == FINAL + 400 * DAY


def test_usage_that_came_after_finalization_is_short_and_late(
    world: World, counted: dict[str, float]
) -> None:
    _, customer = subscribed(world)
    closed(world)
    world.use(customer, END - 2, 3)

    [told] = world.deliver()

    assert (told.code, told.status, told.reason) == (200, "short", "SHORT by 3 (3 late)")
    [line] = verdicts(world)
    assert (line["quantity"], line["metered"]) == (Decimal("11.25"), Decimal("14.25"))
    assert (counted["VerdictShort"], counted["Late"]) == (1, 3)
    assert world.held(customer, START, END) == Decimal("11.25")


def test_more_than_was_measured_is_over_and_names_the_other_writer(
    world: World, counted: dict[str, float]
) -> None:
    _, customer = subscribed(world)
    world.travel(START + 2 * HOUR)
    world.tick()
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": START + HOUR}
    )
    closed(world)

    [told] = world.deliver()

    assert (told.code, told.status, told.reason) == (200, "over", "OVER by 5 (5 sent by somebody else)")
    assert counted["VerdictOver"] == 1


def test_what_fell_after_it_was_billed_is_over(world: World) -> None:
    _, customer = subscribed(world)
    closed(world)
    world.use(customer, END - 2, -3)

    [told] = world.deliver()

    assert (told.code, told.status) == (200, "over")
    assert told.reason == "OVER by 3 (3 less in OpenMeter than was reported)"


def test_usage_that_nobody_reported_is_short(world: World) -> None:
    subscribed(world)
    world.travel(START + 2 * HOUR)
    world.tick()
    world.travel(FINAL)

    told = world.deliver()[-1]

    assert (told.status, told.reason) == ("short", "SHORT by 4 (4 late)")


def test_the_tick_judges_what_no_webhook_told_of(world: World, counted: dict[str, float]) -> None:
    subscribed(world)
    closed(world)
    world.stripe.log.clear()

    assert world.tick("closing")["failures"] == 0

    assert [line["verdict"] for line in verdicts(world)] == ["exact"]
    assert counted["VerdictExact"] == 1
    calls = world.stripe.calls
    assert (calls["GET", "/v1/invoices/{invoice}"], calls["GET", "/v1/events"]) == (1, 1)
    assert ("GET", "/v1/subscriptions/{subscription_exposed_id}") not in calls


def test_what_is_exact_is_judged_once(world: World, counted: dict[str, float]) -> None:
    subscribed(world)
    closed(world)
    events = list(world.inbox)
    world.deliver()
    before = world.ledger()
    world.stripe.log.clear()
    queries = len(world.openmeter.calls.queries)

    for later in (0, 2 * HOUR, 25 * HOUR, 36 * DAY):
        world.clock.set(FINAL + later)
        world.inbox = list(events)
        assert [told.status for told in world.deliver()] == ["exact"]

    assert world.stripe.calls == {}
    assert len(world.openmeter.calls.queries) == queries
    assert world.ledger() == before
    assert counted["VerdictExact"] == 1


def test_what_is_not_exact_is_looked_at_a_second_time(world: World, counted: dict[str, float]) -> None:
    """OpenMeter had not shown all again when the invoice became final; an hour later it has."""
    _, customer = subscribed(world)
    closed(world)
    world.openmeter.hold(subject=customer)
    world.use(customer, START + 2 * MINUTE, 1)
    world.openmeter.release(subject=customer)
    world.use(customer, START + 2 * MINUTE, -1, meter="m1")
    world.use(customer, START + 3 * HOUR, -2)
    assert [told.status for told in world.deliver()] == ["over"]
    world.use(customer, START + 3 * HOUR, 2)

    world.travel(FINAL + 30 * MINUTE)
    world.tick("closing")
    assert [line["verdict"] for line in verdicts(world)] == ["over"]
    world.travel(FINAL + 61 * MINUTE)
    world.tick("closing")

    assert [line["verdict"] for line in verdicts(world)] == ["exact"]
    assert (counted["VerdictOver"], counted["VerdictExact"]) == (1, 1)
    world.use(customer, START + 3 * HOUR, -5)
    world.travel(FINAL + 2 * HOUR)
    world.tick("closing")
    assert [line["verdict"] for line in verdicts(world)] == ["exact"]


def test_a_second_look_that_finds_the_same_does_not_alarm_again(
    world: World, counted: dict[str, float]
) -> None:
    _, customer = subscribed(world)
    closed(world)
    world.use(customer, END - 2, 3)
    for later in (1, 62, 124, 170):
        world.travel(FINAL + later * MINUTE)
        world.tick("closing")

    assert [line["verdict"] for line in verdicts(world)] == ["short"]
    assert counted["VerdictShort"] == 1
    [item] = [item for item in world.ledger() if item["sk"]["S"] == "verdict"]
    assert item["looks"]["N"] == "2"


def test_openmeter_down_is_asked_again(world: World) -> None:
    subscribed(world)
    closed(world)
    events = list(world.inbox)
    world.openmeter.faults.down = True

    assert [told.code for told in world.deliver()] == [503]
    assert world.tick("closing")["failures"] > 0
    assert verdicts(world) == []

    world.openmeter.faults.down = False
    world.inbox = events
    assert [told.status for told in world.deliver()] == ["exact"]


def test_an_openmeter_that_lost_everything_is_not_believed(world: World, counted: dict[str, float]) -> None:
    _, customer = subscribed(world)
    closed(world)
    world.use(customer, START + MINUTE, "-7.25")
    world.use(customer, END - 1, -4)

    [told] = world.deliver()

    assert (told.code, told.status) == (200, "not_judged")
    assert "less than" in told.reason or "nothing" in told.reason
    assert counted["NotJudged"] == 1
    assert "VerdictOver" not in counted


def test_a_restored_ledger_is_not_judged_by(world: World, counted: dict[str, float]) -> None:
    subscribed(world)
    closed(world)
    [head] = [item for item in world.ledger() if item["sk"]["S"] == "head"]
    world.dynamodb.put_item(TableName="ledger", Item={**head, "table": {"S": "1"}})

    [told] = world.deliver()

    assert (told.code, told.status) == (200, "not_judged")
    assert "restored copy" in told.reason


def test_shadow_says_its_verdict_and_keeps_nothing(
    world: World, counted: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    world.settings["mode"] = Mode.SHADOW
    subscribed(world)
    world.travel(FINAL)

    assert world.tick("closing")["failures"] == 0

    assert world.ledger() == []
    assert not {name for name in counted if name.startswith("Verdict") or name == "NotJudged"}
    world.inbox = world.inbox[-1:]
    [told] = world.deliver()
    assert (told.code, told.status) == (200, "short")


def test_a_trial_charges_nothing_and_is_not_short(world: World, counted: dict[str, float]) -> None:
    world.clock.set(START)
    trial_end = START + 10 * DAY
    subscription = world.subscription(world.metered_price()[0], trial_end=trial_end)
    customer = str(subscription.customer)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    world.use(customer, START + HOUR, 5)
    world.travel(START + 2 * HOUR)
    world.tick()
    world.travel(trial_end + 2 * HOUR)
    world.use(customer, START + HOUR, 3)

    statuses = [told.status for told in world.deliver()]

    assert statuses[-1] == "free"
    assert not {name for name in counted if name.startswith("Verdict")}


def test_an_invoice_without_usage_is_not_ours_and_not_fetched_twice(world: World) -> None:
    world.clock.set(START)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    product = world.client.v1.products.create({"name": "seat"}).id
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 500, "product": product, "recurring": {"interval": "month"}}
    ).id
    world.subscription(price, om_meter_id="")
    world.travel(START + 2 * HOUR)
    events = list(world.inbox)
    assert [told.status for told in world.deliver()] == ["not_ours"]
    world.stripe.log.clear()
    world.inbox = events

    assert [told.status for told in world.deliver()] == ["not_ours"]
    assert world.stripe.calls == {}


def test_an_unmapped_item_is_not_ours(world: World) -> None:
    world.clock.set(START)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    world.subscription(world.metered_price()[0], om_meter_id="")
    world.travel(FINAL)

    assert [told.status for told in world.deliver()][-1] == "not_ours"


def test_an_unknown_invoice_is_not_ours(world: World) -> None:
    subscribed(world)
    closed(world)
    event = json.loads(world.inbox[0])
    event["data"]["object"]["id"] = "in_unknown"
    world.inbox = [json.dumps(event).encode()]

    assert [(told.code, told.status) for told in world.deliver()] == [(200, "not_ours")]


def swapped(world: World, minute: int) -> tuple[str, str]:
    """A price swapped in mid-period, `minute` of the hour of the day; 100 units just before it."""
    world.clock.set(START)
    old, meter = world.metered_price()
    product = world.client.v1.products.create({"name": "dearer"}).id
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    new = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 20, "product": product, "recurring": recurring}
    ).id
    subscription = world.subscription(old, billing_mode={"type": "flexible"})
    customer = str(subscription.customer)
    world.listen(enabled_events=[INVOICE_FINALIZED, UPDATED, DELETED])
    day = NOON + 15 * DAY
    world.use(customer, day - HOUR, 1)
    world.travel(day + 2 * MINUTE)
    world.tick()
    world.use(customer, day + (minute - 11) * MINUTE, 100)
    world.travel(day + minute * MINUTE)
    items = [{"id": subscription["items"].data[0].id, "price": new}]
    world.client.v1.subscriptions.update(subscription.id, {"items": items})
    world.use(customer, day + 65 * MINUTE, 1000)
    world.travel(day + 75 * MINUTE)
    world.tick()
    closed(world)
    return old, new


def test_what_a_swap_left_unbilled_is_named_beside_the_verdict(world: World) -> None:
    """Swapped just after the hour: the tick before it was too early for what was used since."""
    old, new = swapped(world, minute=61)

    world.deliver()

    by_price = {line["price"]: line for line in verdicts(world)}
    assert {price: line["verdict"] for price, line in by_price.items()} == {old: "exact", new: "exact"}
    assert by_price[old]["quantity"] == 1
    assert by_price[old]["causes"] == {"unbillable": 100}
    assert by_price[new]["quantity"] == 1000


def test_usage_of_the_swaps_hour_goes_to_the_new_price_and_is_exact(world: World) -> None:
    old, new = swapped(world, minute=40)

    world.deliver()

    by_price = {line["price"]: line for line in verdicts(world)}
    assert {price: line["verdict"] for price, line in by_price.items()} == {old: "exact", new: "exact"}
    assert (by_price[old]["quantity"], by_price[new]["quantity"]) == (1, 1100)


def test_a_cancellation_at_once_is_judged_by_what_stripe_held(world: World) -> None:
    world.clock.set(START)
    customer = world.customer()
    subscription = world.subscription(
        world.metered_price()[0], customer, collection_method="charge_automatically", days_until_due=None
    )
    world.listen(enabled_events=[INVOICE_FINALIZED, DELETED])
    world.use(customer, START + MINUTE, 5)
    world.travel(START + 2 * HOUR)
    world.tick()
    world.use(customer, START + 2 * HOUR, 3)
    world.travel(START + 2 * HOUR + 20 * MINUTE)
    world.client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    world.travel(START + 2 * HOUR + 21 * MINUTE)

    told = world.deliver()

    line = verdicts(world)[-1]
    assert (line["verdict"], line["quantity"], line["causes"]) == ("exact", 5, {"unbillable": 3})
    assert {one.code for one in told} == {200}


def test_a_legacy_line_is_judged_by_its_rounded_total(world: World, counted: dict[str, float]) -> None:
    acacia: Any = {"stripe_version": "2025-02-24.acacia"}
    product = world.client.v1.products.create({"name": "legacy"}).id
    recurring = {"interval": "month", "usage_type": "metered"}
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 10, "product": product, "recurring": recurring}, acacia
    ).id
    customer = world.customer()
    world.client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price, "metadata": {"om_meter_id": "m1"}}],
            "collection_method": "send_invoice",
            "days_until_due": 30,
        },
        acacia,
    )
    world.listen(enabled_events=[INVOICE_FINALIZED])
    end = NOON + 31 * DAY
    world.use(customer, NOON + MINUTE, "2.6")
    world.use(customer, end - 10 * MINUTE, 50)
    world.travel(end - 20 * MINUTE)
    world.tick("closing")
    world.travel(end + 2 * HOUR)

    told = world.deliver()[-1]

    assert (told.code, told.status) == (200, "exact")
    assert [(line["quantity"], line["metered"]) for line in verdicts(world)][-1] == (3, 3)


def test_a_quarter_is_longer_than_reports_go_back(world: World) -> None:
    world.clock.set(START)
    _, meter = world.metered_price()
    product = world.client.v1.products.create({"name": "quarterly"}).id
    recurring = {"interval": "month", "interval_count": 3, "usage_type": "metered", "meter": meter}
    price = world.client.v1.prices.create(
        {"currency": "usd", "unit_amount": 20, "product": product, "recurring": recurring}
    ).id
    customer = str(world.subscription(price).customer)
    end = START + 92 * DAY
    for days in (0, 30, 60, 91):
        world.use(customer, START + days * DAY + HOUR, 1 + days)
        world.travel(START + days * DAY + 3 * HOUR)
        world.tick()
    world.travel(end + 16)
    world.tick("closing")
    world.travel(end + 2 * HOUR)
    world.tick("closing")

    [line] = verdicts(world)

    assert (line["verdict"], line["end"] - line["start"]) == ("exact", 92 * DAY)
    assert line["quantity"] == 1 + 31 + 61 + 92


@pytest.mark.parametrize(
    ("billed", "verdict"),
    [("4", "exact"), ("11.25", "exact"), ("3", "short"), ("5", "not_judged"), ("12", "over")],
)
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_billing_threshold_bills_some_of_a_period_before_its_end(
    world: World, counted: dict[str, float], billed: str, verdict: str, goes_on: bool
) -> None:
    """The invoice of the period then has the rest, or all of it beside a credit: Stripe shows both."""
    id_, customer = subscribed(world)
    world.travel(START + 3 * HOUR)
    world.tick()
    stripe = world.stripe
    subscription = stripe.account.subscriptions.get(id_)
    [item] = subscription.items
    made = stripe.books.invoices.item_line(subscription, item, world.clock())
    line = replace(made, invoice_item=None, period_end=item.period_end if goes_on else made.period_end)
    stripe.books.invoices.draft(subscription, [line], "subscription_threshold", period_start=START)
    world.travel(world.clock() + 15 * MINUTE)
    world.tick("closing")
    world.travel(world.clock() + HOUR)
    world.inbox.clear()
    closed(world)
    [cycle] = [one for one in stripe.account.invoices if one.billing_reason == "subscription_cycle"]
    [of_period] = cycle.lines
    assert of_period.quantity == Decimal("11.25")
    of_period.charges = (replace(of_period.charges[0], quantity=Decimal(billed)),)

    world.deliver()
    world.travel(world.clock() + 15 * MINUTE)
    world.tick("closing")

    [one] = [one for one in verdicts(world) if one["quantity"] == Decimal(billed)]
    assert one["verdict"] == verdict
    assert "VerdictShort" not in counted or verdict == "short"
    assert "Late" not in counted
    assert "Unbillable" not in counted
    assert world.held(customer, START, END) == Decimal("11.25")


def test_the_invoice_of_a_billing_threshold_is_not_judged_by_itself(
    world: World, counted: dict[str, float]
) -> None:
    id_, _ = subscribed(world)
    world.travel(START + 3 * HOUR)
    world.tick()
    stripe = world.stripe
    subscription = stripe.account.subscriptions.get(id_)
    [item] = subscription.items
    line = replace(stripe.books.invoices.item_line(subscription, item, world.clock()), invoice_item=None)
    stripe.books.invoices.draft(subscription, [line], "subscription_threshold", period_start=START)
    world.travel(world.clock() + HOUR + MINUTE)

    world.deliver()

    [one] = verdicts(world)
    assert (one["verdict"], one["quantity"]) == ("not_judged", Decimal("7.25"))
    assert "judged with the period's own" in one["reason"]
    assert set(counted) & {"Late", "Unbillable", "VerdictShort"} == set()
