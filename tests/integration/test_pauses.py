"""A subscription is paused in mid-period, however long: what is used in the pause is billed to nobody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pytest

from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.renewals import DELETED, UPDATED

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
PAUSED = START + 2 * HOUR + 9 * MINUTE
NOT_BILLED = ("Unbillable", "Late")


def ticks(world: World, instants: Iterable[int]) -> None:
    for instant in instants:
        world.travel(instant)
        world.tick()


def begun(world: World, formula: str) -> tuple[str, str]:
    """A subscription and its customer; one unit is reported of it, and two more are not when it is paused."""
    world.clock.set(START)
    price, _ = world.metered_price(formula=formula)
    customer = world.customer()
    subscription = world.client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": price, "metadata": {"om_meter_id": "m1"}}],
            "billing_mode": {"type": "flexible"},
        }
    )
    world.listen(enabled_events=[UPDATED, DELETED])
    world.use(customer, START + HOUR, 1)
    ticks(world, [START + 2 * HOUR])
    world.use(customer, START + 2 * HOUR + MINUTE, 2)
    world.travel(PAUSED)
    pause(world)
    return str(subscription.id), customer


def pause(world: World) -> None:
    """Stripe bills at once what it holds. Newer API versions can do so, whichever one we are pinned to."""
    [row] = world.stripe.account.subscriptions
    before = world.stripe.events.render(row)
    [item] = row.items
    invoices = world.stripe.books.invoices
    line = invoices.metered_line(row, item, world.clock())
    invoices.draft(row, [line], "subscription_update", period_start=item.usage_from, at_once=True)
    row.status = "paused"
    world.stripe.events.emit("customer.subscription.updated", row, before)
    world.stripe.run_due()


def resume(
    world: World, subscription: str, at: int, anchor: Literal["now", "unchanged"] = "unchanged"
) -> None:
    world.travel(at)
    world.client.v1.subscriptions.resume(subscription, {"billing_cycle_anchor": anchor})
    world.stripe.run_due()


@pytest.mark.parametrize("formula", ["sum", "last"])
@pytest.mark.parametrize("webhooks", ["told", "lost", "reversed"])
def test_a_pause_that_is_over_in_the_same_period(
    world: World, counted: dict[str, float], formula: str, webhooks: str
) -> None:
    subscription, customer = begun(world, formula)
    if webhooks == "told":
        world.deliver()
    world.use(customer, START + 2 * HOUR + 20 * MINUTE, 100)
    resumed = START + 2 * HOUR + 50 * MINUTE
    resume(world, subscription, resumed)
    if webhooks != "lost":
        world.inbox.reverse()
        world.deliver()
    world.inbox.clear()
    world.use(customer, resumed + MINUTE, 1000)
    ticks(world, [START + 4 * HOUR, START + 10 * HOUR, END - 10 * MINUTE, END + 16, END + 2 * HOUR])

    assert [units for _, units, status in world.billed(subscription) if status != "draft"] == [1, 1000]
    assert {name: counted.get(name, 0) for name in NOT_BILLED} == {"Unbillable": 2, "Late": 0}


@pytest.mark.parametrize("formula", ["sum", "last"])
@pytest.mark.parametrize("late", [2 * HOUR, 10 * DAY])
def test_a_pause_that_outlasts_its_period(
    world: World, counted: dict[str, float], formula: str, late: int
) -> None:
    subscription, customer = begun(world, formula)
    world.deliver()
    world.use(customer, END - 5 * DAY, 100)
    ticks(world, range(START + DAY, END, 2 * DAY))
    resumed = END + late
    ticks(world, range(END + HOUR, resumed, DAY))
    world.use(customer, resumed - HOUR, 200)
    resume(world, subscription, resumed)
    world.deliver()
    world.use(customer, resumed + MINUTE, 1000)
    ticks(world, range(resumed + HOUR, resumed + 5 * HOUR, HOUR))

    assert world.held(customer, START + 3 * HOUR, resumed) == 0
    assert world.held(customer, resumed, resumed + 5 * HOUR) == 1000
    assert {name: counted.get(name, 0) for name in NOT_BILLED} == {"Unbillable": 2, "Late": 0}


@pytest.mark.parametrize(("formula", "outage"), [("last", 0), ("sum", 30 * HOUR)])
def test_a_pause_that_ends_with_a_new_period_of_which_no_webhook_tells(
    world: World, formula: str, outage: int
) -> None:
    subscription, customer = begun(world, formula)
    world.deliver()
    ticks(world, [START + 3 * HOUR])
    resumed = START + 4 * HOUR + 10 * MINUTE
    resume(world, subscription, resumed, "now")
    world.inbox.clear()
    world.use(customer, resumed + 5 * MINUTE, 1000)
    ticks(world, [resumed + outage + HOUR, resumed + outage + 2 * HOUR])

    assert world.held(customer, resumed, resumed + 31 * DAY) == 1000


def test_a_subscription_that_is_canceled_in_a_pause(world: World, counted: dict[str, float]) -> None:
    subscription, customer = begun(world, "sum")
    world.deliver()
    world.use(customer, START + 5 * HOUR, 100)
    ticks(world, [START + 6 * HOUR, START + 10 * HOUR])
    world.client.v1.subscriptions.cancel(subscription)
    world.stripe.run_due()
    world.deliver()
    ticks(world, [START + 12 * HOUR])

    assert world.held(customer, 0, END) == 1
    assert {name: counted.get(name, 0) for name in NOT_BILLED} == {"Unbillable": 2, "Late": 0}
