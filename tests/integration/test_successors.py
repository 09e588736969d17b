"""Legacy prices that have a successor: its meter holds their usage beside the records, and then bills it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from sandbox.stripe.undocumented import Undocumented
from tests.integration.test_legacy import ACACIA, legacy_subscription
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.model import Status

START = NOON - 22 * MINUTE - 18
"""11:37:42"""
END = START + 31 * DAY
SECOND_END = END + 31 * DAY
REPLACING = Undocumented(schedule_replaces_items=True)
CUT = (END - 30 * MINUTE) // MINUTE * MINUTE
"""Up to where the record of the first period goes."""


def with_successor(world: World) -> tuple[str, str, str, str]:
    """A subscription on a legacy price since 11:37:42, and the price that is to follow it."""
    world.clock.set(START)
    subscription, item, customer = legacy_subscription(world)
    successor, _ = world.metered_price()
    name_successor(world, subscription, successor)
    return subscription, item, customer, successor


def name_successor(world: World, subscription: str, successor: str) -> None:
    price = world.client.v1.subscriptions.retrieve(subscription)["items"].data[0].price.id
    world.client.v1.prices.update(price, {"metadata": {"om_successor_price": successor}})


def switch(world: World, subscription: str, successor: str, since: int = CUT) -> None:
    """Let a schedule put the successor in the legacy price's place at the renewal."""
    schedules: Any = world.client.v1.subscription_schedules
    made = schedules.create({"from_subscription": subscription}, ACACIA)
    [running] = made.phases
    metadata = {"om_meter_id": "m1", "om_usage_since": str(since)}
    phases = [
        {
            "start_date": running.start_date,
            "end_date": running.end_date,
            "items": [{"price": running["items"][0].price}],
        },
        {"items": [{"price": successor, "metadata": metadata}], "iterations": 1},
    ]
    schedules.update(made.id, {"phases": phases}, ACACIA)


def use_around(world: World, customer: str, end: int) -> None:
    """1 before the record's end, 10 and 20 in the half hour after it, 100 after the renewal."""
    cut = (end - 30 * MINUTE) // MINUTE * MINUTE
    for at, units in ((cut - 1, 1), (cut, 10), (end - 1, 20), (end, 100)):
        world.use(customer, at, units)


def renew(world: World, end: int) -> None:
    """The ticks around a renewal, until its invoice is final."""
    for minutes, scope in ((-25, "closing"), (24, "all"), (50, "closing")):
        world.travel(end + minutes * MINUTE)
        world.tick(scope)
    world.travel(end + HOUR + 20)


def test_after_the_switch_the_half_hour_is_in_the_first_invoice(world: World) -> None:
    subscription, item, customer, successor = with_successor(world)
    use_around(world, customer, END)
    use_around(world, customer, SECOND_END)
    switch(world, subscription, successor)
    renew(world, END)
    renew(world, SECOND_END)

    assert [units for _, units, _ in world.billed(subscription)][-2:] == [1, 161]
    assert world.usage_records(item) == {START + 1: 1}


@pytest.mark.parametrize("replaces", [True, False])
def test_a_late_event_from_before_the_switch_is_late_once_and_billed_on_neither(
    world: World, counted: dict[str, float], *, replaces: bool
) -> None:
    world.stripe.change_settings(undocumented=Undocumented(schedule_replaces_items=replaces))
    subscription, _, customer, successor = with_successor(world)
    use_around(world, customer, END)
    switch(world, subscription, successor)
    world.travel(END - 25 * MINUTE)
    world.tick()
    world.travel(END + 10 * MINUTE)
    world.use(customer, CUT - 2, 7)
    for minutes, scope in ((20, "closing"), (30, "all"), (45, "closing"), (90, "all")):
        world.travel(END + minutes * MINUTE)
        world.tick(scope)

    assert [units for _, units, _ in world.billed(subscription)][-1] == 1
    assert world.held(customer, START, END) == 8
    assert world.held(customer, END, SECOND_END) == 130
    assert (counted["Late"], counted.get("Unbillable", 0)) == (7, 0)


@pytest.mark.parametrize("broken", ["price_unknown", "itself", "archived"])
def test_whatever_is_wrong_with_the_successor_stops_no_record_and_no_alarm_hears_it(
    world: World, counted: dict[str, float], broken: str
) -> None:
    subscription, item, customer, successor = with_successor(world)
    if broken == "archived":
        meter = world.client.v1.prices.retrieve(successor).recurring.meter
        world.client.v1.billing.meters.deactivate(meter)
    else:
        legacy = world.client.v1.subscriptions.retrieve(subscription)["items"].data[0].price.id
        name_successor(world, subscription, legacy if broken == "itself" else broken)
    world.use(customer, START + MINUTE, 5)
    world.travel(START + 2 * HOUR)

    assert world.tick()["failures"] == 0

    assert world.usage_records(item) == {START + 1: 5}
    assert counted["Reported"] == counted["BesideUndelivered"] == 1
    assert not {"Refused", "Held", "Rejected"} & counted.keys()


def test_usage_of_somebody_else_on_the_meter_holds_the_mirror_alone(
    world: World, counted: dict[str, float]
) -> None:
    _, item, customer, _ = with_successor(world)
    world.travel(START + HOUR)
    payload = {"stripe_customer_id": customer, "value": "3"}
    world.client.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload})
    world.use(customer, START + MINUTE, 5)
    world.travel(START + 2 * HOUR)
    world.tick()

    assert world.usage_records(item) == {START + 1: 5}
    assert (counted["BesideUndelivered"], counted.get("Held", 0)) == (1, 0)
    held = [report for report in world.report_all() if report.customer_meter.is_beside]
    assert [report.status for report in held] == [Status.HELD]


@pytest.mark.parametrize(
    ("since", "why"),
    [(END + 60, "after its period began"), (END - 36 * DAY, "more than 35 days before")],
)
def test_an_instant_that_cannot_be_is_refused(world: World, since: int, why: str) -> None:
    world.stripe.change_settings(undocumented=REPLACING)
    subscription, _, _, successor = with_successor(world)
    switch(world, subscription, successor, since)
    world.travel(END + HOUR)

    [report] = world.report_all()

    assert report.status is Status.REFUSED
    assert why in report.reason


def test_a_subscription_billed_on_the_meter_already_is_not_disturbed(world: World) -> None:
    """Two subscriptions share a meter's usage: that of the one that is billed is cut where it ends."""
    subscription, _, customer, successor = with_successor(world)
    billed = str(world.subscription(successor, customer).id)
    use_around(world, customer, END)
    renew(world, END)

    assert world.billed(billed)[-1][1] == Decimal(31)
    assert world.billed(subscription)[-1][1] == Decimal(1)


def test_a_stripe_that_takes_no_meter_events_gives_no_page_back(
    world: World, counted: dict[str, float]
) -> None:
    """The next tick repeats what is open; a page that fails thrice is a dead letter, which wakes one."""
    _, item, customer, _ = with_successor(world)
    world.use(customer, START + MINUTE, 5)
    world.travel(START + 2 * HOUR)
    world.stripe.faults.add("status", "POST", "/v1/billing/meter_events", status=503, times=None)

    assert world.tick()["failures"] == 0

    assert (counted["BesideUndelivered"], counted.get("Unknown", 0)) == (1, 0)
    assert world.usage_records(item) == {START + 1: 5}
    world.stripe.faults.clear()
    world.travel(START + 3 * HOUR)
    world.tick()
    assert world.held(customer, START, END) == 5


def test_the_daily_line_names_a_difference_beside_a_record_and_no_alarm_hears_it(
    world: World, counted: dict[str, float]
) -> None:
    _, _, customer, _ = with_successor(world)
    world.use(customer, START + 2 * HOUR, 5)
    world.travel(START + 4 * HOUR)
    world.tick()
    payload = {"stripe_customer_id": customer, "value": "3"}
    event = {"event_name": "tokens", "payload": payload, "timestamp": START + 2 * HOUR}
    world.client.v1.billing.meter_events.create(event)
    world.travel(NOON + 18 * HOUR)

    world.tick("reconcile")

    assert (counted["ReconciledDiffering"], counted["ReconciledDrift"]) == (1, 0)
