"""Trials that end in a pause, and schedules that change prices at a renewal."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from sandbox.stripe.undocumented import Undocumented
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.direct import ACACIA, DAY, Json, World, end_of


def trial(world: World, then: str) -> Json:
    settings = {"end_behavior": {"missing_payment_method": then}}
    return world.subscribe(trial_period_days=10, trial_settings=settings)


def kinds(world: World) -> list[str]:
    return [event["type"] for event in world.api.get("events", {"limit": 100})["data"]]


def paused(world: World) -> Json:
    subscription = trial(world, "pause")
    world.report("5")
    world.finish(subscription["trial_end"])
    return world.subscription(subscription)


def test_a_trial_without_payment_method_ends_in_a_pause_and_makes_no_invoice(world: World) -> None:
    before = trial(world, "pause")
    assert before["trial_settings"]["end_behavior"] == {"missing_payment_method": "pause"}
    invoices = len(world.invoices())
    world.finish(before["trial_end"])
    assert kinds(world)[:2] == ["customer.subscription.paused", "customer.subscription.updated"]
    world.finish(before["trial_end"] + 70 * DAY)
    after = world.subscription(before)

    assert (before["status"], after["status"]) == ("trialing", "paused")
    assert end_of(after) == end_of(before)
    assert len(world.invoices()) == invoices
    assert [row["id"] for row in world.api.get("subscriptions")["data"]] == [before["id"]]
    assert object_errors("subscription", after) == []


def test_it_may_be_canceled_instead(world: World) -> None:
    subscription = trial(world, "cancel")
    world.finish(subscription["trial_end"])

    assert world.subscription(subscription)["status"] == "canceled"


@pytest.mark.parametrize("anchor", ["now", "unchanged"])
def test_usage_of_a_pause_is_never_billed(world: World, clock: ManualClock, anchor: str) -> None:
    subscription = paused(world)
    world.report("20")
    world.to(subscription["trial_end"] + 40 * DAY)
    world.report("300", clock() - 1)
    path = f"subscriptions/{subscription['id']}/resume"
    resumed = world.api.post(path, {"billing_cycle_anchor": anchor})
    assert kinds(world)[0] == "customer.subscription.resumed"
    world.report("4000")
    world.finish(end_of(resumed))

    start = resumed["items"]["data"][0]["current_period_start"]
    assert resumed["status"] == "active"
    assert (start == subscription["trial_end"] + 40 * DAY) is (anchor == "now")
    assert world.lines(world.invoices()[0])[0]["quantity_decimal"] == "4000"
    assert request_errors("POST", "/v1/" + path, {"billing_cycle_anchor": anchor}) == []


def test_only_a_pause_can_be_resumed(world: World) -> None:
    subscription = world.subscribe()
    error = world.api.error("POST", f"subscriptions/{subscription['id']}/resume")
    assert error["status"] == 400


def scheduled(world: World, *prices: Json) -> tuple[Json, Json]:
    """A subscription whose prices become others at its first renewal."""
    subscription = world.subscribe()
    schedule = world.api.post("subscription_schedules", {"from_subscription": subscription["id"]})
    phases: list[dict[str, Any]] = [
        {
            "start_date": schedule["phases"][0]["start_date"],
            "end_date": schedule["phases"][0]["end_date"],
            "items": [{"price": world.price["id"]}],
        },
        {
            "end_date": schedule["phases"][0]["end_date"] + 28 * DAY,
            "items": [{"price": price["id"]} for price in prices],
        },
    ]
    path = f"subscription_schedules/{schedule['id']}"
    asked = {"phases": phases, "proration_behavior": "none"}
    schedule = world.api.post(path, asked)
    assert object_errors("subscription_schedule", schedule) == []
    return subscription, schedule


@pytest.mark.parametrize("replaces", [False, True])
def test_a_schedule_changes_the_price_at_the_renewal(
    world: World, stripe: StripeSandbox, *, replaces: bool
) -> None:
    stripe.change_settings(undocumented=Undocumented(schedule_replaces_items=replaces))
    dearer = world.new_price("20")
    subscription, schedule = scheduled(world, dearer)
    assert world.subscription(subscription)["schedule"] == schedule["id"]
    world.report("5")
    world.to(end_of(subscription))
    world.report("7")
    renewed = world.subscription(subscription)

    [old], [new] = subscription["items"]["data"], renewed["items"]["data"]
    assert new["price"]["id"] == dearer["id"]
    assert (new["id"] == old["id"]) is not replaces
    assert new["current_period_start"] == old["current_period_end"]
    [event] = world.api.get("events", {"type": "customer.subscription.updated", "limit": 1})["data"]
    assert event["data"]["previous_attributes"]["items"]["data"][0]["price"]["id"] == world.price["id"]
    world.finish(end_of(subscription))
    world.finish(end_of(renewed))
    billed = world.billed(subscription)
    assert (billed[world.price["id"]].removeprefix("0+"), billed[dearer["id"]]) == ("5", "7")
    assert world.subscription(subscription)["schedule"] is None
    assert world.api.get(f"subscription_schedules/{schedule['id']}")["status"] == "released"


def test_a_released_schedule_changes_nothing(world: World) -> None:
    dearer = world.new_price("20")
    subscription, schedule = scheduled(world, dearer)
    released = world.api.post(f"subscription_schedules/{schedule['id']}/release")
    assert (released["status"], released["subscription"]) == ("released", None)
    world.finish(end_of(subscription))

    [item] = world.subscription(subscription)["items"]["data"]
    assert item["price"]["id"] == world.price["id"]


@pytest.mark.parametrize(
    "change",
    [
        {"start_date": 5},
        {"end_date": 1},
        {"items": [{"price": "price_unknown"}]},
        {"items": []},
        {"trial": True},
    ],
)
def test_phases_that_do_not_fit_are_refused(world: World, change: dict[str, Any]) -> None:
    subscription, schedule = scheduled(world, world.new_price("20"))
    phase = schedule["phases"][0]
    row = {
        "start_date": phase["start_date"],
        "end_date": phase["end_date"],
        "items": [{"price": world.price["id"]}],
        **change,
    }
    error = world.api.error("POST", f"subscription_schedules/{schedule['id']}", {"phases": [row]})
    assert error["status"] == 400
    assert world.api.error("POST", "subscription_schedules", {})["status"] == 400
    again = {"from_subscription": subscription["id"]}
    assert world.api.error("POST", "subscription_schedules", again)["status"] == 400


def migrating(world: World, *, version: str = ACACIA, **phase: Any) -> tuple[Json, Any]:
    """A subscription on a legacy price, and the answer to a schedule that puts another one in its place."""
    legacy = world.legacy_price()
    items = [{"price": legacy["id"], "metadata": {"a": "1", "b": "2"}}]
    made = world.subscribe(legacy, version=ACACIA, items=items)
    subscription = world.subscription(made)
    schedule = world.api.post(
        "subscription_schedules", {"from_subscription": subscription["id"]}, version=ACACIA
    )
    [running] = schedule["phases"]
    item = {"price": world.price["id"], "metadata": {"om_usage_since": "5", "b": ""}}
    phases = [
        {
            "start_date": running["start_date"],
            "end_date": running["end_date"],
            "items": [{"price": legacy["id"]}],
        },
        {"items": [item], **(phase or {"iterations": 1})},
    ]
    path = f"subscription_schedules/{schedule['id']}"
    return subscription, world.api.request("POST", path, {"phases": phases}, version=version)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_legacy_price_is_billed_to_its_end_when_one_with_a_meter_follows(
    world: World, stripe: StripeSandbox, *, replaces: bool
) -> None:
    stripe.change_settings(undocumented=Undocumented(schedule_replaces_items=replaces))
    subscription, answer = migrating(world)
    assert answer.status == 200
    [old], end = subscription["items"]["data"], end_of(subscription)
    record = {"quantity": 7, "timestamp": subscription["created"] + 1, "action": "set"}
    world.api.post(f"subscription_items/{old['id']}/usage_records", record, version=ACACIA)
    world.report("100")  # of a customer who has no price on the meter yet
    world.to(end)
    world.report("5")
    renewed = world.subscription(subscription)

    [new] = renewed["items"]["data"]
    assert (new["id"] == old["id"], new["current_period_start"]) == (not replaces, end)
    assert new["metadata"] == ({} if replaces else {"a": "1"}) | {"om_usage_since": "5"}
    assert world.lines(world.invoices(subscription=subscription["id"])[0])[0]["quantity_decimal"] == "7"
    world.finish(end_of(renewed))
    assert world.lines(world.invoices(subscription=subscription["id"])[0])[0]["quantity_decimal"] == "5"


def test_a_phase_with_a_legacy_price_needs_a_version_that_knows_it(world: World) -> None:
    """Removes legacy usage-based billing (2025-03-31.basil)."""
    subscription, answer = migrating(world, version="2025-03-31.basil", end_date=2**31)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "phases[0][items][price]")

    again = {"from_subscription": subscription["id"]}
    assert world.api.error("POST", "subscription_schedules", again)["status"] == 400


@pytest.mark.parametrize(
    ("phase", "param"),
    [
        ({"iterations": 1, "end_date": 2**31}, "phases[1][iterations]"),
        ({"iterations": 1, "currency": "eur"}, "phases[1][currency]"),
        ({"iterations": 0}, "phases[1][iterations]"),
    ],
)
def test_lengths_and_currencies_that_cannot_be(world: World, phase: Json, param: str) -> None:
    _, answer = migrating(world, **phase)

    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
