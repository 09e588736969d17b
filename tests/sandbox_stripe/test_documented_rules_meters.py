"""What Stripe's documentation says of meters, a test for each rule that no other test here shows."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from tests.sandbox_stripe.direct import DAY, HOUR, Direct, Json, World, end_of

EVENTS = "billing/meter_events"
ADJUSTMENTS = "billing/meter_event_adjustments"


def held(world: World, meter: Json | None = None) -> list[Any]:
    """What the summaries of the day hold, by UTC hour, oldest first."""
    midnight = world.clock() // DAY * DAY
    asked = {
        "customer": world.customer["id"],
        "start_time": midnight - DAY,
        "end_time": midnight + 2 * DAY,
        "value_grouping_window": "hour",
    }
    path = f"billing/meters/{(meter or world.meter)['id']}/event_summaries"
    return [row["aggregated_value"] for row in reversed(world.api.get(path, asked)["data"])]


@pytest.mark.parametrize(
    "change",
    [
        {"event_name": "m2"},
        {"default_aggregation": {"formula": "last"}},
        {"event_time_window": "hour"},
        {"customer_mapping": {"event_payload_key": "who", "type": "by_id"}},
        {"value_settings": {"event_payload_key": "much"}},
    ],
)
def test_nothing_of_a_meter_but_its_name_can_be_changed(world: World, change: Json) -> None:
    """Configure meters: "Meter attributes"."""
    path = f"billing/meters/{world.meter['id']}"
    assert world.api.error("POST", path, change)["code"] == "parameter_unknown"
    assert world.api.get(path) == world.meter


def test_the_event_name_of_an_inactive_meter_is_still_taken(world: World) -> None:
    """Configure meters: an event name belongs to one meter."""
    world.api.post(f"billing/meters/{world.meter['id']}/deactivate")
    same = {"display_name": "x", "event_name": "m1", "default_aggregation": {"formula": "sum"}}
    assert world.api.error("POST", "billing/meters", same)["param"] == "event_name"


@pytest.mark.parametrize("formula", ["max", "avg", "unique"])
def test_there_are_three_formulas(world: World, formula: str) -> None:
    """Configure meters: "Aggregation formula" is sum, count or last."""
    asked = {"display_name": "x", "event_name": "m2", "default_aggregation": {"formula": formula}}
    assert world.api.error("POST", "billing/meters", asked)["param"] == "default_aggregation[formula]"


def test_an_event_without_a_timestamp_is_stamped_now(world: World, stripe: StripeSandbox) -> None:
    """API reference, "Create a billing meter event": `timestamp` defaults to now."""
    event = world.event("1")
    del event["timestamp"]
    assert world.api.post(EVENTS, event)["timestamp"] == world.clock()
    assert [row.timestamp for row in stripe.meters.accepted()] == [world.clock()]


def test_events_without_an_identifier_are_each_counted(world: World) -> None:
    """Record usage for billing: without an `identifier` a repeated event is another event."""
    first, second = world.report("2"), world.report("2")
    assert first["identifier"] != second["identifier"]
    assert held(world) == [4]


def test_events_of_one_second_do_not_overwrite_each_other(world: World) -> None:
    """Configure meters: "Raw" ingestion counts every event."""
    for value in ("1", "2", "4"):
        world.report(value)
    assert held(world) == [7]


def test_a_negative_value_corrects_what_was_reported(world: World) -> None:
    """Configure meters: usage is corrected by recording negative quantities."""
    subscription = world.subscribe()
    world.report("5")
    world.report("-2")
    world.finish(end_of(subscription))
    assert world.billed(subscription) == {world.price["id"]: "3"}


def test_a_negative_total_bills_nothing_and_is_not_carried_over(world: World) -> None:
    """Configure meters: a cycle with a negative total has the quantity 0."""
    subscription = world.subscribe()
    world.report("-5")
    world.finish(end_of(subscription))
    world.report("2")
    world.finish(end_of(world.subscription(subscription)))
    assert world.billed(subscription) == {world.price["id"]: "0+2"}


def test_a_daily_window_keeps_the_event_received_last_of_each_utc_day(world: World) -> None:
    """Configure meters: "Pre-aggregated" ingestion by day."""
    meter = world.new_meter("m2", event_time_window="day")
    midnight = world.clock() // DAY * DAY
    for value, stamp in (("5", midnight + 20 * HOUR), ("3", midnight), ("9", midnight - 1)):
        world.report(value, stamp, event_name="m2")
    assert held(world, meter) == [9, 3]


def test_an_older_total_that_comes_late_replaces_a_newer_one(world: World) -> None:
    """Configure meters: within a window the event *received* last counts, whatever its stamp."""
    meter = world.new_meter("m2", event_time_window="hour")
    hour = world.clock() // HOUR * HOUR
    world.report("8", hour + 50, event_name="m2")
    world.report("5", hour + 20, event_name="m2")
    assert held(world, meter) == [5]


def test_a_window_across_a_renewal_takes_usage_from_the_ended_period(world: World) -> None:
    """Configure meters: windows are of UTC, and know nothing of billing periods."""
    meter = world.new_meter("m2", event_time_window="hour")
    price = world.new_price(meter=meter)
    subscription = world.subscribe(price)
    end = end_of(subscription)
    assert end % HOUR
    world.to(end)
    world.report("3", end - 1, event_name="m2")
    world.report("4", end, event_name="m2")
    world.finish(end)
    assert world.billed(subscription) == {price["id"]: "0"}


@pytest.mark.parametrize(("late", "billed"), [(False, "3"), (True, "8")])
def test_an_adjustment_changes_a_draft_and_no_final_invoice(world: World, late: bool, billed: str) -> None:
    """API reference, "Create a billing meter event adjustment"."""
    subscription = world.subscribe()
    end = end_of(subscription)
    world.to(end - 60)
    world.report("5", identifier="i1")
    world.report("3", identifier="i2")
    world.to(end + (2 * HOUR if late else 60))
    cancel = {"event_name": "m1", "type": "cancel", "cancel": {"identifier": "i1"}}
    assert world.api.post(ADJUSTMENTS, cancel)["status"] == "complete"
    world.finish(end + HOUR)
    assert world.billed(subscription) == {world.price["id"]: billed}


@pytest.mark.parametrize("change", [{"type": "undo"}, {"cancel": {}}, {"event_name": "m2"}])
def test_an_adjustment_takes_back_one_event_of_its_meter(world: World, change: Json) -> None:
    """API reference, "Create a billing meter event adjustment": type `cancel`, one identifier."""
    world.new_meter("m2")
    world.report("5", identifier="i1")
    cancel = {"event_name": "m1", "type": "cancel", "cancel": {"identifier": "i1"}, **change}
    assert world.api.error("POST", ADJUSTMENTS, cancel)["status"] == 400
    assert held(world) == [5]


def test_summaries_name_no_customer_and_come_at_most_100_at_once(world: World) -> None:
    """API reference, "List billing meter event summaries"."""
    world.report("1.25")
    minute = world.clock() // 60 * 60
    asked = {"customer": world.customer["id"], "start_time": minute, "end_time": minute + 60}
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    [row] = world.api.get(path, {**asked, "limit": 100})["data"]
    assert (row["aggregated_value"], "customer" in row) == (1.25, False)
    assert world.api.error("GET", path, {**asked, "limit": 101})["param"] == "limit"


def events_taken(world: World) -> tuple[int, str]:
    """How many meter events go through within a second, and what stops the next."""
    taken = 0
    while (answer := world.api.request("POST", EVENTS, world.event("1"))).status == 200:
        taken += 1
    return taken, answer.headers["Stripe-Rate-Limited-Reason"]


def test_live_meter_events_have_a_limit_of_their_own(stripe: StripeSandbox, clock: ManualClock) -> None:
    """Rate limits: 1,000 meter events a second, beside the basic limit."""
    assert stripe.settings.meter_events_per_second == 1_000
    world = World(stripe, clock)
    stripe.change_settings(livemode=True, enforce_rate_limits=True, meter_events_per_second=110)
    clock.advance(1)
    assert events_taken(world) == (110, "endpoint-rate")
    assert world.api.get("customers")["data"]


def test_meter_events_for_a_connected_account_count_toward_the_basic_limit(
    stripe: StripeSandbox, clock: ManualClock
) -> None:
    """Record usage for billing, "Rate limits": with the header Stripe-Account the usual limits hold."""
    stripe.connect("acct_other")
    world = World(stripe, clock, api=Direct(stripe).acting_for("acct_other"))
    stripe.change_settings(livemode=True, enforce_rate_limits=True)
    clock.advance(1)
    assert events_taken(world) == (25, "endpoint-rate")


def test_meter_events_of_a_sandbox_count_toward_its_basic_limit(
    stripe: StripeSandbox, clock: ManualClock
) -> None:
    """Rate limits: 25 operations a second in a sandbox, meter events among them."""
    world = World(stripe, clock)
    stripe.change_settings(enforce_rate_limits=True)
    clock.advance(1)
    assert events_taken(world) == (25, "global-rate")


def test_one_live_endpoint_takes_25_calls_a_second(stripe: StripeSandbox, clock: ManualClock) -> None:
    """Rate limits: 25 a second for each endpoint, 100 for the account."""
    api = Direct(stripe)
    stripe.change_settings(livemode=True, enforce_rate_limits=True)
    clock.advance(1)
    reasons = []
    for path in ("customers", "prices", "products", "subscriptions", "invoices"):
        for _ in range(26):
            answer = api.request("GET", path)
            if answer.status == 429:
                reasons.append(answer.headers["Stripe-Rate-Limited-Reason"])
    assert reasons[0] == "endpoint-rate"
    assert reasons[-1] == "global-rate"
