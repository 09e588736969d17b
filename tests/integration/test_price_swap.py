"""A price swapped in mid-period: each price bills its own days, and what cannot be billed is counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
DAY_16 = NOON + 15 * DAY


def subscribed(world: World) -> tuple[str, str, str, str, str]:
    """A subscription on the old price, and a new price on the same meter."""
    world.clock.set(START)
    old, meter = world.metered_price()
    product = world.client.v1.products.create({"name": "dearer"}).id
    new = world.client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 20,
            "product": product,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
            "metadata": {"om_meter_id": "m1"},
        }
    ).id
    subscription = world.subscription(old, billing_mode={"type": "flexible"})
    item = subscription["items"].data[0].id
    return subscription.id, item, old, new, str(subscription.customer)


def swap(world: World, subscription: str, item: str, new: str, how: str) -> None:
    items: Any = (
        [{"id": item, "price": new}]
        if how == "in place"
        else [{"id": item, "deleted": True}, {"price": new, "metadata": {"om_meter_id": "m1"}}]
    )
    world.client.v1.subscriptions.update(subscription, {"items": items})


def billed_by_price(world: World, subscription: str) -> dict[str, Decimal]:
    world.tick()
    world.travel(END + 50 * MINUTE)
    world.tick("closing")
    world.travel(END + 2 * HOUR)
    total: dict[str, Decimal] = {}
    for price, quantity, _ in world.billed(subscription):
        total[price] = total.get(price, Decimal(0)) + quantity
    return total


@pytest.mark.parametrize("how", ["in place", "removed and added"])
def test_a_minute_after_a_report_each_price_bills_its_own_days(world: World, how: str) -> None:
    subscription, item, old, new, customer = subscribed(world)
    for day in range(1, 15):
        world.use(customer, START + day * DAY, 1)
    world.use(customer, DAY_16 + 20 * MINUTE, 100)
    world.travel(DAY_16 + 30 * MINUTE)
    world.tick()
    world.travel(DAY_16 + 31 * MINUTE)
    swap(world, subscription, item, new, how)
    world.use(customer, DAY_16 + 40 * MINUTE, 1000)
    world.travel(DAY_16 + 62 * MINUTE)
    world.tick()
    world.use(customer, END - 1, 10_000)
    world.use(customer, END, 7)
    world.travel(END + 16)

    assert billed_by_price(world, subscription) == {old: 114, new: 11_000}


@pytest.mark.parametrize("how", ["in place", "removed and added"])
@pytest.mark.parametrize("minute", [2, 20])
def test_forty_minutes_after_the_last_report_no_unit_is_lost_sight_of(
    world: World, how: str, minute: int
) -> None:
    subscription, item, old, new, customer = subscribed(world)
    world.use(customer, DAY_16 - 2 * HOUR, 1)
    world.travel(DAY_16 + minute * MINUTE)
    world.tick()
    world.use(customer, DAY_16 + (minute + 20) * MINUTE, 100)
    world.travel(DAY_16 + (minute + 40) * MINUTE)
    swap(world, subscription, item, new, how)
    world.use(customer, DAY_16 + 65 * MINUTE, 1000)
    unbillable = Decimal(0)
    for minutes in (62, 75, 122, 182):
        world.travel(DAY_16 + minutes * MINUTE)
        unbillable += sum((report.unbillable for report in world.report_all()), Decimal(0))
    world.travel(END + 16)

    billed = billed_by_price(world, subscription)

    assert billed[old] == 1
    assert billed[new] + unbillable == 1100
    if how == "in place" and minute == 2:
        # The swap's hour was not over: Stripe's events tell when it was, and the rest went to the new price.
        assert unbillable == 0


def test_a_swap_just_before_the_tick_leaves_the_rest_of_the_hour_unbillable(world: World) -> None:
    subscription, item, old, new, customer = subscribed(world)
    world.use(customer, DAY_16 - 2 * HOUR, 1)
    world.travel(DAY_16 + 2 * MINUTE)
    world.tick()
    world.use(customer, DAY_16 + 50 * MINUTE, 100)
    world.travel(DAY_16 + 61 * MINUTE)
    swap(world, subscription, item, new, "in place")
    world.travel(DAY_16 + 62 * MINUTE)

    reports = world.report_all()
    again = world.report_all()

    assert [report.unbillable for report in reports] == [100]
    assert [report.unbillable for report in again] == [0]
    world.travel(END + 16)
    assert billed_by_price(world, subscription) == {old: 1, new: 0}


def test_swapped_and_swapped_back(world: World) -> None:
    subscription, item, old, new, customer = subscribed(world)
    world.use(customer, START + HOUR, 1)
    for day, price in ((5, new), (10, old)):
        world.travel(START + day * DAY)
        world.tick()
        swap(world, subscription, item, price, "in place")
        world.travel(START + day * DAY + 2 * HOUR)
        world.tick()
        world.use(customer, START + day * DAY + 3 * HOUR, 10**day)
    world.travel(END + 16)

    billed = billed_by_price(world, subscription)

    assert billed == {old: 1 + 10**10, new: 10**5}


def test_a_look_at_a_draft_after_a_swap_sends_nothing_of_the_running_period_and_hides_no_swap(
    world: World,
) -> None:
    subscription, item, _, new, customer = subscribed(world)
    world.travel(END + MINUTE)
    world.tick()
    world.use(customer, END + 2 * MINUTE, 100)
    world.travel(END + 5 * MINUTE)
    swap(world, subscription, item, new, "in place")
    world.use(customer, END + 6 * MINUTE, 7)
    world.travel(END + 12 * MINUTE)
    world.tick("closing")

    assert world.meter_events(customer) == []

    world.use(customer, END + HOUR, 3)
    world.travel(END + 3 * HOUR)
    world.tick()
    # What was used in the hour of the swap goes to the new price; nothing later is counted as lost.
    assert [event["value"] for event in world.meter_events(customer)] == [107, 3]
