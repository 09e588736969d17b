"""Meters, meter events and summaries."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from tests.sandbox_stripe.direct import DAY, HOUR, Json, World

EVENTS = "billing/meter_events"


def summaries(world: World, start: int, end: int, **params: Any) -> list[tuple[int, Any]]:
    asked = {"customer": world.customer["id"], "start_time": start, "end_time": end, **params}
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    return [
        (row["start_time"], row["aggregated_value"])
        for row in world.api.get(path, {"limit": 100, **asked})["data"]
    ]


def total(world: World) -> Any:
    now = world.clock() // 60 * 60
    found = summaries(world, now - 40 * DAY, now + DAY // 60 * 60)
    return found[0][1] if found else 0


def test_a_meter_changes_nothing_but_its_name(world: World) -> None:
    path = f"billing/meters/{world.meter['id']}"
    assert world.api.post(path, {"display_name": "new"})["display_name"] == "new"
    assert world.api.error("POST", path, {"event_name": "m2"})["code"] == "parameter_unknown"
    clash = {"display_name": "x", "event_name": "m1", "default_aggregation": {"formula": "sum"}}
    assert world.api.error("POST", "billing/meters", clash)["param"] == "event_name"
    assert world.api.post(f"{path}/deactivate")["status"] == "inactive"
    assert world.api.error("POST", EVENTS, world.event("1"))["code"] == "archived_meter"
    assert world.api.post(f"{path}/reactivate")["status"] == "active"
    world.report("1")


@pytest.mark.parametrize(
    "value", ["1", "-1", "0", "0.1", "123456789012345", "0.000000000001", "-12345678901234.5"]
)
def test_values_that_are_taken(world: World, value: str) -> None:
    assert world.report(value)["payload"]["value"] == value


@pytest.mark.parametrize(
    "value",
    [
        *("", "1e3", "1E-05", "NaN", "Infinity", "1,5", "+1", ".5", "1.", "0x1", " 1"),
        *("1234567890123456", "1.000000000000001", "0.0000000000001"),
    ],
)
def test_values_that_are_refused(world: World, value: str) -> None:
    assert world.api.error("POST", EVENTS, world.event(value))["param"] == "payload[value]"


def test_the_payload_needs_the_meters_keys(world: World) -> None:
    event = world.event("1")
    no_customer = {**event, "payload": {"value": "1"}}
    assert world.api.error("POST", EVENTS, no_customer)["code"] == "meter_event_no_customer_defined"
    no_value = {**event, "payload": {"stripe_customer_id": world.customer["id"]}}
    assert world.api.error("POST", EVENTS, no_value)["code"] == "meter_event_value_not_found"
    own: Json = {"customer_mapping": {"event_payload_key": "who", "type": "by_id"}}
    world.new_meter("m2", value_settings={"event_payload_key": "much"}, **own)
    payload = {"who": world.customer["id"], "much": "1"}
    world.api.post(EVENTS, {**event, "event_name": "m2", "payload": payload})
    unknown = {**event, "event_name": "m3"}
    assert world.api.error("POST", EVENTS, unknown)["code"] == "no_meter"


def test_timestamps_reach_35_days_back_and_5_minutes_ahead(world: World) -> None:
    now = world.clock()
    world.report("1", now - 35 * DAY)
    world.report("1", now + 300)
    past = world.api.error("POST", EVENTS, world.event("1", now - 35 * DAY - 1))
    assert past["message"] == (
        "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater "
        f"than or equal to {now - 35 * DAY}."
    )
    assert world.api.error("POST", EVENTS, world.event("1", now + 301))["param"] == "timestamp"


def test_an_identifier_is_taken_once_in_24_hours(world: World, clock: ManualClock) -> None:
    world.report("1", identifier="i1")
    clock.advance(DAY - 1)
    again = world.api.request("POST", EVENTS, world.event("1", identifier="i1"))
    assert again.status == 400
    assert again.json()["error"]["message"] == "An event already exists with identifier i1."
    assert again.headers["Stripe-Should-Retry"] == "false"
    assert total(world) == 1
    clock.advance(1)
    world.report("1", identifier="i1")
    assert total(world) == 2
    assert world.api.error("POST", EVENTS, world.event("1", identifier="i" * 101))["status"] == 400


def test_an_unknown_customer_is_found_out_after_the_200(world: World, stripe: StripeSandbox) -> None:
    event = world.event("1")
    event["payload"] = {**event["payload"], "stripe_customer_id": "cus_nobody"}
    world.api.post(EVENTS, event)
    assert [row.customer for row in stripe.meters.rejected] == ["cus_nobody"]
    world.api.delete(f"customers/{world.customer['id']}")
    world.report("1")
    assert len(stripe.meters.rejected) == 2


def test_summaries(world: World) -> None:
    midnight = world.clock() // DAY * DAY
    world.report("1.5", midnight)
    world.report("2", midnight + HOUR - 1)
    world.report("4", midnight + HOUR)
    world.report("8", midnight - 1)
    assert summaries(world, midnight, midnight + 2 * HOUR) == [(midnight, 7.5)]
    assert summaries(world, midnight - DAY, midnight + DAY, value_grouping_window="hour") == [
        (midnight + HOUR, 4),
        (midnight, 3.5),
        (midnight - HOUR, 8),
    ]
    assert summaries(world, midnight - DAY, midnight + DAY, value_grouping_window="day") == [
        (midnight, 7.5),
        (midnight - DAY, 8),
    ]
    assert summaries(world, midnight + DAY, midnight + 2 * DAY) == []


def test_summaries_are_paged(world: World) -> None:
    midnight = world.clock() // DAY * DAY
    for hour in range(12):
        world.report("1", midnight + hour * HOUR)
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    asked = {
        "customer": world.customer["id"],
        "start_time": midnight,
        "end_time": midnight + DAY,
        "value_grouping_window": "hour",
    }
    first = world.api.get(path, asked)
    rest = world.api.get(path, {**asked, "starting_after": first["data"][-1]["id"]})
    assert (len(first["data"]), first["has_more"]) == (10, True)
    assert [row["start_time"] for row in rest["data"]] == [midnight + HOUR, midnight]


@pytest.mark.parametrize(
    "change",
    [
        {"start_time": 61},
        {"end_time": 7201},
        {"start_time": 60, "value_grouping_window": "hour"},
        {"start_time": 3600, "value_grouping_window": "day"},
        {"start_time": 7200},
        {"customer": "cus_nobody"},
        {"value_grouping_window": "minute"},
    ],
)
def test_summaries_that_are_refused(world: World, change: dict[str, Any]) -> None:
    asked = {"customer": world.customer["id"], "start_time": 0, "end_time": 7200, **change}
    path = f"billing/meters/{world.meter['id']}/event_summaries"
    assert world.api.error("GET", path, asked)["status"] == 400


def test_summaries_lag(world: World, stripe: StripeSandbox, clock: ManualClock) -> None:
    stripe.change_settings(aggregation_delay=60)
    world.report("1")
    assert total(world) == 0
    clock.advance(60)
    assert total(world) == 1


@pytest.mark.parametrize(("formula", "expected"), [("sum", 9), ("count", 3), ("last", 2)])
def test_formulas(stripe: StripeSandbox, clock: ManualClock, formula: str, expected: int) -> None:
    world = World(stripe, clock, formula)
    now = clock()
    world.report("4", now - 20)
    world.report("2", now - 10)
    world.report("3", now - 30)
    assert total(world) == expected


def test_two_values_with_one_stamp_are_told_of_and_the_later_receipt_does_not_win(
    stripe: StripeSandbox, clock: ManualClock
) -> None:
    world = World(stripe, clock, "last")
    world.report("4")
    assert stripe.meters.ties() == []
    world.report("2")
    assert total(world) == 4
    assert stripe.meters.ties() == [(world.customer["id"], clock())]


def test_hours_of_last_are_the_last_value_of_each(stripe: StripeSandbox, clock: ManualClock) -> None:
    world = World(stripe, clock, "last")
    hour = clock() // HOUR * HOUR - 2 * HOUR
    for value, stamp in (("4", hour + 20), ("9", hour + 10), ("2", hour + HOUR)):
        world.report(value, stamp)
    assert summaries(world, hour, hour + 3 * HOUR, value_grouping_window="hour") == [
        (hour + HOUR, 2),
        (hour, 4),
    ]


def test_an_event_time_window_keeps_the_event_received_last(world: World) -> None:
    world.meter = world.new_meter("m2", event_time_window="hour")
    hour = world.clock() // HOUR * HOUR
    world.report("5", hour + 50, event_name="m2")
    world.report("3", hour + 10, event_name="m2")
    world.report("7", hour - 10, event_name="m2")
    assert summaries(world, hour - HOUR, hour + HOUR, value_grouping_window="hour") == [
        (hour, 3),
        (hour - HOUR, 7),
    ]


def test_an_adjustment_takes_an_event_back_within_a_day(world: World, clock: ManualClock) -> None:
    world.report("5", identifier="i1")
    world.report("3", identifier="i2")
    path = "billing/meter_event_adjustments"
    cancel = {"event_name": "m1", "type": "cancel", "cancel": {"identifier": "i1"}}
    assert world.api.post(path, cancel)["status"] == "complete"
    assert [event.identifier for event in world.stripe.meters.accepted()] == ["i2"]
    assert total(world) == 3
    nothing = {**cancel, "cancel": {"identifier": "i9"}}
    assert world.api.error("POST", path, nothing)["code"] == "resource_missing"
    clock.advance(DAY)
    late = {**cancel, "cancel": {"identifier": "i2"}}
    assert world.api.error("POST", path, late)["status"] == 400
